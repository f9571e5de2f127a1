"""Rounding that lets gradients through, for graphs that train with the bits that they will run in.

    fake_quantize      (clip(round(x / s) + z) - z) s          dx = g inside of the grid, 0 outside
                                                               ds = g (round(x / s) - x / s) inside, g (end - z) outside
    binary             a sign(w), a = mean |w|                 dw = g a where |w| <= 1, and the mean of g sign(w)
    ternary            p, 0 or -n by a threshold               dw = g p, g or g n; dp, dn: sums of g where they stand

Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013; Jacob et al., Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018, section 3; the scale's gradient:
Esser et al., Learned Step Size Quantization, 2020, equation 3; Courbariaux et al., BinaryConnect, 2015; Rastegari et
al., XNOR-Net, 2016, section 3.1, the mean's derivative whole; Zhu et al., Trained Ternary Quantization, 2017,
equations 7 to 9.
"""

from __future__ import annotations

import onnx_ir as oir
import torch
from torch import fx

from ..ops.quant import dequantize, limits, quantize, spread
from .weights import bound

Tensor = torch.Tensor
Maybe = torch.Tensor | None
_NAMES = ("x", "scale", "zero")


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, x: Tensor, scale: Tensor, zero: Tensor, ends: Tensor
    ) -> Tensor:
        steps = x / scale
        codes = torch.round(steps) + zero
        held = codes.clamp(ends[0], ends[1])
        ctx.save_for_backward(torch.where(codes == held, held - zero - steps, held - zero), codes == held, scale)
        return (held - zero) * scale

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Maybe, ...]:
        (gradient,) = grads
        slope, inside, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * inside, (gradient * slope).sum_to_size(scale.shape), None, None


def fake_quantize(
    x: Tensor, scale: Tensor, zero: Maybe = None, *, axis: int = 1, block_size: int = 0, dtype: int = 2
) -> Tensor:
    """What DequantizeLinear makes of QuantizeLinear, as a function of x and of the scale, in the scale's type.

    x: floats. scale, zero: as ONNX has them, one number, one for each place of the axis or one for each block of it.
    dtype: of the integers, as ONNX numbers it; of zero, where there is one. Raises ValueError for types without a grid
    of integers.
    """
    ends = limits(oir.DataType(dtype))
    if ends is None:
        raise ValueError(f"expected integers of 2 to 16 bits, found {oir.DataType(dtype).name.lower()}")
    x, steps = x.to(scale.dtype), spread(scale, x, axis, block_size)
    origin = torch.zeros_like(steps) if zero is None else spread(zero, x, axis, block_size).to(x.dtype)
    made: Tensor = _FakeQuantize.apply(x, steps, origin, torch.tensor(ends, dtype=x.dtype, device=x.device))  # type: ignore[no-untyped-call]
    return made


class _Binary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, weight: Tensor) -> Tensor:
        sign = torch.where(weight < 0, -1.0, 1.0).to(weight.dtype)
        scale = weight.abs().mean(0, keepdim=True)
        ctx.save_for_backward(weight, sign, scale)
        return scale * sign

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        (gradient,) = grads
        weight, sign, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        # a = mean |w|: every weight of an output moves its scale
        shared = (gradient * sign).mean(0, keepdim=True) * sign
        made: Tensor = gradient * scale * (weight.abs() <= 1) + shared
        return made


def binary(weight: Tensor) -> Tensor:
    """A weight [in, out] as its signs times the mean magnitude of each output (BWN)."""
    made: Tensor = _Binary.apply(weight)  # type: ignore[no-untyped-call]
    return made


class _Ternary(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, weight: Tensor, positive: Tensor, negative: Tensor, limit: Tensor
    ) -> Tensor:
        above, below = weight > limit, weight < -limit
        ctx.save_for_backward(above, below, positive, negative)
        return torch.where(above, positive, torch.where(below, -negative, torch.zeros_like(weight)))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Maybe, ...]:
        (gradient,) = grads
        above, below, positive, negative = ctx.saved_tensors  # type: ignore[attr-defined]
        scaled = torch.where(above, positive, torch.where(below, negative, torch.ones_like(gradient)))
        up, down = (gradient * above).sum_to_size(positive.shape), -(gradient * below).sum_to_size(negative.shape)
        return gradient * scaled, up, down, None


def ternary(weight: Tensor, positive: Tensor, negative: Tensor, *, threshold: float = 0.05) -> Tensor:
    """A weight as `positive` above the threshold, `-negative` below it, else zero (TTQ).

    positive, negative: learned, numbers above zero that broadcast to the weight. threshold: as a part of the largest
    magnitude, equation 9.
    """
    made: Tensor = _Ternary.apply(weight, positive, negative, threshold * weight.detach().abs().max())  # type: ignore[no-untyped-call]
    return made


def straighten(module: fx.GraphModule) -> int:
    """Make each QuantizeLinear that a DequantizeLinear alone undoes a `fake_quantize`; how many were.

    What others read, what is read back by another scale or in another type, and 8-bit floats stay.
    """
    made = 0
    for node in list(module.graph.nodes):
        source = node.args[0] if node.target is dequantize else None
        if not isinstance(source, fx.Node) or source.target is not quantize or len(source.users) > 1:
            continue
        there, back = bound(source, _NAMES), bound(node, _NAMES)
        dtype = there.get("dtype")
        same = all(there.get(each) == back.get(each) for each in ("scale", "zero", "axis", "block_size"))
        if not same or not isinstance(dtype, int) or limits(oir.DataType(dtype)) is None:
            continue
        if back.get("output_dtype") or there.get("precision"):
            continue
        kwargs = {name: there[name] for name in ("axis", "block_size", "dtype") if name in there}
        with module.graph.inserting_before(node):
            fake = module.graph.call_function(
                fake_quantize,
                tuple(there[name] for name in _NAMES if there.get(name) is not None),  # type: ignore[misc]
                kwargs,  # type: ignore[arg-type]
            )
        fake.meta.update(node.meta)
        node.replace_all_uses_with(fake)
        made += 1
    if made:
        module.graph.eliminate_dead_code()
        module.recompile()
    return made
