"""Float ops between a dequantization and a quantization, 8 bits in and out (domain com.microsoft).

A scale and a zero point are one each, but for QLinearConv's weight; a zero point that is left out is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from ...lowering import Lowering, Table, standard
from ..linear import padding
from ..quant import dequantize, qlinear_conv, quantize

Tensor = torch.Tensor
Maybe = torch.Tensor | None
Ints = Sequence[int]


def _read(x: Tensor, scale: Tensor, zero: Maybe) -> Tensor:
    """(x - zero) * scale in float32."""
    wide = x.to(torch.int32) if zero is None else x.to(torch.int32) - zero.to(torch.int32).reshape(())
    return wide.to(scale.dtype) * scale.reshape(())


def _written(y: Tensor, scale: Tensor, zero: Maybe, dtype: torch.dtype) -> Tensor:
    """round-half-even(y / scale) + zero, clamped to the type."""
    limits = torch.iinfo(dtype)
    y = torch.round(y / scale.reshape(()))
    y = y if zero is None else y + zero.reshape(()).to(y.dtype)
    return y.clamp(limits.min, limits.max).to(dtype)


def qlinear_add(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Maybe,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Maybe,
    y_scale: Tensor,
    y_zero: Maybe = None,
) -> Tensor:
    return _written(_read(a, a_scale, a_zero) + _read(b, b_scale, b_zero), y_scale, y_zero, a.dtype)


def qlinear_mul(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Maybe,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Maybe,
    y_scale: Tensor,
    y_zero: Maybe = None,
) -> Tensor:
    return _written(_read(a, a_scale, a_zero) * _read(b, b_scale, b_zero), y_scale, y_zero, a.dtype)


def qlinear_sigmoid(x: Tensor, x_scale: Tensor, x_zero: Maybe, y_scale: Tensor, y_zero: Maybe = None) -> Tensor:
    return _written(torch.sigmoid(_read(x, x_scale, x_zero)), y_scale, y_zero, x.dtype)


def qlinear_leaky_relu(
    x: Tensor, x_scale: Tensor, x_zero: Maybe, y_scale: Tensor, y_zero: Maybe = None, *, alpha: float = 0.01
) -> Tensor:
    y = _read(x, x_scale, x_zero)
    return _written(torch.where(y < 0, alpha * y, y), y_scale, y_zero, x.dtype)


def qlinear_softmax(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Maybe,
    y_scale: Tensor,
    y_zero: Maybe = None,
    *,
    axis: int = -1,
    opset: int = 13,
) -> Tensor:
    """Over one axis from opset 13 on, before that over all from `axis` on as one."""
    y = _read(x, x_scale, x_zero)
    chances = torch.softmax(y, axis) if opset >= 13 else torch.softmax(y.flatten(axis % y.dim()), -1).reshape(y.shape)
    return _written(chances, y_scale, y_zero, x.dtype)


def qlinear_where(
    condition: Tensor,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    y: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    z_scale: Tensor,
    z_zero: Tensor,
) -> Tensor:
    chosen = torch.where(condition, _read(x, x_scale, x_zero), _read(y, y_scale, y_zero))
    return _written(chosen, z_scale, z_zero, x.dtype)


def qlinear_concat(y_scale: Tensor, y_zero: Tensor, *parts: Tensor, axis: int) -> Tensor:
    """`parts` are tensor, scale, zero point in turn."""
    triples = zip(parts[0::3], parts[1::3], parts[2::3], strict=True)
    joined = torch.cat([_read(x, scale, zero) for x, scale, zero in triples], axis)
    return _written(joined, y_scale, y_zero, y_zero.dtype)


def qlinear_reduce_mean(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Maybe,
    y_scale: Tensor,
    y_zero: Maybe = None,
    *,
    axes: Ints = (),
    keepdims: int = 1,
) -> Tensor:
    y = _read(x, x_scale, x_zero)
    return _written(y.mean(list(axes) or list(range(x.dim())), bool(keepdims)), y_scale, y_zero, x.dtype)


def qlinear_global_average_pool(
    x: Tensor, x_scale: Tensor, x_zero: Tensor, y_scale: Tensor, y_zero: Tensor, *, channels_last: int = 0
) -> Tensor:
    axes = list(range(1, x.dim() - 1) if channels_last else range(2, x.dim()))
    return _written(_read(x, x_scale, x_zero).mean(axes, keepdim=True), y_scale, y_zero, x.dtype)


def qlinear_average_pool(
    x: Tensor,
    x_scale: Tensor,
    x_zero: Maybe,
    y_scale: Tensor,
    y_zero: Maybe = None,
    *,
    kernel_shape: Ints,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    channels_last: int = 0,
    count_include_pad: int = 0,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Mean over windows of what lies inside the image; or, with the padding, over as many as a window has."""
    y = _read(x, x_scale, x_zero)
    y = y.movedim(-1, 1) if channels_last else y
    deep = y.dim() - 2
    steps = list(strides or [1] * deep)
    around = padding(y, kernel_shape, steps, [1] * deep, pads, auto_pad)
    flat = [amount for pair in reversed(around) for amount in pair]
    # a window that starts inside may reach beyond the padding
    over = [amount for step in reversed(steps) for amount in (0, step - 1 if ceil_mode else 0)]
    around_it = [sum(pair) for pair in zip(flat, over, strict=True)]
    sums = _window_sums(functional.pad(y, around_it), kernel_shape, steps)
    if count_include_pad:
        pooled = sums / math.prod(kernel_shape)
    else:
        inside = functional.pad(torch.ones_like(y[:1, :1]), around_it)
        pooled = sums / _window_sums(inside, kernel_shape, steps).clamp(min=1)
    pooled = pooled.movedim(1, -1) if channels_last else pooled
    return _written(pooled, y_scale, y_zero, x.dtype)


