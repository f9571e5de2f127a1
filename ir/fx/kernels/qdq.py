"""Quantize-dequantize around linear layers and convolutions, as TorchInductor's CPU lowering recognises it.

    before   q --> dequantize --> matmul --> y        after   q --> dequantize_per_tensor ---------------> linear --> y
             w --> dequantize --^                             w^T --> dequantize_per_channel (per row) --^

With freezing on, Inductor fuses the latter into `onednn.qlinear_pointwise` and `onednn.qconv_pointwise`, an integer
product with the weight packed once. Run it on a module that is to be compiled for a CPU, before `torch.export`; in
eager mode the rewritten module computes the same values. Left alone: what needs a gradient, and products oneDNN gets
wrong: without VNNI it adds pairs of u8 * s8 in 16 bits, which saturate unless neighbouring weights stay within 128.

The ops are of `torch.ao.quantization.fx._decomposed`, which has no public name (tried on torch 2.13).
"""

from __future__ import annotations

import operator

import onnx_ir as oir
import torch
from torch import fx
from torch.nn import functional

from ..ops.casts import cast
from ..ops.linear import conv, gemm
from ..ops.quant import dequantize, dynamic_quantize
from .products import has_vnni
from .weights import Rewriter, bound, constant, finish

Tensor = torch.Tensor
_LIMITS = {torch.uint8: (0, 255), torch.int8: (-128, 127)}
#: 255 * 128 < 2^15: what weights of one sign may add up to that are neighbours along the inputs.
_SAFE = 128


def lower_qdq(module: fx.GraphModule) -> int:
    """Rewrite in place; how many products were.

    A product is `MatMul`, `Gemm` (alpha and beta 1, bias per column) or `Conv` of an activation with one constant scale
    and zero point, or one that is quantized by its own range, and a constant int8 weight without zero point whose scale
    is one or per output.
    """
    from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the ops

    done = 0
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is torch.matmul:
            done += _linear(module, node, bound(node, ("a", "b")))
        elif node.target is gemm:
            done += _linear(module, node, bound(node, ("a", "b", "c")))
        elif node.target is conv:
            done += _conv(module, node)
    if done:
        finish(module)
    return done


def _linear(module: fx.GraphModule, node: fx.Node, given: dict[str, object]) -> bool:
    if given.get("trans_a", 0) or given.get("alpha", 1.0) != 1 or given.get("beta", 1.0) != 1:
        return False
    transposed = bool(given.get("trans_b", 0))
    activation, weight = _Activation.of(module, given["a"]), _Weight.of(module, given["b"], 0 if transposed else 1)
    bias = given.get("c")
    if activation is None or weight is None or weight.values.dim() != 2:
        return False
    if bias is not None and ((held := constant(module, bias)) is None or held.shape != weight.scales.shape):
        return False
    write = Rewriter(module, node)
    rows = weight.values if transposed else weight.values.T.contiguous()
    write.replace(write.call(functional.linear, activation.emit(write), weight.emit(write, rows), bias))
    return True


def _conv(module: fx.GraphModule, node: fx.Node) -> bool:
    given = bound(node, ("x", "weight", "bias"))
    activation, weight = _Activation.of(module, given.pop("x")), _Weight.of(module, given.pop("weight"), 0)
    if activation is None or weight is None:
        return False
    write = Rewriter(module, node)
    x, w = activation.emit(write), weight.emit(write, weight.values)
    write.replace(write.call(conv, x, w, given.pop("bias", None), **given))
    return True


class _Activation:
    """A dequantization of something computed, with one scale and zero point: constants, or of the range it has."""

    def __init__(self, source: fx.Node, scale: float | fx.Node, zero: int | fx.Node, dtype: torch.dtype) -> None:
        self.source, self.scale, self.zero, self.dtype = source, scale, zero, dtype

    @classmethod
    def of(cls, module: fx.GraphModule, node: object) -> _Activation | None:
        if not isinstance(node, fx.Node):
            return None
        if (ranged := _ranged(node)) is not None:
            return cls(*ranged, torch.uint8)
        parts = _dequantized(module, node)
        if parts is None:
            return None
        source, scale, zero = parts
        if constant(module, source) is not None or zero is None or scale.numel() != 1 or zero.dtype not in _LIMITS:
            return None
        return cls(source, float(scale), int(zero), zero.dtype)

    def emit(self, write: Rewriter) -> fx.Node:
        ops = torch.ops.quantized_decomposed.dequantize_per_tensor
        limits = _LIMITS[self.dtype]
        if not isinstance(self.zero, fx.Node):
            return write.call(ops.default, self.source, self.scale, self.zero, *limits, self.dtype)
        zero = write.call(cast, self.zero, to=oir.DataType.INT32.value)
        return write.call(ops.tensor, self.source, self.scale, zero, *limits, self.dtype)


