"""A linear layer as the fusing passes see it, and new weights computed from old ones when they are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.constants import is_constant
from ...ir.content import dimensions
from ..base import Miss
from ..edit import Array, is_op, only_reader

#: Element types whose products keep an exact pass's promise.
PRECISE = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})


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
    if is_op(reader, "Add"):
        bias = reader.inputs[1] if reader.inputs[0] is node.outputs[0] else reader.inputs[0]
        if bias is not None and is_constant(bias) and sizes(bias) == sizes(weight)[1:]:
            return Dense(node, x, weight, reader, bias)
    return Dense(node, x, weight, None, None)


def dense_of(value: ir.Value | None) -> Dense | Miss:
    """The linear layer whose result, bias and all, is `value`."""
    node = None if value is None else value.producer()
    if value is None or node is None:
        return Miss("layer", "" if value is None else value.name or "", "the result of a linear layer")
    if is_op(node, "Add"):
        products = [item.producer() for item in node.inputs if item is not None and not is_constant(item)]
        node = products[0] if len(products) == 1 and is_op(products[0], "MatMul") else node
    found = dense_at(node) if is_op(node, "MatMul") else Miss("layer", value.name or "", "the result of a linear layer")
    if isinstance(found, Dense) and found.output is not value:
        return Miss("layer", value.name or "", "the result of a linear layer, its bias added")
    return found


def sizes(value: ir.Value) -> tuple[int, ...]:
    """The shape of a constant."""
    assert value.const_value is not None
    return tuple(int(dim) for dim in value.const_value.shape.numpy())


def numbers(value: ir.Value) -> NDArray[np.float64]:
    """The numbers of a constant in float64."""
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy(), np.float64)


def cast(array: NDArray[np.float64], dtype: ir.DataType) -> Array:
    """The numbers rounded to a type."""
    rounded: Array = array.astype(dtype.numpy())
    return rounded


def fits(factor: ir.Value, x: ir.Value, layer: Dense, *, before: bool) -> Miss | None:
    """Why a constant beside a layer is not one number, or one for each of its outputs (`before`: of its inputs)."""
    length = sizes(layer.weight)[0 if before else 1]
    count = prod(sizes(factor))
    if count not in (1, length) or layer.weight.dtype is not factor.dtype:
        return Miss("width", f"{factor.name}: {list(sizes(factor))}", f"one number, or {length}, of the weight's type")
    dims = dimensions(x)
    if before and count != 1 and (dims is None or dims[-1:] != [length]):
        return Miss(
            "broadcast", f"{x.name}: {dims}", f"a value whose last axis is {length} before it meets the constant"
        )
    return None


def derived(name: str, shape: tuple[int, ...], dtype: ir.DataType, compute: Callable[[], Array]) -> ir.LazyTensor:
    """A tensor that is computed when its bytes are read."""
    return ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(compute()), dtype=dtype), dtype=dtype, shape=ir.Shape(shape), name=name
    )
