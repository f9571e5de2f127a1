"""FX -> ONNX: the inverse of `to_fx`, for modules that it made and a user may have edited since.

Each node's op comes from what the node calls and with what (`inverse.py`); what the graph does not say, such as names,
types of packed weights and declared shapes, comes from what `to_fx` noted in `node.meta` and `gm.meta`. Weights are
those that the module has now, on the same memory where they are on the CPU. Inlined functions stay inlined.

Where a node calls something else, torch functions or modules that a user put there, the whole module goes through
torch.export and torch's ONNX exporter (`retrace.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import onnx_ir as oir
from onnx_ir.passes.common import ShapeInferencePass
from torch import fx

from ...errors import ModelError
from ..scope import Kept
from .body import Names, Writer
from .retrace import retraced, signature
from .table import UnwritableError


def is_ours(module: object) -> TypeGuard[fx.GraphModule]:
    """Whether `to_fx` made the module, or one that it was copied from."""
    return isinstance(module, fx.GraphModule) and isinstance(module.meta.get("onnx"), Kept)


def from_fx(module: fx.GraphModule) -> oir.Model:
    """The ONNX model of a module that `to_fx` made, with the module's weights and edits.

    Inputs, outputs, initializers and dynamic dimensions have the names they had, and the opset is the same. Raises
    ModelError for a module of other origin, and for one that neither the tables nor torch's exporter can write.
    """
    if not is_ours(module):
        raise ModelError("this GraphModule was not made by to_fx: load it with example inputs in args")
    try:
        return _written(module)
    except UnwritableError as reason:
        return retraced(module, str(reason))


def _written(module: fx.GraphModule) -> oir.Model:
    kept: Kept = module.meta["onnx"]
    names, opsets = Names(), dict(kept.opsets)
    writer = Writer(module, names, opsets)
    inputs = signature(module)
    for node, value in zip(module.graph.find_nodes(op="placeholder"), inputs, strict=True):
        names.take(value, value.name or node.name)
        writer.bind(node, value)
    results = writer.walk()
    known: Sequence[str] = module.meta["outputs"]
    labels = [known[i] if i < len(known) else f"output_{i}" for i in range(len(results))]
    outputs = [writer.output(value, label) for value, label in zip(results, labels, strict=True)]
    weights = {value.name: value for value in writer.initializers}
    # an initializer that was an input too, a default that callers may override, is again
    inputs += [weights[name] for name in kept.defaults if name in weights]
    graph = oir.Graph(
        inputs, outputs, nodes=writer.nodes, initializers=writer.initializers, opset_imports=opsets, name=kept.name
    )
    model = oir.Model(graph, ir_version=kept.ir_version)
    model.metadata_props.update(kept.props)
    if not writer.faithful:
        ShapeInferencePass(check_type=False, strict_mode=False)(model)
    for value, (kind, shape) in zip(outputs, kept.outputs, strict=False):
        _declare(value, kind, shape, faithful=writer.faithful)
    return model


def _declare(value: oir.Value, kind: oir.TypeProtocol | None, shape: oir.Shape | None, *, faithful: bool) -> None:
    """An output's type and shape as the model declared them, where the graph still computes that."""
    if value.is_graph_input() or value.is_initializer():
        return
    value.type = value.type or kind
    if shape is not None and value.type == kind and (faithful or value.shape is None):
        value.shape = shape.copy()