def _ranged(node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node] | None:
    """Values, scale and zero point of a dequantization of what DynamicQuantizeLinear made."""
    if node.target is not dequantize:
        return None
    given = bound(node, ("x", "scale", "zero"))
    parts = [given.get(name) for name in ("x", "scale", "zero")]
    made = [each for each in parts if isinstance(each, fx.Node) and each.target is operator.getitem]
    if len(made) != 3 or given.get("output_dtype", 0):
        return None
    (source, _), *others = (each.args for each in made)
    fits = [each.args[1] for each in made] == [0, 1, 2] and all(other[0] is source for other in others)
    return tuple(made) if fits and isinstance(source, fx.Node) and source.target is dynamic_quantize else None  # type: ignore[return-value]


class _Weight:
    """A dequantization of constant int8 values that is symmetric, with one scale or one per output."""

    def __init__(self, source: fx.Node, values: Tensor, scales: Tensor) -> None:
        self.source, self.values, self.scales = source, values, scales

    @classmethod
    def of(cls, module: fx.GraphModule, node: object, axis: int) -> _Weight | None:
        parts = _dequantized(module, node)
        if parts is None:
            return None
        source, scale, zero = parts
        values = constant(module, source)
        if values is None or values.dtype is not torch.int8 or values.dim() < 2:
            return None
        if zero is not None and bool(zero.any()):
            return None
        assert isinstance(node, fx.Node)
        given = node.kwargs.get("axis", 1)
        if scale.numel() != 1 and (not isinstance(given, int) or given % values.dim() != axis):
            return None
        if not has_vnni() and not _is_safe(values, axis):
            return None
        return cls(source, values, scale.reshape(-1).expand(values.shape[axis]).contiguous())

    def emit(self, write: Rewriter, values: Tensor) -> fx.Node:
        """`values` are the weight with its outputs on axis 0."""
        rows = write.own(values, self.source, "rows")
        scales = write.own(self.scales, self.source, "scales")
        zeros = write.own(torch.zeros_like(self.scales, dtype=torch.int64), self.source, "zeros")
        op = torch.ops.quantized_decomposed.dequantize_per_channel.default
        return write.call(op, rows, scales, zeros, 0, *_LIMITS[torch.int8], torch.int8)


def _is_safe(values: Tensor, axis: int) -> bool:
    """Whether no sum of two products with neighbours of a matrix saturates 16 bits; of a convolution's weights, with
    any two."""
    wide = values.to(torch.int16)
    if values.dim() != 2:
        return int(wide.abs().max()) * 2 <= _SAFE
    rows = torch.nn.functional.pad(wide if axis == 0 else wide.T, (0, values.shape[1 - axis] % 2))
    pairs = rows.unflatten(1, (-1, 2))  # type: ignore[no-untyped-call]
    return max(int(sign.clamp(min=0).sum(-1).max()) for sign in (pairs, -pairs)) <= _SAFE


def _dequantized(module: fx.GraphModule, node: object) -> tuple[fx.Node, Tensor, Tensor | None] | None:
    """What a dequantization reads, with its float32 scale and zero point, where these are constant and not by block."""
    if not isinstance(node, fx.Node) or node.target is not dequantize:
        return None
    given = bound(node, ("x", "scale", "zero"))
    scale = constant(module, given["scale"])
    zero = constant(module, given.get("zero"))
    if scale is None or (given.get("zero") is not None and zero is None) or scale.dtype is not torch.float32:
        return None
    source = given["x"]
    if given.get("block_size", 0) or given.get("output_dtype", 0) or not isinstance(source, fx.Node):
        return None
    return source, scale, zero