def _window_sums(x: Tensor, kernel: Ints, steps: Ints) -> Tensor:
    for axis, (size, step) in enumerate(zip(kernel, steps, strict=True), 2):
        x = x.unfold(axis, size, step).sum(-1)
    return x


def qlinear_conv_contrib(
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
    channels_last: int = 0,
    dilations: tuple[int, ...] | None = None,
    group: int = 1,
    kernel_shape: tuple[int, ...] | None = None,
    pads: tuple[int, ...] | None = None,
    strides: tuple[int, ...] | None = None,
) -> Tensor:
    """The standard op, with the channels of x and the result last where asked for."""
    y = qlinear_conv(
        x.movedim(-1, 1) if channels_last else x,
        x_scale,
        x_zero,
        weight,
        w_scale,
        w_zero,
        y_scale,
        y_zero,
        bias,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return y.movedim(1, -1) if channels_last else y


def quantize_contrib(
    x: Tensor, scale: Tensor, zero: Maybe = None, *, axis: int = 1, dtype: int | None = None
) -> Tensor:
    return quantize(x, scale, zero, axis=axis, dtype=dtype)


def dequantize_contrib(x: Tensor, scale: Tensor, zero: Maybe = None, *, axis: int = 1) -> Tensor:
    return dequantize(x, scale, zero, axis=axis)


QLINEAR: Table = standard(
    {
        "QLinearAdd": qlinear_add,
        "QLinearMul": qlinear_mul,
        "QLinearSigmoid": qlinear_sigmoid,
        "QLinearLeakyRelu": qlinear_leaky_relu,
        "QLinearSoftmax": qlinear_softmax,
        "QLinearWhere": qlinear_where,
        "QLinearConcat": qlinear_concat,
        "QLinearReduceMean": qlinear_reduce_mean,
        "QLinearGlobalAveragePool": qlinear_global_average_pool,
        "QLinearAveragePool": qlinear_average_pool,
        "QLinearConv": qlinear_conv_contrib,
        "QuantizeLinear": Lowering(function=quantize_contrib, typed=2),
        "DequantizeLinear": dequantize_contrib,
    },
    domain="com.microsoft",
)
