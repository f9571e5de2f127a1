"""HQQ: grids that fit most weights well and let outliers go, found without data.

    least over grids of sum |w - w'|^p        p <= 1       w' = value * scale + offset = (value - zero) * scale

By half-quadratic splitting: an error variable e takes over what the grid need not fit, so that both halves are closed
forms, and beta grows:

    e      <-  shrink(w - w') = sign(w - w') max(|w - w'| - |w - w'|^(p-1) / beta, 0)
    grid   <-  least squares for w - e, the values held
    values <-  nearest points for w

p leads the search. Of the grids that it meets the one of least squared error is kept: what a layer's outputs are off by
is a sum of many weights' errors, which add up as squares. From there the last steps go with e = 0, least squares alone.

Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models, 2023 (mobiusml.github.io/hqq_blog): the
problem, its split, the shrinkage and the zero point's update. Errors are counted in steps of the grid here, so that
beta means the same for weights of any magnitude. There the scale is held, `scales=False`, and the mean |w - w'| tells
when to stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...numerics.grid import Scheme, fit, float_of, round_to, spread
from ...weights import Affine, Quantized

#: Weights of which so many are worked on at once stay in a cache.
_CHUNK = 1 << 16
#: A step that lessens the loss of all that is worked on at once by no such share is the last.
_WORTH = 1e-3
#: Steps without an error variable, from the best grid met.
_SETTLING = 4


@dataclass(frozen=True)
class _Splitting:
    """What the iteration is told. low, high: ends of the grid. real: offsets are free, else multiples of the scale."""

    low: int
    high: int
    real: bool
    scales: bool
    p: float
    beta: float
    kappa: float
    steps: int
    dtype: np.dtype[np.generic]

    def held(self, numbers: Floats) -> Floats:
        """Numbers as they are stored."""
        with np.errstate(over="ignore"):
            return numbers.astype(self.dtype).astype(np.float64)


@overload
def hqq(
    weight: Array, scheme: Scheme, *, zero: Literal["integer"], scales: bool = True, p: float = 1.0,
    beta: float = 5.0, kappa: float = 1.01, steps: int = 20,
) -> Quantized: ...  # fmt: skip
@overload
def hqq(
    weight: Array, scheme: Scheme, *, zero: Literal["float"] = "float", scales: bool = True, p: float = 1.0,
    beta: float = 5.0, kappa: float = 1.01, steps: int = 20,
) -> Affine: ...  # fmt: skip
def hqq(
    weight: Array, scheme: Scheme, *, zero: Literal["float", "integer"] = "float", scales: bool = True, p: float = 1.0,
    beta: float = 5.0, kappa: float = 1.01, steps: int = 20,
) -> Quantized | Affine:  # fmt: skip
    """The grid of least squared error that was met for each group of a weight [in, out].

    zero: "float" gives real zero points, as offsets, and wants a scheme that is not symmetric; with "integer" they stay
    those of the nearest rounding. scales: fit the scale with the zero point; with False and integers this is rounding
    to nearest, for where the scale is held an integer zero point only shifts what is cut off. p: in (0, 1]; an error e
    pulls the grid as |e|^p does; the paper has 0.7, which takes longer and loses as much. beta: errors below
    beta^(-1 / (2 - p)) steps are fitted whole, larger ones in part; it grows by kappa each step. steps: how often the
    halves alternate at most; with `scales` it ends where a step gains less than a thousandth. Each group keeps the best
    grid it met and meets that of rounding to nearest first: none loses more than by that, but for offsets rounded to
    the weight's dtype.
    Raises ValueError for weights that are no finite matrix and options out of range.

    >>> hqq(np.array([[5.0], [5.25], [5.5], [5.75]], np.float32), Scheme(bits=2, symmetric=False)).dense().ravel()
    array([5.  , 5.25, 5.5 , 5.75], dtype=float32)
    """
    if zero == "float" and scheme.symmetric:
        raise ValueError("expected a scheme that is not symmetric: real zero points take the place of its integers")
    if not 0 < p <= 1 or not beta > 0 or not kappa >= 1 or steps < 0:
        raise ValueError(
            f"expected p in (0, 1], beta above 0, kappa of at least 1 and no negative number of steps, found {p=}, "
            f"{beta=}, {kappa=}, {steps=}"
        )
    wide = check(weight)
    scale, zeros = fit(weight, scheme)
    dtype = float_of(weight)
    real = zero == "float"
    splitting = _Splitting(scheme.low, scheme.high, real, scales, p, beta, kappa, steps, dtype)
    if real or scales:
        scale, zeros = _each_group(wide, scale, zeros, scheme, splitting)
    if not real:
        return scheme.quantized(round_to(weight, scale, zeros, scheme), scale, zeros, dtype)
    values = np.rint((wide - spread(zeros, len(wide), scheme)) / spread(scale, len(wide), scheme))
    levels = scheme.quantized(np.clip(values, scheme.low, scheme.high), scale, None, dtype)
    return Affine(levels, (zeros if scheme.group else zeros[0]).astype(dtype))


def _each_group(
    wide: Floats, scale: Floats, zero: Floats, scheme: Scheme, splitting: _Splitting
) -> tuple[Floats, Floats]:
    """Scales and zero points, or offsets where these are real, [groups, out], from those of rounding to nearest."""
    found = np.stack([scale, zero])
    size = scheme.group or max(len(wide), 1)
    whole = len(wide) // size
    # groups of equal length are worked on together; the last may be shorter
    for groups, rows in ((slice(0, whole), wide[: whole * size]), (slice(whole, None), wide[whole * size :])):
        if not rows.size:
            continue
        length = size if groups.start == 0 and whole else len(rows)
        runs = rows.reshape(-1, length, rows.shape[1]).swapaxes(1, 2).reshape(-1, length)
        each = found[:, groups].reshape(2, -1, 1)
        count = max(_CHUNK // length, 1)
        for part in (slice(start, start + count) for start in range(0, len(runs), count)):
            each[:, part] = _split(runs[part], each[0, part], each[1, part], splitting)
        found[:, groups] = each.reshape(found[:, groups].shape)
    return found[0], found[1]


def _split(runs: Floats, scale: Floats, zero: Floats, splitting: _Splitting) -> tuple[Floats, Floats]:
    """The best scale and zero point, or offset, [n, 1], of each of the runs [n, size]."""
    offset = splitting.held(-zero * scale) if splitting.real else -zero * scale
    _, error = _nearest(runs, scale, offset, splitting)
    best = _squared(scale, error)
    kept = scale, offset
    if splitting.real:
        # nothing has to be zero, so the range is the weights' own
        high, low = runs.max(1, keepdims=True), runs.min(1, keepdims=True)
        own = splitting.held((high - low) / splitting.high)
        scale, offset = np.where(own > 0, own, 1.0), low
    beta, total = splitting.beta, np.inf
    for step in range(splitting.steps + 1):
        levels, error = _nearest(runs, scale, offset, splitting)
        loss = _squared(scale, error)
        better = loss < best
        best = np.where(better, loss, best)
        kept = np.where(better, scale, kept[0]), np.where(better, offset, kept[1])
        total, before = float(best.sum()), total
        stays = splitting.scales and step > 1 and total > before * (1 - _WORTH)
        if step == splitting.steps or stays:
            break
        size = np.abs(error)
        # |e|^(p - 1), where that is finite
        pull = 1.0 if splitting.p == 1 else size**splitting.p / np.where(size > 0, size, 1.0)
        shrunk = np.maximum(size - pull / beta, 0.0)
        target = runs - scale * np.copysign(shrunk, error)
        scale, offset = _fit(target, levels, scale, offset, zero, splitting)
        beta *= splitting.kappa
    for _ in range(min(splitting.steps, _SETTLING)):
        levels, _ = _nearest(runs, *kept, splitting)
        scale, offset = _fit(runs, levels, *kept, zero, splitting)
        loss = _squared(scale, _nearest(runs, scale, offset, splitting)[1])
        better = loss < best
        best = np.where(better, loss, best)
        kept = np.where(better, scale, kept[0]), np.where(better, offset, kept[1])
    return kept[0], kept[1] if splitting.real else zero


def _squared(scale: Floats, error: Floats) -> Floats:
    """The squared error of each run, [n, 1], of errors in steps."""
    found: Floats = scale**2 * np.einsum("ij,ij->i", error, error)[:, None]
    return found


def _nearest(runs: Floats, scale: Floats, offset: Floats, splitting: _Splitting) -> tuple[Floats, Floats]:
    """The nearest points of the grid, and what they miss the weights by, in steps."""
    exact = (runs - offset) / scale
    levels: Floats = np.clip(np.rint(exact), splitting.low, splitting.high)
    return levels, exact - levels


def _fit(
    target: Floats, levels: Floats, scale: Floats, offset: Floats, zero: Floats, splitting: _Splitting
) -> tuple[Floats, Floats]:
    """Least squares for `target` by levels * scale + offset: over both, over the offset, or over the scale where the
    offset is -zero * scale. A scale that would become zero or change its sign stays as it was.
    """
    origin = levels.mean(1, keepdims=True) if splitting.real else zero
    middle = target.mean(1, keepdims=True) if splitting.real else np.zeros_like(zero)
    if splitting.scales:
        from_origin = levels - origin
        power = (from_origin**2).sum(1, keepdims=True)
        slope = (from_origin * (target - middle)).sum(1, keepdims=True) / np.where(power > 0, power, 1.0)
        slope = splitting.held(slope)
        scale = np.where((slope * scale > 0) & np.isfinite(slope), slope, scale)
    if not splitting.real:
        return scale, -zero * scale
    shift = splitting.held(middle - origin * scale)
    return scale, np.where(np.isfinite(shift), shift, offset)
