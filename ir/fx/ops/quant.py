"""Quantization: Q/DQ per tensor, axis or block, dynamic quantization, integer products.

Integer products are computed in float64, which is exact for them (255 * 255 * depth < 2^53) and has fast kernels.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as oir
import torch

from ..dtypes import torch_dtype
from ..kernels.products import integer_product
from ..lowering import Lowering, Table, standard
from .casts import cast
from .linear import conv

Tensor = torch.Tensor
Maybe = torch.Tensor | None

_LIMITS = {
    oir.DataType.INT2: (-2, 1),
    oir.DataType.UINT2: (0, 3),
    oir.DataType.INT4: (-8, 7),
    oir.DataType.UINT4: (0, 15),
    oir.DataType.INT8: (-128, 127),
    oir.DataType.UINT8: (0, 255),
    oir.DataType.INT16: (-32768, 32767),
    oir.DataType.UINT16: (0, 65535),
}


_SHORT = (torch.int8, torch.uint8, torch.int16, torch.uint16)
QUOTIENTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def limits(dtype: oir.DataType) -> tuple[int, int] | None:
    """The least and the largest integer of a quantized type; None for others."""
    return _LIMITS.get(dtype)


def spread(parameter: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point as it broadcasts to x: one, one per place of the axis, or one per block along it."""
    if parameter.numel() == 1 and not block:
        return parameter.reshape(())
    if block:
        return parameter.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    dims = [1] * x.dim()
    dims[axis] = -1
    return parameter.reshape(dims)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def quantize(
    x: Tensor,
    scale: Tensor,
    zero: Maybe = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
    dtype: int | None = None,
) -> Tensor:
    """round-half-even(x / scale) + zero, clamped to the type of the zero point (`dtype`, as torch lacks some).

    The quotient is taken in the type of the scale, or in `precision`.
    """
    target = oir.DataType(dtype or output_dtype or oir.DataType.UINT8.value)
    by = torch_dtype(precision) if precision else scale.dtype if scale.dtype in QUOTIENTS else torch.float32
    y = _wide(x.to(by) / spread(scale, x, axis, block_size).to(by))
    if target not in _LIMITS:
        if zero is not None:
            y = y + spread(zero.to(y.dtype), x, axis, block_size)
        return cast(y, to=target.value, saturate=saturate)
    y = torch.round(y)
    if zero is not None:
        y = y + spread(zero.to(torch.int32), x, axis, block_size)
    low, high = _LIMITS[target]
    return y.clamp(low, high).to(torch_dtype(target.value))


def dequantize(
    x: Tensor, scale: Tensor, zero: Maybe = None, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0
) -> Tensor:
    """(x - zero) * scale, in the scale's type."""
    target = torch_dtype(output_dtype) if output_dtype else scale.dtype
    wide = _wide(scale).dtype
    # differences of at most 17 bits are exact in float32; no copy of a large weight is made for them
    y = x.to(torch.float32 if x.is_floating_point() else wide if x.dtype in _SHORT else torch.int32)
    if zero is not None and not zero.is_floating_point():
        y = _by_blocks(torch.sub, y, zero.to(y.dtype), axis, block_size)
    return _by_blocks(torch.mul, y.to(wide), _wide(scale), axis, block_size).to(target)


def _by_blocks(
    compute: Callable[[Tensor, Tensor], Tensor], x: Tensor, parameter: Tensor, axis: int, block: int
) -> Tensor:
    """compute(x, parameter), where the parameter has one number for each block of x along the axis."""
    if not block or x.shape[axis] != block * parameter.shape[axis]:
        return compute(x, spread(parameter, x, axis, block))
    at = axis % x.dim()
    blocks = x.reshape(*x.shape[:at], parameter.shape[at], block, *x.shape[at + 1 :])
    return compute(blocks, parameter.unsqueeze(at + 1)).flatten(at, at + 1)


def dynamic_quantize(x: Tensor, *, outputs: int) -> object:
    """x over its own range, widened to hold zero, as uint8; scale and zero point."""
    # the range holds zero; torch has no extremes of nothing
    wide = x.new_zeros(1) if isinstance(x.numel(), int) and x.numel() == 0 else x
    low, high = wide.amin().clamp(max=0), wide.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, 1.0, scale)
    zero = torch.round(-low / scale).clamp(0, 255)
    y = (torch.round(x / scale) + zero).clamp(0, 255).to(torch.uint8)
    return y if outputs == 1 else (y, scale, zero.to(torch.uint8))


def centred(x: Tensor, zero: Maybe, *, rows: bool = False) -> Tensor:
    """x - zero in float64; a zero point per row of the left factor gets an axis for its columns."""
    if zero is None:
        return x.double()
    if rows and zero.dim() == 1 and zero.numel() > 1:
        zero = zero.unsqueeze(-1)
    return x.double() - (zero.reshape(()) if zero.numel() == 1 else zero).double()


def matmul_integer(a: Tensor, b: Tensor, a_zero: Maybe = None, b_zero: Maybe = None) -> Tensor:
    return integer_product(a, b, a_zero, b_zero)


def _scaled(y: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    low, high = (0, 255) if zero.dtype is torch.uint8 else (-128, 127)
    return (torch.round(y / scale) + zero.to(torch.float64)).clamp(low, high).to(zero.dtype)


def qlinear_matmul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    left = a_scale.unsqueeze(-1) if a_scale.dim() == 1 and a_scale.numel() > 1 else a_scale
    product = centred(a, a_zero, rows=True) @ centred(b, b_zero)
    return _scaled(product * left.double() * b_scale.double(), y_scale.double(), y_zero)


def conv_integer(
    x: Tensor,
    weight: Tensor,
    x_zero: Maybe = None,
    w_zero: Maybe = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    kernel = centred(weight, _per_channel(w_zero, weight))
    y = conv(
        centred(x, x_zero),
        kernel,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return y.to(torch.int32)


def qlinear_conv(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    weight: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Maybe = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """The bias is in units of x_scale * w_scale."""
    y = conv(
        centred(x, x_zero),
        centred(weight, _per_channel(w_zero, weight)),
        None if bias is None else bias.double(),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    out = w_scale.double().reshape(1, -1, *[1] * (x.dim() - 2)) if w_scale.numel() > 1 else w_scale.double()
    return _scaled(y * x_scale.double() * out, y_scale.double(), y_zero)


def _per_channel(zero: Maybe, weight: Tensor) -> Maybe:
    if zero is None or zero.numel() == 1:
        return zero
    return zero.reshape(-1, *[1] * (weight.dim() - 1))


QUANT: Table = standard(
    {
        "QuantizeLinear": Lowering(function=quantize, typed=2),
        "DequantizeLinear": dequantize,
        "DynamicQuantizeLinear": Lowering(function=dynamic_quantize, many=True),
        "MatMulInteger": matmul_integer,
        "QLinearMatMul": qlinear_matmul,
        "ConvInteger": conv_integer,
        "QLinearConv": qlinear_conv,
    }
)
