"""Numbers with fewer bits that still have an exponent each: fp16, bf16, fp8 and AdaptivFloat."""

from __future__ import annotations

from typing import Literal

import ml_dtypes
import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from ...weights import Codebook, Floating

Half = Literal["float16", "bfloat16"]
Eight = Literal["float8_e4m3fn", "float8_e5m2"]

#: Each type with its largest number.
_TYPES: dict[Half | Eight, tuple[np.dtype[np.generic], float]] = {
    "float16": (np.dtype(np.float16), 65504.0),
    "bfloat16": (np.dtype(ml_dtypes.bfloat16), (2 - 2.0**-7) * 2.0**127),
    "float8_e4m3fn": (np.dtype(ml_dtypes.float8_e4m3fn), 448.0),
    "float8_e5m2": (np.dtype(ml_dtypes.float8_e5m2), 57344.0),
}


def cast(weight: Array, dtype: Half) -> Array:
    """The nearest numbers of 16 bits, ties to even; what is out of range becomes the largest number, never infinity.

    Any shape. Source: IEEE 754-2019, section 4.3.1 (roundTiesToEven), but for the saturation. Raises ValueError for
    weights that are not finite and other types.

    >>> cast(np.array([1e5, 1 + 2**-11]), "float16")
    array([6.55e+04, 1.00e+00], dtype=float16)
    """
    if dtype not in ("float16", "bfloat16"):
        raise ValueError(f"expected float16 or bfloat16, found {dtype}")
    return _round(_check(weight), *_TYPES[dtype])


def float8(weight: Array, dtype: Eight = "float8_e4m3fn", *, axis: int | None = None) -> Floating:
    """The nearest numbers of 8 bits, ties to even, by scales that put the largest magnitude on the type's largest.

    E4M3FN has three bits of mantissa and reaches 448, E5M2 two and 57344. axis: one scale for each index along it; None
    for one in all. Scales are of the weight's dtype; a slice of zeros has the scale one. Any shape. Source:
    Micikevicius et al., FP8 Formats for Deep Learning, 2022, table 1. Raises ValueError for weights that are
    not finite and other types.

    >>> float8(np.array([[7.0, -3.5], [0.0, 14.0]], np.float32), axis=1).values.astype(np.float32).tolist()
    [[448.0, -112.0], [0.0, 448.0]]
    """
    if dtype not in ("float8_e4m3fn", "float8_e5m2"):
        raise ValueError(f"expected float8_e4m3fn or float8_e5m2, found {dtype}")
    wide = _check(weight)
    others = None if axis is None else tuple(index for index in range(wide.ndim) if index != axis % wide.ndim)
    largest = np.abs(wide).max(axis=others, keepdims=axis is not None, initial=0.0)
    target, limit = _TYPES[dtype]
    kind = _kind(weight)
    least = np.nextafter(kind.type(0), kind.type(1)).astype(np.float64)
    scale = np.where(largest > 0, np.maximum(largest / limit, least), 1.0).astype(kind)
    values = _round(wide / scale.astype(np.float64), target, limit)
    return Floating(values, scale.reshape(() if axis is None else -1), axis)


def adaptivfloat(weight: Array, *, bits: int = 8, exponent: int = 3) -> Codebook:
    """The nearest numbers with a sign, `exponent` bits of exponent and the others of mantissa, as a table of them all.

    The exponents end at that of the largest magnitude, so that there is one bias for the tensor. There are no denormal
    numbers; the smallest magnitude stands for zero instead, and so do weights nearer to zero than to the next one.
    Entry `sign | exponent | mantissa` of the table is what these bits stand for; zero has two. weight: a matrix. bits:
    2 to 8; exponent: 1 to bits - 1. Ties go to even mantissas. Source: Tambe et al., Algorithm-Hardware Co-Design of
    Adaptive Floating-Point Encodings for Resilient Deep Learning Inference, DAC 2020, section 3 and algorithm 1. Raises
    ValueError for weights that are not finite or no matrix, and other bits.

    >>> adaptivfloat(np.array([[3.0, 0.4, -1.1]]), bits=4, exponent=2).dense().tolist()
    [[3.0, 0.375, -1.0]]
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"expected 2 to 8 bits, found {bits}")
    if not 1 <= exponent < bits:
        raise ValueError(f"expected 1 to {bits - 1} bits of exponent, found {exponent}")
    if weight.ndim != 2:
        raise ValueError(f"expected a weight [rows, columns], found {weight.ndim} axes")
    wide = _check(weight)
    mantissa = bits - exponent - 1
    # frexp's mantissas lie in [1/2, 1)
    most = int(np.frexp(np.abs(wide).max(initial=0.0))[1]) - 1
    bias = most - (1 << exponent) + 1
    table = _table(bias, exponent, mantissa)
    magnitude = np.abs(wide)
    power = np.clip(np.frexp(magnitude)[1] - 1, bias, most)
    nearest = np.ldexp(np.rint(np.ldexp(magnitude, mantissa - power)), power - mantissa)
    nearest = np.clip(nearest, table[1], table[-1])
    # half of the smallest magnitude is as near to zero, and becomes zero
    nearest = np.where(magnitude > table[1] / 2, nearest, 0.0)
    codes = np.searchsorted(table, nearest)
    codes += np.where((wide < 0) & (codes > 0), len(table), 0)
    books = np.concatenate([table, -table])
    shape = (weight.shape[0], weight.shape[1])
    return Codebook(codes.astype(np.uint8)[None], books.astype(_kind(weight))[None, :, None], shape, bits)


def _table(bias: int, exponent: int, mantissa: int) -> Floats:
    """The magnitudes of a type without denormal numbers, ascending, the first of them zero."""
    codes = np.arange(1 << (exponent + mantissa))
    table: Floats = np.ldexp(1 + (codes & ((1 << mantissa) - 1)) / (1 << mantissa), bias + (codes >> mantissa))
    table[0] = 0.0
    return table


def _check(weight: Array) -> Floats:
    wide = np.asarray(weight, np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("the weight holds NaN or infinity")
    return wide


def _kind(weight: Array) -> np.dtype[np.generic]:
    """The dtype of the answers."""
    return weight.dtype if weight.dtype.kind == "f" or weight.dtype == ml_dtypes.bfloat16 else np.dtype(np.float32)


def _round(wide: Floats, kind: np.dtype[np.generic], limit: float) -> Array:
    """The nearest numbers of a type, ties to even, none beyond the limit."""
    single = np.clip(wide, -limit, limit)
    # ml_dtypes goes through float32; rounded to odd there, a number is on the same side of every tie as before
    held = single.astype(np.float32)
    inexact = held.astype(np.float64) != single
    outside = np.abs(held.astype(np.float64)) > np.abs(single)
    bits = np.where(outside, np.nextafter(held, np.float32(0)), held).view(np.uint32) | inexact.astype(np.uint32)
    rounded: Array = bits.view(np.float32).astype(kind)
    return rounded
