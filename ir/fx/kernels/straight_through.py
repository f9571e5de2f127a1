"""Rounding that lets gradients through, for graphs that train with the bits that they will run in.

    fake_quantize      (clip(round(x / s) + z) - z) s     dx = g inside, 0 elsewhere
                                                          ds = g (round(x / s) - x / s) inside, g (end - z) elsewhere
    binary_weight      a sign(w), a = mean |w|            dw = g a [|w| <= 1] + sign(w) mean(g sign(w))
    trained_ternary    p, 0 or -n by a threshold          dw = g p, g or g n; dp = sum of g where p stands,
                                                          dn = -(sum of g where -n stands)

g is the gradient of what is made. Inside is low < x / s + z < high, before rounding; low and high are the ends of the
integers' range. None can be differentiated twice.

Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013; Jacob et al., Quantization and
Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, 2018, section 3.
"""

from __future__ import annotations

import onnx_ir as oir
import torch
from torch import fx
from torch.autograd.function import FunctionCtx, once_differentiable

from ..ops.quant import QUOTIENTS, dequantize, limits, quantize, spread
from .weights import bound, finish

Tensor = torch.Tensor
Maybe = torch.Tensor | None
_NAMES = ("x", "scale", "zero")
#: What QuantizeLinear and DequantizeLinear have to agree on, and what they take where they are not told.
_SHARED = {"scale": None, "zero": None, "axis": 1, "block_size": 0}


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, scale: Tensor, zero: Tensor, low: int, high: int) -> Tensor:
        quotient = (x / scale).to(zero.dtype)
        rounded = torch.round(quotient)
        centred = (rounded + zero).clamp(low, high) - zero
        inside = (low - zero < quotient) & (quotient < high - zero)
        ctx.save_for_backward(torch.where(inside, rounded - quotient, centred), inside, scale)
        return (centred * scale.to(zero.dtype)).to(scale.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Maybe, ...]:
        slope, inside, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        by_scale = (gradient.to(slope.dtype) * slope).sum_to_size(scale.shape)
        return gradient * inside, by_scale.to(scale.dtype), None, None, None


def fake_quantize(
    x: Tensor, scale: Tensor, zero: Maybe = None, *, axis: int = 1, block_size: int = 0, dtype: int = 2
) -> Tensor:
    """What DequantizeLinear makes of QuantizeLinear, as a function of x and of the scale.

    x: floats of any shape; the answer has it, in the scale's type. scale, zero: as ONNX has them, one number, one for
    each place of the axis, or one for each block of it. dtype: of the integers, as ONNX numbers it; zero's, where there
    is one. The quotient is taken in the scale's type, everything else at least in float32.

    The gradient of the scale is the plain sum; LSQ's factor 1 / sqrt(count * high) for it (section 2.2) is the caller's
    to apply. Zero points get none. Source: Esser et al., Learned Step Size Quantization, 2020, equations 1 to 3 and,
    for x, 5; with the range moved by the zero point.

    Raises ValueError for a dtype that is no integer of 2 to 16 bits, and for a scale of another type than float16,
    bfloat16, float32 or float64.
    """
    ends = limits(oir.DataType(dtype))
    if ends is None:
        raise ValueError(f"expected integers of 2 to 16 bits, found {oir.DataType(dtype).name.lower()}")
    if scale.dtype not in QUOTIENTS:
        raise ValueError(f"expected a scale of floats of 16 to 64 bits, found {scale.dtype}")
    # codes of 16 bits need more than the 11 bits of float16; their differences are exact in float32
    wide = torch.promote_types(scale.dtype, torch.float32)
    x, scale = x.to(scale.dtype), spread(scale, x, axis, block_size)
    zero = scale.new_zeros((), dtype=wide) if zero is None else spread(zero.to(wide), x, axis, block_size)
    made: Tensor = _FakeQuantize.apply(x, scale, zero, *ends)  # type: ignore[no-untyped-call]
    return made


class _BinaryWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, reduced: tuple[int, ...]) -> Tensor:
        sign = torch.where(weight < 0, -1.0, 1.0).to(weight.dtype)
        scale = weight.abs().mean(reduced, keepdim=True)
        ctx.save_for_backward(weight, sign, scale)
        ctx.reduced = reduced  # type: ignore[attr-defined]
        return scale * sign

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Maybe, ...]:
        weight, sign, scale = ctx.saved_tensors  # type: ignore[attr-defined]
        # a = mean |w|: every weight of an output moves its scale
        shared = (gradient * sign).mean(ctx.reduced, keepdim=True)  # type: ignore[attr-defined]
        return gradient * scale * (weight.abs() <= 1) + sign * shared, None


