"""From what was seen of an activation to the range that its integers cover.

    value = clip(round(x / scale) + zero, bottom, top)          x' = (value - zero) * scale

Zero is always a point of the grid, so that padding and ReLU stay exact. What lies outside the range is clipped to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...accumulators import Histogram, Range
from ...edit import Array
from ...numerics.arrays import Floats

Integers = NDArray[np.int64]
Bounds = tuple[float, float]

#: Steps of a grid are tried from twice those of the whole range to 2^-10 of them, at first by this power of two.
_NARROWEST, _STEP = 10.0, 0.25
#: Zero points that are tried at first, in how many bins, and what is weighed at a time.
_ZEROS, _COARSE, _BATCH = 17, 512, 64
#: Bins narrower than this share of the others are one number.
_THIN = 1e-6


def activation_grid(
    low: ArrayLike, high: ArrayLike, *, bits: int = 8, symmetric: bool = False
) -> tuple[NDArray[np.float32], Array]:
    """Scale and zero point of the grid over [low, high], stretched to take in zero; arrays give one grid each.

    bits: 2 to 16; the zero point is int8 or int16 where symmetric (and zero), else uint8 or uint16. Symmetric: the
    least scale whose grid reaches both ends. Else the range is divided evenly and the zero point rounded, which moves
    the ends by up to half a step (Jacob et al., Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference, 2018, section 2.1). The range [0, 0] has the scale one; no scale is so small
    that its inverse overflows. Raises ValueError for ends that are not finite or not in order, and other bits.

    >>> scale, zero = activation_grid(-1.0, 4.1)
    >>> round(float(scale), 6), int(zero), zero.dtype
    (0.02, 50, dtype('uint8'))
    """
    least, most = np.asarray(low, np.float64), np.asarray(high, np.float64)
    _check_bits(bits, 16)
    if not (np.isfinite(least).all() and np.isfinite(most).all() and (least <= most).all()):
        raise ValueError(f"expected finite ranges in order, found {low!r} to {high!r}")
    scale, _ = _grid(np.minimum(least, 0.0), np.maximum(most, 0.0), bits, symmetric)
    held = np.where(scale > 0, np.maximum(scale, np.finfo(np.float32).tiny), 1.0).astype(np.float32)
    bottom, top = _ends(bits, symmetric)
    zero = np.zeros_like(scale) if symmetric else np.clip(np.rint(-np.minimum(least, 0.0) / held), bottom, top)
    return held, zero.astype(f"{'i' if symmetric else 'u'}{1 if bits <= 8 else 2}")


def min_max(seen: Range | Histogram) -> Bounds:
    """Everything that was seen. Raises ValueError where that is nothing."""
    if not seen.count:
        raise ValueError("expected the range of some numbers, found none seen")
    return seen.low, seen.high


def percentile(seen: Histogram, *, fraction: float = 0.9999) -> Bounds:
    """The range between the quantiles (1 - fraction) / 2 and (1 + fraction) / 2, numbers spread evenly within bins.

    fraction: of the numbers, the share that is kept, above 0 and at most 1; the same number is cut off at both sides.
    Where both lie in one bin, as where nearly all numbers are zero, nothing is cut off.

    Raises ValueError for other fractions and where nothing was seen.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"expected to keep a fraction above 0 and at most 1, found {fraction}")
    min_max(seen)
    below = np.cumsum(seen.counts)
    wanted = np.array([(1 - fraction) / 2, (1 + fraction) / 2]) * seen.count
    # the first bin that reaches the quantile is not empty, and neither is the first of all
    index = np.searchsorted(below, wanted)
    if index[0] == index[1]:
        return seen.low, seen.high
    inside = (wanted - below[index] + seen.counts[index]) / seen.counts[index]
    inside = np.clip(inside, 0.0, 1.0)
    low, high = (1 - inside) * seen.edges[index] + inside * seen.edges[index + 1]
    return float(low), float(high)


