"""Reading `.onnx` files without copying their weights.

The file is mapped, not read. Raw weights of at least 4 KiB are cut out of the protobuf bytes before these are parsed
(`skim.py`), and come back as read-only arrays over the mapping; external data is mapped the same way, once per file.
So a model costs the memory of its graph, weights are paged in when touched, and a mapping outlives the renaming or
replacing of its file. Protobuf's limit of 2 GB applies to the graph only.
"""

from __future__ import annotations

import contextlib
import logging
import math
import mmap
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.shape_inference
import onnx.version_converter
import onnx_ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from .errors import ModelError, nearest
from .mapped import released
from .skim import MAPPED_FROM, BrokenError, skim

#: The oldest opset of the standard domain that the compiler knows; what is older is converted when it is read.
OLDEST_OPSET = 7

_SUB_BYTE = frozenset(dtype for dtype in onnx_ir.DataType if dtype.name.endswith(("INT4", "INT2", "E2M1")))

_PICKLE = "a pickle, and pickles are never loaded: export the model to ONNX or .pt2"
_OTHER_FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive (a .pt2 is read under that ending; torch.save and .npz files are not models)"),
    *((0, bytes([0x80, protocol]), _PICKLE) for protocol in (2, 3, 4, 5)),
    (0, b"\x89HDF", "an HDF5 file (Keras): convert it with tf2onnx"),
    (4, b"TFL3", "a TensorFlow Lite file: convert it with tf2onnx"),
    (4, b"ORTM", "an .ort file: give the .onnx file it was made from"),
    (0, b"version https://git-lfs", "a Git LFS pointer, the model itself was not fetched: run git lfs pull"),
    (0, b"<?xml", "XML: for OpenVINO IR, give the .onnx file it was made from"),
    (8, b'{"', "a safetensors file, which holds weights and no graph: give the folder with its config.json"),
)


def read(path: Path) -> onnx_ir.Model:
    """The model in an `.onnx` file, its weights mapped. Raises ModelError for what is no complete ONNX file."""
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty, expected an ONNX model: export or download it again")
    data = memoryview(_mapping(path))
    _sniff(path, bytes(data[:32]))
    token = secrets.token_hex(16)
    proto = onnx.ModelProto()
    try:
        with released(np.frombuffer(data, np.uint8)):
            graph, notes = skim(data, token)
            proto.ParseFromString(graph)
            del graph
    except (DecodeError, BrokenError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{path} is no complete ONNX model: its {len(data)} bytes are truncated, damaged or of another format; "
            "export or download it again"
        ) from error
    if old(proto):
        return from_proto(onnx.load(path), str(path))
    model = from_proto(proto, str(path), _Storage({token: data}, path.parent))
    for node, note in zip(model.graph, notes, strict=True):
        node.metadata_props.update(note)
    return model


def from_proto(proto: onnx.ModelProto, where: str, storage: _Storage | None = None) -> onnx_ir.Model:
    """The model of a protobuf; `where` begins the message of a ModelError.

    One of an opset before OLDEST_OPSET is brought there by ONNX's own version converter, which has it in memory.
    """
    if old(proto):
        proto = _upgraded(proto, where)
    if not proto.HasField("graph"):
        raise ModelError(f"{where} holds no graph: it is truncated, damaged or of another format")
    if proto.graph.sparse_initializer:
        names = ", ".join(item.values.name for item in proto.graph.sparse_initializer)
        raise ModelError(f"{where}: sparse initializers are not read ({names}): store them dense")
    try:
        with _quiet("onnx_ir"):
            model = onnx_ir.from_proto(proto)
    except Exception as error:  # whatever a damaged graph makes onnx_ir stumble over
        raise ModelError(f"{where} is no valid ONNX graph: {_root(error)}") from error
    scopes: list[onnx_ir.Graph | onnx_ir.Function] = [model.graph, *model.functions.values()]
    for scope in scopes:
        _attach(scope, storage or _Storage({}, Path()), where)
    return model


def old(proto: onnx.ModelProto) -> bool:
    """Is the standard domain imported at an opset before OLDEST_OPSET?"""
    return any(item.domain in ("", "ai.onnx") and item.version < OLDEST_OPSET for item in proto.opset_import)


def _upgraded(proto: onnx.ModelProto, where: str) -> onnx.ModelProto:
    found = next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
    try:
        return onnx.version_converter.convert_version(_with_slopes_by_channel(proto), OLDEST_OPSET)
    except Exception as error:  # the converter raises what its C++ part raises
        raise ModelError(
            f"{where}: the model is of opset {found}, opsets from {OLDEST_OPSET} on are read, and ONNX's version "
            f"converter cannot bring it there: {_root(error)}"
        ) from error


