"""Nodes that are linear in a constant weight, as the folds see them: which numbers of it stand for which of the output.

MatMul [in, out] with the Add behind it, Gemm, Conv [out, in, ...], and the scale and bias of normalizations
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.constants import is_constant
from ...ir.content import dimensions
from ..base import Miss
from ..edit import Tape, attribute, is_op
from .dense import dense_at, numbers, sizes

_Numbers = NDArray[np.float64]
#: Attributes of Gemm.
_GAINS = frozenset({"alpha", "beta"})


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What `node` computes of x, a constant weight and a constant bias; `add` is the node that adds the latter, if any.

    ins, outs: the axes of the weight that meet the features of x and that make those of the output; ins is empty where
    no vector of constants on x can move into the weight. axes: where the outs lie in the output, counted from its end.
    rank: that of the output, or what it is at least.
    """

    node: ir.Node
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    add: ir.Node | None = None
    ins: tuple[int, ...] = ()
    outs: tuple[int, ...]
    axes: tuple[int, ...]
    rank: int

    @property
    def output(self) -> ir.Value:
        return (self.add or self.node).outputs[0]

    @property
    def nodes(self) -> list[ir.Node]:
        return [node for node in (self.add, self.node) if node is not None]

    @property
    def widths(self) -> tuple[int, ...]:
        """The sizes of what the weight makes: of the bias, too."""
        return tuple(sizes(self.weight)[axis] for axis in self.outs)

    @property
    def takes_bias(self) -> bool:
        """Whether a bias can be given to it, or another one, without a node more."""
        if is_op(self.node, "Gemm"):
            return all(self.node.attributes[name].as_float() == 1.0 for name in _GAINS & {*self.node.attributes})
        return self.bias is not None or is_op(self.node, "Conv", "LayerNormalization")

    def per_output(self, constant: ir.Value) -> _Numbers | Miss:
        """The numbers that a constant beside the output has for each of its features, as [*widths] or one number."""
        given = (1,) * max(self.rank - len(sizes(constant)), 0) + sizes(constant)
        one = prod(given) == 1
        fits = one or (tuple(given[axis] for axis in self.axes) == self.widths and prod(given) == prod(self.widths))
        if not fits or len(given) > self.rank or constant.dtype is not self.weight.dtype:
            need = f"one number, or {list(self.widths)}, of the weight's type"
            return Miss("width", f"{constant.name}: {list(sizes(constant))}", need)
        return numbers(constant).reshape(() if one else self.widths)

    def per_input(self, constant: ir.Value, x: ir.Value) -> _Numbers | Miss:
        """The numbers that a constant has for each feature of x, which it meets before the layer does, as [in] or one
        number."""
        given, dims = sizes(constant), dimensions(x)
        one = prod(given) == 1
        width = tuple(sizes(self.weight)[axis] for axis in self.ins)
        fits = one or (bool(width) and given[-1:] == width and prod(given) == width[0])
        if not fits or constant.dtype is not self.weight.dtype:
            need = f"one number{f', or {width[0]},' if width else ''} of the weight's type"
            return Miss("width", f"{constant.name}: {list(given)}", need)
        if given and (dims is None or len(given) > len(dims) or (not one and dims[-1:] != [*width])):
            need = f"a value of {list(given) if one else list(width)} or more axes, before it meets the constant"
            return Miss("broadcast", f"{x.name}: {dims}", need)
        return numbers(constant).reshape(() if one else width)

    def by_output(self, array: _Numbers) -> _Numbers:
        """One number for each output, laid along the weight."""
        return _along(array, self.outs, len(sizes(self.weight)))

    def by_input(self, array: _Numbers) -> _Numbers:
        """One number for each input, laid along the weight."""
        return _along(array, self.ins, len(sizes(self.weight)))

    def again(self, tape: Tape, x: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
        """The layer with other inputs."""
        if is_op(self.node, "MatMul"):
            product = tape("MatMul", x, weight)
            return product if bias is None else tape("Add", product, bias)
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return tape.node(self.node.op_type, inputs, dict(self.node.attributes)).outputs[0]


def layer_at(node: ir.Node) -> Layer | Miss:
    """The layer whose product, convolution or normalization is `node`; no other layer of numbers reads its weight."""
    if is_op(node, "MatMul"):
        found = dense_at(node)
        if isinstance(found, Miss):
            return found
        return Layer(
            node=node, x=found.x, weight=found.weight, bias=found.bias, add=found.add,
            ins=(0,), outs=(1,), axes=(-1,), rank=max(len(dimensions(node.outputs[0]) or ()), 1),
        )  # fmt: skip
    if not is_op(node, "Gemm", "Conv", "LayerNormalization", "RMSNormalization") or len(node.inputs) < 2:
        return Miss("layer", node.name or "", "a linear layer, a convolution or a normalization")
    x, weight, bias = (*node.inputs, None)[:3]
    if x is None or is_constant(x) or weight is None or not is_constant(weight) or not sizes(weight):
        return Miss("layer", node.name or "", "a computed value and a constant weight")
    if bias is not None and not is_constant(bias):
        return Miss("layer", bias.name or "", "a constant bias")
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return Miss("layer", node.outputs[0].name or "", "mean and deviation that nobody reads")
    rank, normalizes = len(sizes(weight)), not is_op(node, "Gemm", "Conv")
    if not normalizes and (len(weight.uses()) != 1 or weight.is_graph_output()):
        return Miss("tied", weight.name or "", "a weight that nothing else reads")
    if normalizes:
        made = Layer(
            node=node, x=x, weight=weight, bias=bias, outs=tuple(range(rank)), axes=tuple(range(-rank, 0)),
            rank=len(dimensions(node.outputs[0]) or dimensions(x) or sizes(weight)),
        )  # fmt: skip
    elif is_op(node, "Conv"):
        made = Layer(node=node, x=x, weight=weight, bias=bias, outs=(0,), axes=(1 - rank,), rank=rank)
    else:
        turned = bool(attribute(node, "transB", 0))
        made = Layer(
            node=node, x=x, weight=weight, bias=bias, outs=(0 if turned else 1,), axes=(-1,), rank=2,
            ins=() if attribute(node, "transA", 0) else (1 if turned else 0,),
        )  # fmt: skip
    if bias is not None and sizes(bias) != made.widths:
        return Miss("bias", f"{bias.name}: {list(sizes(bias))}", f"one of {list(made.widths)}")
    return made


def layer_of(value: ir.Value | None) -> Layer | Miss:
    """The layer whose result, bias and all, is `value`."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.outputs[0] is not value:
        return Miss("layer", "" if value is None else value.name or "", "the result of a linear layer")
    if is_op(node, "Add"):
        products = [item.producer() for item in node.inputs if item is not None and not is_constant(item)]
        node = products[0] if len(products) == 1 and is_op(products[0], "MatMul") else node
    found = layer_at(node)
    if isinstance(found, Layer) and found.output is not value:
        return Miss("layer", value.name or "", "the result of a linear layer, its bias added")
    return found


def _along(array: _Numbers, axes: tuple[int, ...], rank: int) -> _Numbers:
    if not array.ndim:
        return array
    shape = [1] * rank
    for axis, size in zip(axes, array.shape, strict=True):
        shape[axis] = size
    return array.reshape(shape)
