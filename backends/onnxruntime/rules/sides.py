"""On which side of a product a rounded activation is read: ONNX Runtime wants uint8 on the left, int8 on the right."""

from __future__ import annotations

import onnx_ir as ir

from ....passes.edit import is_constant, is_op

#: What integers may go through on the way to a product of two activations.
VIEWS = ("Expand", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def only_right(value: ir.Value) -> bool:
    """Whether products with computed left sides read a value as their right side, and nothing else reads it."""
    waiting, met, found = [value], {value}, False
    while waiting:
        value = waiting.pop()
        if value.is_graph_output():
            return False
        for node, index in value.uses():
            if is_op(node, "MatMul") and index == 1 and not _stored(node.inputs[0]):
                found = True
            elif is_op(node, *VIEWS) and index == 0:
                waiting += [output for output in node.outputs if output not in met]
                met.update(node.outputs)
            else:
                return False
    return found


def _stored(value: ir.Value | None) -> bool:
    """Whether a side is a weight, dequantized or not."""
    while value is not None and is_op(node := value.producer(), *VIEWS, "DequantizeLinear"):
        value = node.inputs[0]
    return is_constant(value)
