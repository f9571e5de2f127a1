"""Constants as the fusing passes read them, a MatMul by one of them, and new weights computed when they are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.constants import is_constant, tensor_of
from ..base import Miss
from ..edit import Array, is_op, only_reader

#: Element types whose products keep an exact pass's promise.
PRECISE = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})
#: Constants outside 1 / RANGE .. RANGE could take a weight out of float32 that its product with an activation was in.
RANGE = 1e12
#: What the largest number of a folded weight may be, and at least is where the weight is not all zeros.
_MOST, _LEAST = 1e30, 1e-30

_LARGEST = "tersor.largest"


@dataclass(frozen=True)
class Dense:
    """x @ weight + bias: `product` is the MatMul, `add` the node that adds a constant bias [out], or None."""

    product: ir.Node
    x: ir.Value
    weight: ir.Value
    add: ir.Node | None
    bias: ir.Value | None

    @property
    def output(self) -> ir.Value:
        return (self.add or self.product).outputs[0]

    @property
    def width(self) -> int:
        """The number of its outputs."""
        return sizes(self.weight)[1]


def dense_at(node: ir.Node) -> Dense | Miss:
    """The linear layer whose MatMul is `node`: a constant weight [in, out] that nothing else reads."""
    x, weight = node.inputs if is_op(node, "MatMul") else (None, None)
    if x is None or weight is None or is_constant(x):
        return Miss("layer", node.name or "", "a MatMul of a computed value and a constant")
    if not is_constant(weight) or len(sizes(weight)) != 2:
        return Miss("weight", weight.name or "", "a constant matrix [in, out] on the right")
    if len(weight.uses()) != 1 or weight.is_graph_output():
        return Miss("tied", weight.name or "", "a weight that nothing else reads")
    reader = only_reader(node.outputs[0])
    if is_op(reader, "Add") and reader.graph is node.graph:
        bias = reader.inputs[1] if reader.inputs[0] is node.outputs[0] else reader.inputs[0]
        if bias is not None and is_constant(bias) and sizes(bias) == sizes(weight)[1:]:
            return Dense(node, x, weight, reader, bias)
    return Dense(node, x, weight, None, None)


def sizes(value: ir.Value) -> tuple[int, ...]:
    """The shape of a constant."""
    tensor = tensor_of(value)
    assert tensor is not None
    return tuple(int(dim) for dim in tensor.shape.numpy())


def numbers(value: ir.Value) -> NDArray[np.float64]:
    """The numbers of a constant in float64."""
    tensor = tensor_of(value)
    assert tensor is not None
    return np.asarray(tensor.numpy(), np.float64)


def largest(value: ir.Value) -> float:
    """The largest magnitude in a constant, NaN where one of its numbers is none, 0 where it has none.

    What is mapped is read in place and once: the answer is kept beside the tensor.
    """
    tensor = tensor_of(value)
    assert tensor is not None
    found = tensor.meta.get(_LARGEST)
    if not isinstance(found, float):
        array = tensor.numpy()
        found = float(max(array.max(), -array.min())) if array.size else 0.0
        tensor.meta[_LARGEST] = found
    return found


def unfit(value: ir.Value | None, least: float = 1.0, most: float = 1.0) -> Miss | None:
    """Why a weight times factors between `least` and `most` is not surely what its product with an activation would be.

    0 * inf is NaN, and what leaves the range of float32 is inf or 0.
    """
    size = 0.0 if value is None else largest(value)
    if value is None or size == 0.0 or (size * least >= _LEAST and size * most <= _MOST):
        return None
    return Miss(
        "numbers", f"{value.name}: up to {size:g}", f"finite ones, between {_LEAST:g} and {_MOST:g} when folded"
    )


def cast(array: NDArray[np.float64], dtype: ir.DataType) -> Array:
    """The numbers rounded to a type."""
    rounded: Array = array.astype(dtype.numpy())
    return rounded
