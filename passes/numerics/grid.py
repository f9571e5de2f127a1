"""Uniform grids: bits, groups, scales and zero points, and rounding to the nearest point (RTN).

    value = clip(round(w / scale) + zero, low, high)          w' = (value - zero) * scale

Weights are [in, out]; each output column, or each run of `group` rows of one, has a scale of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..edit import Array
from ..weights import Quantized
from .arrays import Floats, check
from .arrays import float_of as float_of

#: Weights of which so many are rounded at once.
_CHUNK = 1 << 20
#: By how much of a step the ends of a grid of few bits may cut weights off.
_CUTS = (0.0, 0.25, 0.5)


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How weights are spelled.

    bits: 2 to 8. group: rows that share a scale, the last of a column may be fewer; 0 for a whole column. symmetric:
    signed values around zero; else unsigned ones with a zero point.
    """

    bits: int = 8
    group: int = 0
    symmetric: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"expected 2 to 8 bits, found {self.bits}")
        if self.group < 0:
            raise ValueError(f"expected a group of at least one row, or 0 for whole columns, found {self.group}")

    @property
    def low(self) -> int:
        """The least value."""
        return -(1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def high(self) -> int:
        """The largest value."""
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1

    def groups(self, rows: int) -> list[slice]:
        """The runs of rows that share a scale."""
        size = self.group or max(rows, 1)
        return [slice(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]

    def quantized(self, values: Array, scale: Floats, zero: Floats | None, dtype: np.dtype[np.generic]) -> Quantized:
        """Integers [in, out] with scales [groups, out] as a weight whose scales are of `dtype`."""
        integers = np.int8 if self.symmetric else np.uint8
        kept = None if self.symmetric or zero is None else zero.astype(integers)
        stored = scale.astype(dtype)
        if not self.group:
            return Quantized(values.astype(integers), stored[0], 1, None if kept is None else kept[0], 0, self.bits)
        return Quantized(values.astype(integers), stored, 0, kept, self.group, self.bits)


def fit(weight: Array, scheme: Scheme) -> tuple[Floats, Floats]:
    """Scales and zero points, each [groups, out], by which no weight of a group is cut off by more than a step.

    In 8 bits nothing is cut off: symmetric grids have the zero point 0 and the least scale that reaches the group's
    largest and its smallest weight; else the range of the group, stretched to take in zero, is divided evenly, and the
    zero point is an integer (Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, 2018, section 2.1 and equation 1).

    In fewer bits the group takes the one of least squared error of that grid and those whose ends cut off a quarter and
    half a step, by which all other weights are rounded more finely. Scales of symmetric ones may be negative, so that
    the end which reaches further, -2^(bits - 1), is on either side; the grid whose far end is the weight of largest
    magnitude is tried too. A group of zeros has the scale one.

    Raises ValueError for weights that are not finite or no matrix.
    """
    checked, dtype = check(weight), float_of(weight)
    parts = [checked[rows] for rows in scheme.groups(len(checked))]
    high = np.stack([part.max(0, initial=0.0) for part in parts])
    low = np.stack([part.min(0, initial=0.0) for part in parts])
    first, *others = (_around_zero if scheme.symmetric else _between)(high, low, scheme, dtype)
    if not others:
        return first
    (scale, zero), least = first, _lost(parts, *first, scheme)
    for trial in others:
        lost = _lost(parts, *trial, scheme)
        better = lost < least
        scale, zero = np.where(better, trial[0], scale), np.where(better, trial[1], zero)
        least = np.minimum(least, lost)
    return scale, zero


def round_to(weight: Array, scale: Floats, zero: Floats, scheme: Scheme) -> NDArray[np.int16]:
    """The nearest point of the grid for each weight [in, out], halves to even."""
    wide = np.asarray(weight, np.float64)
    values = np.rint(wide / spread(scale, len(wide), scheme)) + spread(zero, len(wide), scheme)
    return np.clip(values, scheme.low, scheme.high).astype(np.int16)


def nearest(weight: Array, scheme: Scheme) -> Quantized:
    """Round to the nearest point of the grid that `fit` gives (RTN).

    >>> nearest(np.array([[1.0], [-2.0], [0.5]], np.float32), Scheme(bits=4)).values.tolist()
    [[4], [-8], [2]]
    """
    dtype = float_of(weight)
    if weight.ndim != 2 or weight.size <= _CHUNK:
        scale, zero = fit(weight, scheme)
        return scheme.quantized(round_to(weight, scale, zero, scheme), scale, zero, dtype)
    # columns are independent: a large table is never held in float64
    values, kept = np.empty(weight.shape, np.int8 if scheme.symmetric else np.uint8), []
    each = max(1, _CHUNK // len(weight))
    for columns in (slice(start, start + each) for start in range(0, weight.shape[1], each)):
        part = weight[:, columns]
        kept.append(fit(part, scheme))
        values[:, columns] = round_to(part, *kept[-1], scheme)
    scale, zero = (np.concatenate(parts, 1) for parts in zip(*kept, strict=True))
    return scheme.quantized(values, scale, zero, dtype)


def spread(parameter: Floats, rows: int, scheme: Scheme) -> Floats:
    """A number for each group, [groups, out], as one for each row."""
    return parameter.repeat([part.stop - part.start for part in scheme.groups(rows)], 0) if scheme.group else parameter


def nonzero(scale: Floats, otherwise: Floats, dtype: np.dtype[np.generic]) -> Floats:
    """Scales as `dtype` holds them; `otherwise` where they would become zero."""
    stored = scale.astype(dtype).astype(np.float64)
    kept: Floats = np.where(stored != 0, stored, otherwise)
    return kept


def _around_zero(high: Floats, low: Floats, scheme: Scheme, dtype: np.dtype[np.generic]) -> list[tuple[Floats, Floats]]:
    """Symmetric grids of groups with these ends, [groups, out]."""
    # kernels of 8 bits take scales for positive, and the grid is nearly even
    if scheme.bits == 8:
        scales = [np.maximum(high / scheme.high, low / scheme.low)]
    else:
        scales = [np.where(high > -low, high, low) / scheme.low]
        for cut in _CUTS:
            near, far = scheme.high + cut, cut - scheme.low
            upright, mirrored = np.maximum(high / near, -low / far), np.maximum(high / far, -low / near)
            scales.append(np.where(mirrored < upright, -mirrored, upright))
    return [(_held(scale, dtype), np.zeros_like(scale)) for scale in scales]


def _between(high: Floats, low: Floats, scheme: Scheme, dtype: np.dtype[np.generic]) -> list[tuple[Floats, Floats]]:
    """Grids between these ends, [groups, out]."""
    found = []
    for cut in (0.0,) if scheme.bits == 8 else _CUTS:
        scale = _held((high - low) / (scheme.high + 2 * cut), dtype)
        found.append((scale, np.clip(np.rint(-low / scale - cut), scheme.low, scheme.high)))
    return found


def _lost(parts: Sequence[Floats], scale: Floats, zero: Floats, scheme: Scheme) -> Floats:
    """The squared error of rounding to these grids, [groups, out]."""
    lost = []
    for part, step, origin in zip(parts, scale, zero, strict=True):
        missed = part - np.clip(np.rint(part / step), scheme.low - origin, scheme.high - origin) * step
        lost.append(np.einsum("io,io->o", missed, missed))
    return np.stack(lost)


def _held(scale: Floats, dtype: np.dtype[np.generic]) -> Floats:
    """Scales as a dtype holds them, one where they are zero and never so small that they become zero."""
    least = float(np.nextafter(np.zeros((), dtype), np.ones((), dtype)))
    size = np.where(scale != 0, np.maximum(np.abs(scale), least), 1.0)
    held: Floats = np.copysign(size, scale).astype(dtype).astype(np.float64)
    return np.where(scale != 0, held, 1.0)
