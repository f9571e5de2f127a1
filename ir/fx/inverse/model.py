"""A module of `to_fx` as an ONNX model, by the tables alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import onnx_ir as oir
from onnx_ir.passes.common import ShapeInferencePass
from torch import fx

from ..scope import Kept
from .body import Names, Sources, Writer


def is_ours(module: object) -> TypeGuard[fx.GraphModule]:
    """Whether `to_fx` made the module, or one that it was copied from."""
    return isinstance(module, fx.GraphModule) and isinstance(module.meta.get("onnx"), Kept)


def signature(module: fx.GraphModule) -> list[oir.Value]:
    """The module's inputs as the model had them; one that a user added has no type."""
    found = []
    for node in module.graph.find_nodes(op="placeholder"):
        value = oir.Value(name=node.meta.get("onnx_name") or str(node.target), type=node.meta.get("onnx_type"))
        shape = node.meta.get("onnx_shape")
        value.shape = None if shape is None else shape.copy()
        found.append(value)
    return found


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
    labels = [known[i] if i < len(known) else f"output_{i}" for i in range(len(results))]
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
    for value, (kind, shape) in zip(outputs, kept.outputs, strict=False):
        _declare(value, kind, shape, faithful=writer.faithful)
    return model, sources


def _declare(value: oir.Value, kind: oir.TypeProtocol | None, shape: oir.Shape | None, *, faithful: bool) -> None:
    """An output's type and shape as the model declared them, where the graph still computes that."""
    if value.is_graph_input() or value.is_initializer():
        return
    value.type = value.type or kind
    if shape is not None and value.type == kind and (faithful or value.shape is None):
        value.shape = shape.copy()
