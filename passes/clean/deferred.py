"""Results of constants whose form is known without computing them, so that they need not be held.

A cast, a sum or a product of a large weight takes as much memory as the weight, and its layout is a view only while the
weight itself is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..edit import Array, attribute
from .evaluate import evaluate

#: What only lays numbers out anew.
_LAYOUTS = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose"})
_ARITHMETIC: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
}


@dataclass(frozen=True)
class Deferred:
    """A result of this form, and what computes it from stored tensors; the node is not needed any more."""

    shape: tuple[int, ...]
    dtype: ir.DataType
    compute: Callable[[], Array]

    @property
    def bytes(self) -> float:
        return float(np.prod(self.shape, dtype=np.float64) * self.dtype.itemsize)


def deferred(node: ir.Node, tensors: Sequence[ir.TensorProtocol], opset: int) -> Deferred | None:
    """The one result of a node of ai.onnx; None where its form is not certain, or it is a view of what is stored."""
    if any(tensor.dtype == ir.DataType.STRING for tensor in tensors) or len(node.outputs) != 1:
        return None
    if node.op_type in _LAYOUTS:
        return _layout(node, tensors, opset) if isinstance(tensors[0], ir.LazyTensor) else None
    if node.op_type == "Cast":
        return _cast(node, tensors[0])
    if len({tensor.dtype for tensor in tensors}) > 1:
        return None
    if node.op_type == "Concat":
        return _concat(node, tensors)
    return _arithmetic(node, tensors) if node.op_type in _ARITHMETIC else None


def _layout(node: ir.Node, tensors: Sequence[ir.TensorProtocol], opset: int) -> Deferred | None:
    data, *others = tensors
    # as large as the data, and held in one element
    hollow = np.broadcast_to(np.zeros((), data.dtype.numpy()), _shape(data))
    found = evaluate(node, [hollow, *(tensor.numpy() for tensor in others)], opset)
    if found is None:
        return None
    shape, perm = found[0].shape, _perm(node)
    turn = node.op_type == "Transpose"
    return Deferred(shape, data.dtype, lambda: data.numpy().transpose(perm) if turn else data.numpy().reshape(shape))


def _perm(node: ir.Node) -> tuple[int, ...] | None:
    return tuple(node.attributes["perm"].as_ints()) if "perm" in node.attributes else None


def _cast(node: ir.Node, data: ir.TensorProtocol) -> Deferred | None:
    to, kinds = ir.DataType(node.attributes["to"].as_int()), (_FLOATS, _INTEGERS)
    if to not in _FLOATS and not (to in _INTEGERS and data.dtype in _INTEGERS):
        return None
    if not any(data.dtype in kind for kind in kinds):
        return None

    def cast() -> Array:
        with np.errstate(all="ignore"):
            return data.numpy().astype(to.numpy())

    return Deferred(_shape(data), to, cast)


#: Between these, and from integers to them, a cast rounds to the nearest.
_FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})
_INTEGERS = frozenset({ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT32, ir.DataType.INT64})


def _concat(node: ir.Node, parts: Sequence[ir.TensorProtocol]) -> Deferred | None:
    shapes = [_shape(part) for part in parts]
    axis, rank = attribute(node, "axis", 0), len(shapes[0])
    if not -rank <= axis < rank or any(len(shape) != rank for shape in shapes):
        return None
    axis %= rank
    rests = {(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    if len(rests) > 1:
        return None
    whole = (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])
    return Deferred(whole, parts[0].dtype, lambda: np.concatenate([part.numpy() for part in parts], axis=axis))


def _arithmetic(node: ir.Node, sides: Sequence[ir.TensorProtocol]) -> Deferred | None:
    operation, dtype = _ARITHMETIC[node.op_type], sides[0].dtype
    if dtype not in _FLOATS or len(sides) != 2:
        return None
    try:
        shape = np.broadcast_shapes(*map(_shape, sides))
    except ValueError:  # sizes that do not fit each other
        return None

    def result() -> Array:
        with np.errstate(all="ignore"):
            return operation(*(side.numpy() for side in sides))

    return Deferred(shape, dtype, result)


def _shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(dim) for dim in tensor.shape.numpy())