def binary_weight(weight: Tensor, *, axis: int = 1) -> Tensor:
    """The signs of a weight, +1 for zero, times the mean magnitude of each output (BWN), in its shape and type.

    weight: floats of at least 2 axes. axis: that of the outputs; the means are over all others: 1 for [in, out], 0 for
    a convolution's [out, in, ..]. Source: Rastegari et al., XNOR-Net, 2016, section 3.1, equation 6 and the gradient
    below it, with the derivative of the mean by all of the output's weights, where the paper keeps the weight's own;
    that signs pass gradients in [-1, 1] only: Hubara et al., Binarized Neural Networks, 2016, section 1.3.

    Raises ValueError for integers, fewer axes, and an axis that the weight has not.
    """
    if not weight.is_floating_point() or weight.dim() < 2 or not -weight.dim() <= axis < weight.dim():
        raise ValueError(
            f"expected floats of at least 2 axes, among them {axis}, found {weight.dtype} {list(weight.shape)}"
        )
    reduced = tuple(each for each in range(weight.dim()) if each != axis % weight.dim())
    made: Tensor = _BinaryWeight.apply(weight, reduced)  # type: ignore[no-untyped-call]
    return made


class _TrainedTernary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, weight: Tensor, positive: Tensor, negative: Tensor, threshold: Tensor) -> Tensor:
        above, below = weight > threshold, weight < -threshold
        ctx.save_for_backward(above, below, positive, negative)
        # w - w == 0 but for NaN and infinities, which are to be seen
        return torch.where(above, positive, torch.where(below, -negative, weight - weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Maybe, ...]:
        above, below, positive, negative = ctx.saved_tensors  # type: ignore[attr-defined]
        level = torch.where(above, positive, torch.where(below, negative, torch.ones_like(gradient)))
        up, down = (gradient * above).sum_to_size(positive.shape), (gradient * below).sum_to_size(negative.shape)
        return gradient * level, up, -down, None


def trained_ternary(weight: Tensor, positive: Tensor, negative: Tensor, *, threshold: float = 0.05) -> Tensor:
    """`positive` where a weight is above the threshold, `-negative` where it is below its negative, else zero (TTQ).

    weight: floats of any shape; the answer has it. positive, negative: learned, above zero, of shapes that broadcast to
    the weight's: one number for a layer in the paper. threshold: as a part of the largest magnitude. Source: Zhu et
    al., Trained Ternary Quantization, 2017: equation 6; the gradients of the levels: 7, where the sign that -n gives to
    its own is left out; the gradient of the weight: 8; the threshold: 9.

    Raises ValueError for integers, levels that do not broadcast, and a threshold out of [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"expected a threshold from 0 to below 1, found {threshold}")
    if not weight.is_floating_point():
        raise ValueError(f"expected floats, found {weight.dtype}")
    for level in (positive, negative):
        if level.dim() > weight.dim() or any(
            own not in (1, whole) for own, whole in zip(level.shape[::-1], weight.shape[::-1], strict=False)
        ):
            raise ValueError(f"expected levels that broadcast to {list(weight.shape)}, found {list(level.shape)}")
    largest = weight.detach().abs().amax() if weight.numel() else weight.new_zeros(())
    made: Tensor = _TrainedTernary.apply(weight, positive, negative, threshold * largest)  # type: ignore[no-untyped-call]
    return made


def straighten(module: fx.GraphModule) -> int:
    """Make each QuantizeLinear that a DequantizeLinear alone undoes a `fake_quantize`, in place; how many were.

        before   x --> quantize(scale, zero) --> dequantize(scale, zero) --> y
        after    x --> fake_quantize(scale, zero) --> y

    module: one of `to_fx`. Its answers stay the same to the bit; gradients reach x and the scale, so that parameters
    train, as which `to_fx` keeps constants of floats. Weights that are stored as integers are buffers, and do not.

    A module that was straightened is for training: `fake_quantize` is no op of ONNX, and `from_fx` writes no Q/DQ pairs
    for it. What was trained goes by `load_state_dict` into the module that `to_fx` makes of the model anew.

    Left alone: integers that something else reads too, pairs of two scales, zero points, axes or block sizes, a
    `precision` or an output in a type that is asked for, 8-bit floats, and pairs in bodies of control flow.
    """
    made = 0
    for node in list(module.graph.nodes):
        source = node.args[0] if node.target is dequantize else None
        if not isinstance(source, fx.Node) or source.target is not quantize or len(source.users) > 1:
            continue
        there, back = bound(source, _NAMES), bound(node, _NAMES)
        if any(there.get(name, default) != back.get(name, default) for name, default in _SHARED.items()):
            continue
        dtype = there.get("dtype") or there.get("output_dtype") or oir.DataType.UINT8.value
        if not isinstance(dtype, int) or limits(oir.DataType(dtype)) is None:
            continue
        if back.get("output_dtype") or there.get("precision"):
            continue
        args = tuple(there[name] for name in _NAMES if there.get(name) is not None)
        kwargs = {name: there[name] for name in ("axis", "block_size") if name in there} | {"dtype": dtype}
        with module.graph.inserting_before(node):
            fake = module.graph.call_function(fake_quantize, args, kwargs)  # type: ignore[arg-type]
        fake.meta.update(node.meta)
        node.replace_all_uses_with(fake)
        made += 1
    if made:
        finish(module)
    return made
