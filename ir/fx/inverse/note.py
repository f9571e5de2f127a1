"""What a program of ours says about the model that it was made from.

torch.export keeps `module.meta["custom"]`, and torch.export.save writes it. There we note the model without its
weights (as ONNX, each weight a reference to the parameter that it is) and a digest of the program's graph. A program
whose graph still has that digest is the model again, with the weights that the program has now; one that was edited
since, or whose note cannot be read, is traced like any other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from typing import cast

import onnx
import onnx_ir as oir
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
from torch import fx

from ..dtypes import to_numpy
from .model import is_ours, written
from .table import UnwritableError

KEY = "tersor"
"""The key of the note in `meta["custom"]`."""

_MOST = 1 << 28
"""A note that unpacks to more bytes than this is none of ours."""


def note(module: torch.nn.Module) -> dict[str, object] | None:
    """The note on a module of `to_fx`, still without a digest; None for other modules and for what has no ONNX form."""
    if not is_ours(module):
        return None
    try:
        model, sources = written(module)
    except UnwritableError:
        return None
    paths = {id(tensor): path for path, tensor in _tensors(module)}
    weights: dict[str, list[str]] = {}
    for value, (tensor, transposed) in sources.items():
        path = paths.get(id(tensor))
        if path is None:
            continue
        weights.setdefault(str(value.name), [path, *(["transposed"] if transposed else [])])
        held = value.const_value
        assert held is not None
        value.const_value = oir.ExternalTensor(
            path, None, None, oir.DataType(held.dtype), name=str(value.name), shape=oir.Shape(held.shape.numpy())
        )
    data = oir.to_proto(model).SerializeToString(deterministic=True)
    return {"model": base64.b85encode(zlib.compress(data)).decode(), "weights": weights}


class Meta(dict[str, object]):
    """The `meta` of a module of ours, with the note under "custom" made when it is asked for: torch.export runs a
    GraphModule node by node, without hooks, and copies `meta["custom"]` then."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module.meta)
        self._module = module

    def __contains__(self, key: object) -> bool:
        return key == "custom" or super().__contains__(key)

    def __getitem__(self, key: str) -> object:
        if key != "custom":
            return super().__getitem__(key)
        noted, others = note(self._module), self.get("custom", {})
        assert isinstance(others, dict)
        return others if noted is None else {**others, KEY: noted}


def sign(program: torch.export.ExportedProgram, module: torch.nn.Module) -> torch.export.ExportedProgram:
    """The program, with the note on the module it was made from and a digest: from now on edits are seen."""
    noted, meta = note(module), program.graph_module.meta
    if noted is not None:
        meta["custom"] = {**meta.get("custom", {}), KEY: {**noted, "digest": digest(program)}}
    return program


def read(program: torch.export.ExportedProgram) -> tuple[oir.Model, str | None] | None:
    """The model that the program was made from, and the digest that it had then; None where nothing is noted."""
    found = program.graph_module.meta.get("custom")
    noted = found.get(KEY) if isinstance(found, dict) else None
    if not isinstance(noted, dict):
        return None
    try:
        model = _filled(noted, program)
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error, DecodeError):
        return None
    signed = noted.get("digest")
    return None if model is None else (model, None if signed is None else str(signed))


def _filled(noted: Mapping[str, object], program: torch.export.ExportedProgram) -> oir.Model | None:
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b85decode(str(noted["model"])), _MOST)
    if unpacker.unconsumed_tail:
        return None
    model: oir.Model = oir.from_proto(onnx.ModelProto.FromString(data))
    tensors = {**program.constants, **program.state_dict}
    weights = cast(Mapping[str, list[str]], noted["weights"])
    for graph in (model.graph, *model.graph.subgraphs()):
        for name, value in graph.initializers.items():
            held = value.const_value
            if not isinstance(held, oir.ExternalTensor):
                continue
            path, *how = weights[name]
            array = to_numpy(tensors[path].T if how else tensors[path], held.dtype)
            if list(array.shape) != list(held.shape.numpy()) or array.dtype != held.dtype.numpy():
                return None
            value.const_value = oir.Tensor(array, dtype=held.dtype, name=name)
    return model


def digest(program: torch.export.ExportedProgram) -> str:
    """A hash of what the program calls, and with what; names, sizes and weights are not in it."""
    lines: list[str] = []
    for path, module in program.graph_module.named_modules():
        if isinstance(module, fx.GraphModule):
            lines += [path, *_lines(module.graph)]
    inputs = [f"{spec.kind} {spec.target}" for spec in program.graph_signature.input_specs]
    return hashlib.sha256("\n".join((*lines, *inputs)).encode()).hexdigest()


def _lines(graph: fx.Graph) -> Iterator[str]:
    places = {node: index for index, node in enumerate(graph.nodes)}

    def spelled(value: object) -> str:
        if isinstance(value, fx.Node):
            return f"%{places[value]}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(spelled, value))}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{key}: {spelled(item)}' for key, item in sorted(value.items()))}}}"
        return str(value)

    for node in graph.nodes:
        target = node.op if node.op == "placeholder" else str(node.target)
        yield f"{node.op} {target} {spelled(node.args)} {spelled(node.kwargs)}"


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