def entropy(seen: Histogram, *, bits: int = 8, symmetric: bool = False) -> Bounds:
    """The range whose quantized distribution says most about the one that was seen (least KL divergence).

    Source: Migacz, 8-bit Inference with TensorRT, GTC 2017. A window of bins, what lies outside added to its outermost
    bins, is the reference P. Its bins without what lies outside, merged evenly into 2^bits levels (symmetric:
    magnitudes into 2^(bits-1)) and spread again over those bins of each level where P is not zero, are Q. Where P has a
    bin and Q has none, the divergence is infinite: the window's outermost level holds nothing but what was clipped.
    Symmetric windows start at zero, and all of at least as many bins as levels are tried. Others take in zero; all ends
    are tried in turn at either side, from the best pair of a coarse grid on. A histogram with no more bins than levels
    is not clipped. Raises ValueError for bits outside 2 to 16 and where nothing was seen.
    """
    _check_bits(bits, 16)
    min_max(seen)
    wide = seen.through_zero()
    if symmetric:
        counts, levels = _folded(wide), 1 << (bits - 1)
        if len(counts) <= levels:
            return seen.low, seen.high
        stops = np.arange(len(counts), levels - 1, -1)
        _, stop, _ = _best(counts, np.zeros_like(stops), stops, levels)
        limit = stop * wide.width
        return max(wide.low, -limit), min(wide.high, limit)
    levels = 1 << bits
    if len(wide.counts) <= levels:
        return seen.low, seen.high
    start, stop = _window(wide.counts, -wide.first, levels)
    return float(wide.edges[start]), float(wide.edges[stop])


