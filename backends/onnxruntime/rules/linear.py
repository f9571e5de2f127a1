"""A linear layer as ONNX Runtime's fused kernels want it: activation, weight [in, out], int8 scale, bias."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ....passes.edit import Array, constant_of, derived, is_constant, is_op

DOMAIN = "com.microsoft"


#: Integers, their scale and their zero point, which is zero where it is None.
Codes = tuple[ir.Value, ir.Value, ir.Value | None]


@dataclass(frozen=True)
class Linear:
    """output = x @ W + bias, W constant, or int8 with a scale for each output.

    `activation` is x before it is quantized where it is; then `codes` are its integers, their scale and zero point.
    `quantizer` is the node that makes all three of them, None where the scale is constant.
    """

    output: ir.Value
    activation: ir.Value
    weight: ir.Value
    scale: ir.Value | None
    bias: ir.Value | None
    quantizer: ir.Node | None
    nodes: tuple[ir.Node, ...]
    codes: Codes | None = None

    @property
    def quantized(self) -> bool:
        return self.scale is not None and self.codes is not None


def linear(value: ir.Value | None) -> Linear | None:
    """The linear layer that computes `value`, its bias in a node of its own or absent; None for anything else."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.domain:
        return None
    if node.op_type == "MatMul":
        return _product(value, node)
    if node.op_type == "Add":
        for inner, bias in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            product = None if inner is None else inner.producer()
            if inner is None or bias is None or not is_op(product, "MatMul") or not _is_vector(bias):
                continue
            if len(inner.consumers()) != 1 or inner.is_graph_output():
                continue
            found = _product(inner, product)
            if found is not None and bias.shape is not None and bias.shape[0] == _width(found.weight):
                return replace(found, output=value, bias=bias, nodes=(node, *found.nodes))
    return None


def outermost(node: ir.Node) -> Linear | None:
    """The layer whose product a MatMul computes, with its bias, when the product's only reader adds one."""
    product = node.outputs[0]
    readers = product.consumers()
    if len(readers) == 1 and is_op(readers[0], "Add") and not product.is_graph_output():
        biased = linear(readers[0].outputs[0])
        if biased is not None:
            return biased
    return linear(product)


def concatenate(arrays: list[Array], *, axis: int, name: str) -> ir.LazyTensor:
    """The arrays side by side, joined when the tensor is read: lowering holds no second copy of the weights."""
    shape = list(arrays[0].shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    dtype = ir.DataType.from_numpy(arrays[0].dtype)
    return derived(name, shape, dtype, lambda: np.concatenate(arrays, axis=axis))


def biases(layers: list[Linear]) -> Array | None:
    """The biases side by side, zeros where a layer has none; None when no layer has one."""
    if all(layer.bias is None for layer in layers):
        return None
    dtype = next(array.dtype for layer in layers if (array := constant_of(layer.bias)) is not None)
    parts = [constant_of(layer.bias) for layer in layers]
    widths = [_width(layer.weight) for layer in layers]
    return np.concatenate(
        [np.zeros(width, dtype) if part is None else part for part, width in zip(parts, widths, strict=True)]
    )


def _product(value: ir.Value, node: ir.Node) -> Linear | None:
    activation, weight = node.inputs
    if activation is None or weight is None or constant_of(activation) is not None:
        return None
    scale, nodes = None, [node]
    dequantize = weight.producer()
    if is_op(dequantize, "DequantizeLinear"):
        if not _per_column(dequantize):
            return None
        weight, scale = dequantize.inputs[0], dequantize.inputs[1]
        nodes.append(dequantize)
    if weight is None or weight.shape is None or len(weight.shape) != 2 or not is_constant(weight):
        return None
    back = activation.producer()
    if scale is None or not is_op(back, "DequantizeLinear") or back.inputs[0] is None:
        return Linear(value, activation, weight, scale, None, None, tuple(nodes))
    maker = back.inputs[0].producer()
    if is_op(maker, "DynamicQuantizeLinear") and maker.inputs[0] is not None:
        made = maker.outputs
        if list(back.inputs) != list(made):
            return None
        codes = made[0], made[1], made[2]
        return Linear(value, maker.inputs[0], weight, scale, None, maker, (*nodes, back, maker), codes)
    if is_op(maker, "QuantizeLinear") and maker.inputs[0] is not None and _is_round_trip(maker, back):
        q, s = back.inputs[:2]
        assert q is not None and s is not None
        zero = back.inputs[2] if len(back.inputs) > 2 else None
        return Linear(value, maker.inputs[0], weight, scale, None, None, (*nodes, back), (q, s, zero))
    return Linear(value, activation, weight, scale, None, None, tuple(nodes))


def _is_round_trip(there: ir.Node, back: ir.Node) -> bool:
    """Whether an activation is rounded to uint8 by one constant scale, and read back by the same."""
    codes = back.inputs[0]
    if codes is None or codes.dtype != ir.DataType.UINT8:
        return False
    scale, *zeros = (constant_of(value) for value in back.inputs[1:])
    same = list(there.inputs[1:]) == list(back.inputs[1:])
    return same and scale is not None and not scale.ndim and all(zero is not None and not zero.ndim for zero in zeros)


def _per_column(node: ir.Node) -> bool:
    """Whether a DequantizeLinear scales the columns of a constant int8 matrix, or all of it, around zero."""
    data, scale = node.inputs[:2]
    if data is None or data.dtype != ir.DataType.INT8 or not is_constant(scale) or scale is None or scale.shape is None:
        return False
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    centred = zero is None or ((array := constant_of(zero)) is not None and not array.any())
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    return centred and (len(scale.shape) == 0 or (len(scale.shape) == 1 and axis in (1, -1)))


def _is_vector(value: ir.Value) -> bool:
    return is_constant(value) and value.shape is not None and len(value.shape) == 1


def _width(weight: ir.Value) -> int:
    assert weight.shape is not None
    return int(weight.shape[1])  # type: ignore[arg-type]  # the shape of an initializer is made of numbers
