"""What a constant factor passes unchanged on its way to a weight: f(c x) = c f(x).

one number     views, rotations, the values of Attention
[features]     the values of Attention whose heads lie side by side and are as many as the queries'
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ...ir.constants import is_constant
from ...ir.content import dimensions
from ..edit import Tape, attribute, is_op
from .layers import Layer, layer_at

_VIEWS = ("Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze", "RotaryEmbedding")
#: Nodes that are passed in a row, and readers that are asked.
_REACH, _READERS = 8, 32


def above(value: ir.Value, *, one: bool = True, attention: bool = True) -> tuple[ir.Value, list[ir.Node]]:
    """Up from `value` through what carries a factor and nothing else reads: where that ends, and the nodes passed."""
    passed: list[ir.Node] = []
    for _ in range(_REACH):
        node = value.producer()
        index = None if node is None or (node.op_type == "Attention" and not attention) else carried(node, one=one)
        source = None if node is None or index is None else node.inputs[index]
        if node is None or source is None or not _alone(value) or is_constant(source):
            break
        if passed and node.graph is not passed[0].graph:
            break
        passed.append(node)
        value = source
    return value, passed


def below(value: ir.Value, graph: object, *, one: bool) -> list[Layer] | None:
    """The layers that read `value` and what carries it down, all in one graph; None where something else does."""
    found: list[Layer] = []
    waiting, asked = [value], 0
    while waiting:
        value = waiting.pop(0)
        asked += len(value.uses())
        if value.is_graph_output() or asked > _READERS:
            return None
        for node, index in value.uses():
            layer = layer_at(node) if index == 0 and is_op(node, "MatMul", "Gemm", "Conv") else None
            if node.graph is not graph:
                return None
            if isinstance(layer, Layer):
                found.append(layer)
            elif carried(node, one=one) == index:
                waiting.append(node.outputs[0])
            else:
                return None
    return found


def carried(node: ir.Node, *, one: bool) -> int | None:
    """Which input of a node takes a factor to its output."""
    if is_op(node, *_VIEWS):
        return 0 if one else None
    if not is_op(node, "Attention") or any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return None
    past = (*node.inputs, *[None] * 6)[4:6]
    heads = [attribute(node, name, 0) for name in ("q_num_heads", "kv_num_heads")]
    joined = len(dimensions(node.inputs[2]) or ()) == 3 and heads[0] == heads[1] > 0
    return 2 if past == (None, None) and (one or joined) else None


def carry(tape: Tape, value: ir.Value, passed: Sequence[ir.Node], *, one: bool) -> ir.Value:
    """The nodes that `above` passed, done to another value."""
    for node in reversed(passed):
        at = carried(node, one=one)
        inputs = [value if index == at else item for index, item in enumerate(node.inputs)]
        value = tape.node(node.op_type, inputs, dict(node.attributes)).outputs[0]
        value.type, value.shape = node.outputs[0].type, node.outputs[0].shape
    return value


def _alone(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()