def mse(seen: Histogram, *, bits: int = 8, symmetric: bool = False) -> Bounds:
    """The range of the grid with the least expected squared error of rounding and clipping.

    Numbers are spread evenly within bins, and the error is integrated exactly. Steps from twice those of the whole
    range to 2^-10 of them are tried together with zero points (unless symmetric, or of one sign): coarsely, then ever
    more finely around the best. What is returned is what the grid reaches, so that `activation_grid` of it is that
    grid. Raises ValueError for bits outside 2 to 16 and where nothing was seen.
    """
    _check_bits(bits, 16)
    low, high = min_max(seen)
    low, high = min(low, 0.0), max(high, 0.0)
    bottom, top = _ends(bits, symmetric)
    whole, start = _grid(np.array([low]), np.array([high]), bits, symmetric)
    # zeros, or numbers whose squares all vanish
    if whole[0] < np.finfo(np.float64).tiny:
        return low, high
    step = _STEP if low < 0 < high and not symmetric else _STEP / 4
    scale = whole * 2.0 ** np.arange(1.0, -_NARROWEST, -step)
    zero = np.rint(np.linspace(bottom, top, _ZEROS)) if low < 0 < high and not symmetric else start
    reach = (top - bottom) // (_ZEROS - 1) if len(zero) > 1 else 0
    weighed = Histogram(min(_COARSE, seen.bins))
    weighed.merge(seen)
    while True:
        scales, zeros = (each.reshape(-1) for each in np.meshgrid(scale, zero))
        # the whole range is always among those that are tried, and so is the best so far
        scales, zeros = np.append(scales, whole), np.append(zeros, start)
        best = int(np.argmin(squared_error(weighed, scales, zeros, bits=bits, symmetric=symmetric)))
        if step < 1e-3 and reach <= 1:
            return float((bottom - zeros[best]) * scales[best]), float((top - zeros[best]) * scales[best])
        scale = scales[best] * 2.0 ** np.linspace(-step, step, 7)
        zero = np.unique(np.clip(np.rint(zeros[best] + np.linspace(-reach, reach, 5)), bottom, top))
        step, reach, weighed = step / 3, -(-reach // 2), seen


def squared_error(seen: Histogram, scale: Floats, zero: Floats, *, bits: int = 8, symmetric: bool = False) -> Floats:
    """The mean squared error of rounding to each of some grids, scale and zero [grids], with clipping.

    Numbers are spread evenly within the bins of the histogram.
    """
    ends = _ends(bits, symmetric)
    parts = range(0, len(scale), _BATCH)
    errors = [_squared_error(seen, scale[part : part + _BATCH], zero[part : part + _BATCH], *ends) for part in parts]
    return np.concatenate(errors) if errors else np.zeros(0)


def _squared_error(seen: Histogram, scale: Floats, zero: Floats, bottom: int, top: int) -> Floats:
    edges, counts = seen.edges, seen.counts
    thin = np.diff(edges) < _THIN * seen.width
    at = edges / scale[:, None] + zero[:, None]
    # in steps, the integral of (t - round(t))^2 from 0 is round(t) / 12 + (t - round(t))^3 / 3
    inside = np.clip(at, bottom, top)
    nearest = np.rint(inside)
    off = inside - nearest
    area = np.diff(nearest / 12 + off * off * off / 3)
    # b^3 - a^3 = (b - a) (a^2 + a b + b^2)
    beyond = at - inside
    first, last = beyond[:, :-1], beyond[:, 1:]
    area += (last - first) * (first * first + first * last + last * last) / 3
    mean = np.where(thin, (at - nearest)[:, :-1] ** 2, area / np.where(thin, 1.0, np.diff(at)))
    error: Floats = mean @ counts / max(seen.count, 1) * scale**2
    return error


def _grid(low: Floats, high: Floats, bits: int, symmetric: bool) -> tuple[Floats, Floats]:
    """Scale and zero point of the grid over ranges that take in zero."""
    bottom, top = _ends(bits, symmetric)
    if symmetric:
        scale = np.maximum(high / top, low / bottom)
        return scale, np.zeros_like(scale)
    # the ends apart, for their difference may overflow
    scale = high / top - low / top
    return scale, np.clip(np.rint(-low / np.where(scale > 0, scale, 1.0)), bottom, top)


def _ends(bits: int, symmetric: bool) -> tuple[int, int]:
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if symmetric else (0, (1 << bits) - 1)


def _check_bits(bits: int, most: int) -> None:
    if not 2 <= bits <= most:
        raise ValueError(f"expected 2 to {most} bits, found {bits}")


def _folded(wide: Histogram) -> Integers:
    """Counts of magnitudes, from bins that reach to zero."""
    zero = -wide.first
    negative, positive = wide.counts[:zero][::-1], wide.counts[zero:]
    folded = np.zeros(max(len(negative), len(positive)), np.int64)
    folded[: len(negative)] += negative
    folded[: len(positive)] += positive
    return folded


def _window(counts: Integers, zero: int, levels: int) -> tuple[int, int]:
    """The window of bins around the edge `zero` with the least divergence: on a coarse grid, then side by side."""
    coarse = 33
    starts = np.unique(np.linspace(0, zero, coarse).astype(np.int64))
    stops = np.unique(np.linspace(zero, len(counts), coarse).astype(np.int64))[::-1]
    pairs = np.stack([each.reshape(-1) for each in np.meshgrid(starts, stops)])
    start, stop, least = _best(counts, pairs[0], pairs[1], levels)
    while True:
        before = least
        start, stop, least = _best(counts, np.arange(zero + 1), np.full(zero + 1, stop), levels)
        ends = np.arange(len(counts), zero - 1, -1)
        start, stop, least = _best(counts, np.full_like(ends, start), ends, levels)
        if not least < before:
            return start, stop


def _best(counts: Integers, starts: Integers, stops: Integers, levels: int) -> tuple[int, int, float]:
    wide = stops - starts >= levels
    starts, stops = starts[wide], stops[wide]
    parts = [slice(part, part + _BATCH) for part in range(0, len(starts), _BATCH)]
    found = np.concatenate([_divergence(counts, starts[part], stops[part], levels) for part in parts])
    best = int(np.argmin(found))
    return int(starts[best]), int(stops[best]), float(found[best])


def _divergence(counts: Integers, starts: Integers, stops: Integers, levels: int) -> Floats:
    """KL(P || Q) of each window [start, stop) of bins, of at least `levels` bins and two; levels: a power of two."""
    total, nonzero, information = (
        np.concatenate([[0], np.cumsum(each)]) for each in (counts, counts > 0, _xlogx(counts.astype(np.float64)))
    )
    ends = starts[:, None] + (np.arange(levels + 1) * (stops - starts)[:, None] >> (levels.bit_length() - 1))
    below, above = total[starts], total[-1] - total[stops]
    first, last = counts[starts], counts[stops - 1]
    kept, spread = np.diff(total[ends]), np.diff(nonzero[ends])
    reference = kept.copy()
    reference[:, 0] += below
    reference[:, -1] += above
    spread[:, 0] += (first == 0) & (below > 0)
    spread[:, -1] += (last == 0) & (above > 0)
    # with P = p / n and Q = q / m: n KL = sum p log p - sum p log q - n log n + n log m, and q is constant in a level
    own = information[stops] - information[starts]
    own += _xlogx(first + below) - _xlogx(first) + _xlogx(last + above) - _xlogx(last)
    each = np.log(np.where(kept > 0, kept, 1) / np.maximum(spread, 1))
    cross = np.where(reference > 0, np.where(kept > 0, reference * each, -np.inf), 0.0).sum(1)
    inside = total[stops] - total[starts]
    count = float(total[-1])
    divergence: Floats = (own - cross) / count - np.log(count) + np.log(np.maximum(inside, 1))
    return divergence


def _xlogx(numbers: Array) -> Floats:
    wide = numbers.astype(np.float64)
    held: Floats = wide * np.log(np.where(wide > 0, wide, 1.0))
    return held