def _with_slopes_by_channel(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which the slopes of PRelu, one a channel before opset 7, broadcast as they must from there on.

    ONNX's converter leaves them as they are (tried with onnx 1.23).
    """
    if all(node.op_type != "PRelu" for node in proto.graph.node):
        return proto
    copied = onnx.shape_inference.infer_shapes(proto)
    graph = copied.graph
    ranks = {item.name: len(item.dims) for item in graph.initializer}
    for value in (*graph.input, *graph.value_info):
        if value.type.tensor_type.HasField("shape"):
            ranks[value.name] = len(value.type.tensor_type.shape.dim)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "PRelu" and ranks.get(node.input[1]) == 1 and (rank := ranks.get(node.input[0], 0)) > 2:
            slope = f"{node.output[0]}/slope"
            axes = list(range(1, rank - 1))
            graph.node.append(onnx.helper.make_node("Unsqueeze", [node.input[1]], [slope], axes=axes))
            node.input[1] = slope
        graph.node.append(node)
    return copied


class _Storage:
    """Where the bytes of external tensors are: files in the model's folder, and mappings known by a token."""

    def __init__(self, known: dict[str, memoryview], folder: Path) -> None:
        self._known = known
        self._folder = folder

    def bytes_of(self, tensor: onnx_ir.ExternalTensor) -> memoryview:
        """The bytes of a tensor. Raises ModelError where they are not where the file says."""
        location = os.fspath(tensor.location)
        if location not in self._known:
            self._known[location] = memoryview(_mapping(self._inside(tensor.name, location)))
        data = self._known[location]
        start = tensor.offset or 0
        needed = math.ceil(tensor.size * tensor.dtype.bitwidth / 8)
        length = needed if tensor.length is None else tensor.length
        if length != needed:
            raise ModelError(
                f"weight {tensor.name!r} of {tensor.dtype.name.lower()}{list(tensor.shape)} needs {needed} bytes, "
                f"the file declares {length}"
            )
        if start < 0 or start + length > len(data):
            raise ModelError(
                f"weight {tensor.name!r} is declared at bytes {start} to {start + length} of {location}, "
                f"which is {len(data)} bytes long: the external data is truncated, copy it again"
            )
        return data[start : start + length]

    def _inside(self, name: str, location: str) -> Path:
        if not location:
            raise ModelError(f"weight {name!r} is declared external without a location")
        path = self._folder / location
        home = self._folder.resolve()
        if os.path.isabs(location) or not path.resolve().is_relative_to(home):  # noqa: PTH117 - also of other systems
            raise ModelError(
                f"weight {name!r} has its external data at {location}, outside of the model's folder {home}: "
                "only files in that folder are read, copy it there and save the model again"
            )
        if not path.is_file():
            siblings = [entry.name for entry in home.iterdir()]
            raise ModelError(
                f"weight {name!r} has its external data at {location}, which is missing in {home}: copy it next to "
                f"the model ({nearest(location, siblings)})"
            )
        return path


def _mapping(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _sniff(path: Path, head: bytes) -> None:
    for offset, magic, meaning in _OTHER_FORMATS:
        if head[offset:].startswith(magic):
            raise ModelError(f"{path} is no ONNX model but {meaning}")


def _attach(scope: onnx_ir.Graph | onnx_ir.Function, storage: _Storage, where: str) -> None:
    """Replace the external tensors of a graph or function, and of its subgraphs, by arrays over the mapped bytes."""
    top = scope.graph if isinstance(scope, onnx_ir.Function) else scope
    for graph in (top, *top.subgraphs()):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _attached(value.const_value, storage, where)
        for node in graph:
            for name, attribute in tuple(node.attributes.items()):
                if attribute.is_ref():
                    continue
                if attribute.type == onnx_ir.AttributeType.TENSOR:
                    node.attributes[name] = onnx_ir.AttrTensor(name, _attached(attribute.value, storage, where))
                elif attribute.type == onnx_ir.AttributeType.TENSORS:
                    tensors = [_attached(tensor, storage, where) for tensor in attribute.value]
                    node.attributes[name] = onnx_ir.AttrTensors(name, tensors)


def _attached(tensor: onnx_ir.TensorProtocol, storage: _Storage, where: str) -> onnx_ir.TensorProtocol:
    if isinstance(tensor, onnx_ir.TensorProtoTensor):
        _check_size(tensor, where)
        return tensor if tensor.nbytes >= MAPPED_FROM else _detached(tensor)
    if not isinstance(tensor, onnx_ir.ExternalTensor):
        return tensor
    try:
        data = storage.bytes_of(tensor)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    shape, dtype = tensor.shape, tensor.dtype
    if dtype in _SUB_BYTE:
        return onnx_ir.PackedTensor(np.frombuffer(data, dtype=np.uint8), dtype, shape=shape, name=tensor.name)
    array = np.frombuffer(data, dtype=dtype.numpy().newbyteorder("<")).reshape(shape.numpy())
    return onnx_ir.Tensor(array, dtype=dtype, shape=shape, name=tensor.name)


def _detached(tensor: onnx_ir.TensorProtoTensor) -> onnx_ir.TensorProtocol:
    """The tensor by itself: one that is part of a protobuf keeps all of that in memory."""
    array, notes = tensor.numpy(), dict(tensor.metadata_props)
    return onnx_ir.Tensor(
        array, tensor.dtype, shape=tensor.shape, name=tensor.name, doc_string=tensor.doc_string, metadata_props=notes
    )


def _check_size(tensor: onnx_ir.TensorProtoTensor, where: str) -> None:
    raw = tensor.raw
    if tensor.dtype is onnx_ir.DataType.UNDEFINED:
        raise ModelError(f"{where}: weight {tensor.name!r} has no type")
    needed = math.ceil(tensor.size * tensor.dtype.bitwidth / 8)
    typed = (raw.float_data, raw.double_data, raw.int32_data, raw.int64_data, raw.uint64_data)
    if any(map(len, typed)) or len(raw.raw_data) == needed:
        return
    raise ModelError(
        f"{where}: weight {tensor.name!r} of {tensor.dtype.name.lower()}{list(tensor.shape)} needs {needed} bytes, "
        f"the file holds {len(raw.raw_data)}"
    )


def _root(error: BaseException) -> str:
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    return str(error).splitlines()[0] if str(error) else type(error).__name__


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """What a library logs about an odd model is told by our own errors, in full."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
