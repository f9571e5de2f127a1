"""A module of `to_fx` as an ONNX model, by the tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import onnx_ir as oir
import torch
from onnx_ir.passes.common import ShapeInferencePass
from torch import fx

from ..dtypes import TORCH
from ..scope import Kept
from .body import Names, Sources, Writer

_FLOATS = (oir.DataType.FLOAT, oir.DataType.DOUBLE, oir.DataType.FLOAT16, oir.DataType.BFLOAT16)


def is_ours(module: object) -> TypeGuard[fx.GraphModule]:
    """Whether `to_fx` made the module, or one that it was copied from."""
    return isinstance(module, fx.GraphModule) and isinstance(module.meta.get("onnx"), Kept)


def signature(module: fx.GraphModule) -> list[oir.Value]:
    """The module's inputs as the model had them, of the type that its weights now have where they were cast; one that
    a user added has no type."""
    found, casts = [], _casts(module)
    for node in module.graph.find_nodes(op="placeholder"):
        kind = node.meta.get("onnx_type")
        if isinstance(kind, oir.TensorType) and kind.dtype in casts:
            kind = oir.TensorType(casts[kind.dtype])
        value = oir.Value(name=node.meta.get("onnx_name") or str(node.target), type=kind)
        shape = node.meta.get("onnx_shape")
        value.shape = None if shape is None else shape.copy()
        found.append(value)
    return found


def _casts(module: fx.GraphModule) -> dict[oir.DataType, oir.DataType]:
    """The floating types that all weights declared to have them were cast from, by `module.half()` say, and to what."""
    held = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    now: dict[oir.DataType, set[torch.dtype]] = {}
    for path, (_, declared) in module.meta["stored"].items():
        if path in held and declared in _FLOATS:
            now.setdefault(declared, set()).add(held[path].dtype)
    return {
        declared: dtype
        for declared, found in now.items()
        for dtype in _FLOATS
        if found == {TORCH[dtype]} and dtype is not declared
    }


def written(module: fx.GraphModule) -> tuple[oir.Model, Sources]:
    """The model by the tables alone, and the tensor that each initializer is. Raises UnwritableError."""
    kept: Kept = module.meta["onnx"]
    names, opsets, sources = Names(), dict(kept.opsets), Sources()
    writer = Writer(module, names, opsets, sources)
    inputs = signature(module)
    for node, value in zip(module.graph.find_nodes(op="placeholder"), inputs, strict=True):
        names.take(value, value.name or node.name)
        writer.bind(node, value)
    results = writer.walk()
    known: Sequence[str] = module.meta["outputs"]
    labels = _labels(results, known)
    outputs = [writer.output(value, label) for value, label in zip(results, labels, strict=True)]
    # a pass may have left a weight to be read only in another form
    weights = {v.name or "": v for v in writer.initializers if v.uses() or any(v is result for result in outputs)}
    # an initializer that was an input too, a default that callers may override, is again
    inputs += [weights[name] for name in kept.defaults if name in weights]
    graph = oir.Graph(
        inputs, outputs, nodes=writer.nodes, initializers=list(weights.values()), opset_imports=opsets, name=kept.name
    )
    model = oir.Model(graph, ir_version=kept.ir_version)
    model.metadata_props.update(kept.props)
    if not writer.faithful:
        ShapeInferencePass(check_type=False, strict_mode=False)(model)
    declared = dict(zip(known, kept.outputs, strict=True))
    for value, label in zip(outputs, labels, strict=True):
        if label in declared:
            _declare(value, *declared[label], faithful=writer.faithful)
    return model, sources


def _labels(results: Sequence[oir.Value], known: Sequence[str]) -> list[str]:
    """The names of the outputs: those the model had, in order; where there are more or fewer of them now, a value that
    had one of the names keeps it."""
    if len(results) == len(known):
        return list(known)
    names = [value.name or "" for value in results]
    kept = {name: names.index(name) for name in known if name in names}
    free = iter([name for name in known if name not in kept])
    return [name if kept.get(name) == index else next(free, f"output_{index}") for index, name in enumerate(names)]


def _declare(value: oir.Value, kind: oir.TypeProtocol | None, shape: oir.Shape | None, *, faithful: bool) -> None:
    """An output's type and shape as the model declared them, where the graph still computes that."""
    if value.is_graph_input() or value.is_initializer():
        return
    value.type = value.type or kind
    if shape is not None and value.type == kind and (faithful or value.shape is None):
        value.shape = shape.copy()
