"""Uniform quantization of a weight by its largest magnitude."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...weights import Quantized

#: Two products of a uint8 and an int8, added in int16, fit when the int8s add up to no more: 255 * 128 < 2^15.
PAIR_LIMIT = 128


def symmetric(weight: Array, *, bits: int = 8, axis: int | None = None, paired: int | None = None) -> Quantized:
    """Round to the nearest of 2^bits - 1 levels around zero: q = round(w / s), s = max|w| / (2^(bits-1) - 1).

    bits: 2 to 8. axis: one scale for each index along it; None for one scale in all. A slice of zeros gets the scale
    one, and no scale is smaller than the dtype's smallest number. Rounds half to even, as ONNX's QuantizeLinear does.
    paired: an axis along which x86 CPUs without VNNI add neighbouring products (the even index and the next) in 16
    bits, where they saturate; scales become as large as it takes for no such pair to exceed PAIR_LIMIT in sum.
    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
    2018, section 2.1, with zero point zero. Raises ValueError for weights that are not finite and other bits.

    >>> symmetric(np.array([[1.0, -2.0], [0.5, 4.0]], np.float32), axis=1).values.tolist()
    [[127, -64], [64, 127]]
    """
    if not np.isfinite(weight).all():
        raise ValueError("the weight holds NaN or infinity")
    if not 2 <= bits <= 8:
        raise ValueError(f"an int8 holds 2 to 8 bits, not {bits}")
    top = (1 << (bits - 1)) - 1
    others = None if axis is None else tuple(index for index in range(weight.ndim) if index != axis % weight.ndim)
    largest = np.abs(weight).max(axis=others, keepdims=axis is not None, initial=0.0).astype(np.float64)
    if paired is not None:
        largest = np.maximum(largest, _pair_sums(weight, paired, others) * top / (PAIR_LIMIT - 0.5))
    least = np.nextafter(weight.dtype.type(0), weight.dtype.type(1)).astype(np.float64)
    scale = np.where(largest > 0, np.maximum(largest / top, least), 1.0).astype(weight.dtype)
    values = np.clip(np.rint(np.divide(weight, scale, dtype=np.result_type(weight, np.float32))), -top, top)
    return Quantized(values.astype(np.int8), scale.reshape(-1) if axis is not None else scale.reshape(()), axis)


def _pair_sums(weight: Array, along: int, others: tuple[int, ...] | None) -> NDArray[np.float64]:
    """The largest |w_2i + w_2i+1| of each slice; rounding both adds at most one."""
    moved = np.moveaxis(np.asarray(weight, np.float64), along, 0)
    even = moved[: moved.shape[0] // 2 * 2]
    sums = np.moveaxis(np.abs(even[0::2] + even[1::2]), 0, along)
    largest: NDArray[np.float64] = sums.max(axis=others, keepdims=others is not None, initial=0.0)
    return largest
