"""What a program of ours says about the model that it was made from.

torch.export keeps `module.meta["custom"]`, and torch.export.save writes it. There we note the model without its
weights (as ONNX, each weight a reference to the parameter that it is) and a digest of the program's graph. A program
whose graph still has that digest is the model again, with the weights that the program has now; one that was edited
since, or whose note cannot be read, is traced like any other. Of weights that were packed beforehand
(`kernels/packed.py`) the note says how they are unpacked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import onnx
import onnx_ir as oir
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]
from torch import fx

from ..dtypes import to_numpy
from ..kernels.bits import FIELDS, planes, unpack
from .body import Sources
from .model import is_ours, written
from .table import UnwritableError

KEY = "tersor"
"""The key of the note in `meta["custom"]`."""

_MOST = 1 << 28
"""A note that unpacks to more bytes than this is none of ours."""


_FEW = 1 << 12
"""A weight of so many bytes may be in the note itself, where the module no longer has it."""


@dataclass(frozen=True)
class Draft:
    """What a module is as an ONNX model, the tensors that its initializers are, and their paths by identity."""

    model: oir.Model
    sources: Sources
    paths: Mapping[int, str]


def draft(module: torch.nn.Module) -> Draft | None:
    """Of a module of `to_fx`; None for other modules and for what has no ONNX form."""
    if not is_ours(module):
        return None
    try:
        model, sources = written(module)
    except UnwritableError:
        return None
    return Draft(model, sources, {id(tensor): path for path, tensor in _tensors(module)})


def note(module: torch.nn.Module, before: Draft | None = None) -> dict[str, object] | None:
    """The note on a module of `to_fx`, still without a digest; None for what has no draft. `before`: the draft of a
    module whose weights were packed since; it serves once."""
    found = before or draft(module)
    if found is None or not isinstance(module, fx.GraphModule):
        return None
    model, tensors = found.model, dict(_tensors(module))
    weights: dict[str, list[str]] = {}
    for value, (tensor, transposed) in found.sources.items():
        path = found.paths.get(id(tensor))
        if path is None:
            continue
        way = [path] if path in tensors else _way(module, tensors, path, tensor)
        if way is None and tensor.nbytes > _FEW:
            return None
        if way is None:
            continue
        weights.setdefault(str(value.name), [*way, *(["transposed"] if transposed else [])])
        held = value.const_value
        assert held is not None
        value.const_value = oir.ExternalTensor(
            way[0], None, None, oir.DataType(held.dtype), name=str(value.name), shape=oir.Shape(held.shape.numpy())
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


def sign(
    program: torch.export.ExportedProgram, module: torch.nn.Module, before: Draft | None = None
) -> torch.export.ExportedProgram:
    """The program, with the note on the module it was made from and a digest: from now on edits are seen."""
    noted, meta = note(module, before), program.graph_module.meta
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
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, binascii.Error, zlib.error, DecodeError):
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
            tensor = tensors[path].detach()
            for step in how:
                tensor = _stepped(tensor, step)
            array = to_numpy(tensor, held.dtype)
            if list(array.shape) != list(held.shape.numpy()) or array.dtype != held.dtype.numpy():
                return None
            value.const_value = oir.Tensor(array, dtype=held.dtype, name=name)
    return model


def _way(
    module: fx.GraphModule, tensors: Mapping[str, torch.Tensor], path: str, wanted: torch.Tensor
) -> list[str] | None:
    """How a weight that the module no longer has is got, to the bit, from one that was made from it: the path of that
    one and what to do with it in turn; None where nothing gives it."""
    made, packed = module.meta.get("made", {}), module.meta.get("packed", {})
    for name in (name for name in made if name in tensors and _root(made, name) == path):
        way, tensor = [name], tensors[name].detach()
        if name in packed:
            way.append(" ".join(("unpack", *(str(int(each)) for each in packed[name]))))
            tensor = _stepped(tensor, way[-1])
        if _same(tensor, wanted):
            return way
        if wanted.dim() == 2 and len(wanted) in FIELDS:
            way.append(f"planes {len(wanted)}")
            if _same(_stepped(tensor, way[-1]), wanted):
                return way
    return None


def _stepped(tensor: torch.Tensor, step: str) -> torch.Tensor:
    """A tensor after one step of such a way. Raises ValueError, KeyError or RuntimeError for what is none."""
    word, *numbers = step.split()
    if word == "transposed":
        return tensor.T
    if word == "unpack":
        bits, size, signed = map(int, numbers)
        return unpack(tensor, bits=bits, size=size, signed=bool(signed))
    (bits,) = map(int, numbers)
    if word != "planes" or bits not in FIELDS:
        raise ValueError(f"no step {step!r}")
    return planes(tensor, bits)


def _root(made: Mapping[str, str], name: str) -> str:
    """The weight that a tensor was made from in the first place."""
    while name in made:
        name = made[name]
    return name


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype is other.dtype and torch.equal(one, other)


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
