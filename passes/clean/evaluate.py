"""One node's results from the arrays that it reads, by ONNX's reference semantics.

What only lays numbers out anew is a view of the array it is given, so that a weight that lies in a file stays there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from ..edit import Array, attribute, integers_of

#: A result from a node and the arrays that it reads; None where the reference is to tell.
Rule: TypeAlias = "Callable[[ir.Node, Sequence[Array | None]], Array | None]"


def evaluate(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> list[Array] | None:
    """The results of a node of ai.onnx, or None where the reference cannot tell."""
    rule = _RULES.get(node.op_type)
    try:
        with np.errstate(all="ignore"):
            found = rule(node, arrays) if rule is not None else None
            made = [found] if found is not None else _by_reference(node, arrays, opset)
    except Exception:  # whatever the reference raises on a node that it cannot run
        return None
    return made if all(isinstance(array, np.ndarray) for array in made) else None


def _by_reference(node: ir.Node, arrays: Sequence[Array | None], opset: int) -> list[Array]:
    inputs = [f"x{index}" if array is not None else "" for index, array in enumerate(arrays)]
    outputs = [f"y{index}" if value.name else "" for index, value in enumerate(node.outputs)]
    proto = onnx.helper.make_node(node.op_type, inputs, outputs)
    proto.attribute.extend(ir.to_proto(attr) for attr in node.attributes.values())
    run = _evaluator(proto.SerializeToString(deterministic=True), opset)
    found = run.run(None, {name: array for name, array in zip(inputs, arrays, strict=True) if array is not None})
    return [np.asarray(array) for array in found]


@lru_cache(maxsize=256)
def _evaluator(node: bytes, opset: int) -> ReferenceEvaluator:
    """Layers repeat each other, and making an evaluator costs far more than asking it."""
    return ReferenceEvaluator(onnx.NodeProto.FromString(node), opsets={"": opset})


def _transpose(node: ir.Node, arrays: Sequence[Array | None]) -> Array | None:
    perm = node.attributes.get("perm")
    return None if arrays[0] is None else arrays[0].transpose(None if perm is None else perm.as_ints())


def _reshape(node: ir.Node, arrays: Sequence[Array | None]) -> Array | None:
    data, target = arrays[0], integers_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if data is None or target is None or attribute(node, "allowzero", 0):
        return None
    return data.reshape([data.shape[axis] if size == 0 else size for axis, size in enumerate(target)])


def _identity(_: ir.Node, arrays: Sequence[Array | None]) -> Array | None:
    return arrays[0]


def _unsqueeze(_: ir.Node, arrays: Sequence[Array | None]) -> Array | None:
    if len(arrays) < 2 or arrays[0] is None or arrays[1] is None:
        return None
    return np.expand_dims(arrays[0], tuple(int(axis) for axis in arrays[1].reshape(-1)))


def _arithmetic(operation: Callable[[Array, Array], Array]) -> Rule:
    def rule(_: ir.Node, arrays: Sequence[Array | None]) -> Array | None:
        left, right = arrays
        if left is None or right is None or left.dtype != right.dtype:
            return None
        return np.asarray(operation(left, right), dtype=left.dtype)

    return rule


def _quotient(left: Array, right: Array) -> Array:
    """Division of integers rounds toward zero."""
    if left.dtype.kind not in "iu":
        return np.divide(left, right)
    if not right.all():
        raise ZeroDivisionError("a division by zero stays where it is")
    size = np.abs(left) // np.abs(right)
    return np.where(np.signbit(left.astype(np.float64)) == np.signbit(right.astype(np.float64)), size, -size)


_RULES: Mapping[str, Rule] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Identity": _identity,
    "Unsqueeze": _unsqueeze,
    "Add": _arithmetic(np.add),
    "Sub": _arithmetic(np.subtract),
    "Mul": _arithmetic(np.multiply),
    "Div": _arithmetic(_quotient),
}
