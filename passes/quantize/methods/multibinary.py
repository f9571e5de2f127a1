"""Weights and activations as sums of a few scaled signs: greedy, refined, alternating.

    w  ~  sum over planes p of  alpha_p * b_p          b_p in {-1, +1}, one alpha_p for each plane and output

The best sign of a number depends on nothing but the number and the scales, and is the same over whole intervals: with
the weights of an output sorted, each algorithm moves no more than the 2^planes - 1 bounds between intervals, and reads
sums over intervals off running sums. Weights are [in, out] and so are the planes, with scales [planes, 1, out].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...weights import Planes

Integers = NDArray[np.int64]

#: Numbers that are fitted at once: bounds the memory, not the result.
_CHUNK = 1 << 21
#: 2^planes levels are told apart, each by an index of 8 bits.
_MOST = 8
#: What a round must gain to be followed by another, as a part of what the planes hold of the squared weights.
_LEAST_GAIN = 1e-12


def greedy(weight: Array, planes: int) -> Planes:
    """Each plane is the sign of what the planes before it left over, its scale the mean magnitude of that.

    weight: [in, out]. planes: 1 to 8. Signs are +1 where the rest is zero. An output of zeros has scales of zero.
    Source: Guo et al., Network Sketching: Exploiting Binary Structure in Deep CNNs, 2017, algorithm 1. Raises
    ValueError for a weight that is no matrix of finite numbers, and other numbers of planes.

    >>> found = greedy(np.array([[3.0], [-1.0]], np.float32), 2)
    >>> found.scale.reshape(-1).tolist(), found.dense().tolist()
    ([2.0, 1.0], [[3.0], [-1.0]])
    """
    return _outputs(weight, planes, _greedy)


def refined(weight: Array, planes: int) -> Planes:
    """Each plane is the sign of what is left, and then the scales of all planes so far are fitted by least squares.

    Nothing in the algorithm says that from the third plane on it is better than `greedy`: an output for which it is
    not gets greedy's planes. Shapes, options and errors as there. Source: Guo et al., 2017, algorithm 2.
    """
    return _outputs(weight, planes, _refined)


def alternating(weight: Array, planes: int, *, iterations: int = 30) -> Planes:
    """The scales by least squares and every code the nearest level, in turn, until an output gains nothing by it.

    Starts for each output from what is better: `refined`, or this algorithm's own answer for one plane fewer and the
    sign of what it left. So the error is never above `refined` nor above that of fewer planes, but for the rounding of
    the scales to the weight's dtype; every code is nearest for the scales as rounded. iterations: at most so many
    rounds for each plane. Shapes and errors as for `greedy`. Source: Xu et al., Alternating Multi-bit Quantization for
    Recurrent Neural Networks, 2018, algorithms 1 and 2.
    """
    _check_iterations(iterations)
    return _outputs(weight, planes, lambda numbers, count: _nested(numbers, count, iterations), settle=True)


def online(activations: Array, planes: int, *, iterations: int = 2) -> Planes:
    """Planes of each token's activations, as a runtime would compute them: `greedy`, then a few alternations.

    activations: [tokens, features]; the planes are so too, with scales [planes, tokens, 1]. iterations: 0 is greedy
    alone. Options and errors as for `greedy`. Source: Xu et al., 2018, section 4 (two alternations).
    """
    _check_iterations(iterations)
    return _rows(
        check(activations),
        planes,
        lambda numbers, count: _alternate(numbers, _greedy(numbers, count), iterations),
        activations.dtype,
        settle=iterations > 0,
    )


@dataclass(frozen=True)
class _Numbers:
    """Rows of numbers in rising order, [rows, n], and their running sums from 0, [rows, n + 1]."""

    rising: Floats
    sums: Floats

    def below(self, limits: Floats) -> Integers:
        """How many numbers of its row are less than each limit, [rows, limits]."""
        rows, size = self.rising.shape
        flat, starts = self.rising.reshape(-1), np.arange(rows)[:, None] * size
        low = np.zeros(limits.shape, np.int64)
        for power in reversed(range(size.bit_length())):
            ahead = low + (1 << power)
            less = flat.take(np.minimum(ahead, size) + (starts - 1)) < limits
            less &= ahead <= size
            np.copyto(low, ahead, where=less)
        return low

    def of(self, rows: NDArray[np.bool_]) -> _Numbers:
        """Some of the rows."""
        return _Numbers(self.rising[rows], self.sums[rows])


@dataclass(frozen=True)
class _Fit:
    """Intervals of the rising numbers, the code of each, and the scales.

    bounds: where intervals start and end, [rows, intervals + 1]. codes: -1 and +1, [rows, intervals, planes]. scale:
    [rows, planes].
    """

    bounds: Integers
    codes: Floats
    scale: Floats

    @property
    def levels(self) -> Floats:
        """What each interval stands for, [rows, intervals]."""
        return _times(self.codes, self.scale)


_Algorithm = Callable[[_Numbers, int], _Fit]


def _outputs(weight: Array, planes: int, algorithm: _Algorithm, *, settle: bool = False) -> Planes:
    return _rows(check(weight).T, planes, algorithm, weight.dtype, settle=settle).transposed()


def _rows(
    rows: Floats, planes: int, algorithm: _Algorithm, dtype: np.dtype[np.generic], *, settle: bool = False
) -> Planes:
    """Planes of each row, a chunk of rows at a time; `settle` makes the codes nearest for the scales as rounded."""
    if not 1 <= planes <= _MOST:
        raise ValueError(f"expected 1 to {_MOST} planes, found {planes}")
    count, size = rows.shape
    signs = np.ones((planes, count, size), np.bool_)
    scale = np.zeros((planes, count, 1), np.float32 if dtype.kind in "iub" else dtype)
    step = max(1, _CHUNK // max(size, 1))
    for start in range(0, count if size else 0, step):
        part = np.ascontiguousarray(rows[start : start + step])
        order = part.argsort(1)
        rising = np.take_along_axis(part, order, 1)
        sums = np.zeros((len(part), size + 1))
        np.cumsum(rising, 1, out=sums[:, 1:])
        numbers = _Numbers(rising, sums)
        fit = algorithm(numbers, planes)
        rounded = scale[:, start : start + step, 0]
        rounded[:] = fit.scale.T
        fit = _nearest(numbers, rounded.T.astype(np.float64)) if settle else fit
        # the interval of the number at each place
        where = np.zeros((len(part), size + 1), np.uint8)
        np.add.at(where, (np.arange(len(part))[:, None], fit.bounds[:, 1:-1]), 1)
        np.cumsum(where, 1, np.uint8, out=where)
        interval = np.empty(part.shape, np.int64)
        np.put_along_axis(interval, order, where[:, :-1].astype(np.int64), 1)
        for plane in range(planes):
            signs[plane, start : start + step] = np.take_along_axis(fit.codes[:, :, plane] > 0, interval, 1)
    return Planes(signs, scale)


def _greedy(numbers: _Numbers, planes: int) -> _Fit:
    fit = _nothing(numbers)
    for _ in range(planes):
        fit = _split(numbers, fit)
        counts, sums = _sums(numbers, fit)
        # the planes before are left as they are: alpha = <b, rest> / n
        rest = sums - counts * fit.levels
        last = (fit.codes[:, :, -1:] * rest[:, :, None]).sum(1) / numbers.rising.shape[1]
        fit = replace(fit, scale=np.concatenate([fit.scale[:, :-1], last], 1))
    return fit


def _refined(numbers: _Numbers, planes: int) -> _Fit:
    fit = _nothing(numbers)
    for _ in range(planes):
        fit = _fitted(numbers, _split(numbers, fit))
    return fit if planes < 3 else _better(numbers, fit, _greedy(numbers, planes))


def _nested(numbers: _Numbers, planes: int, iterations: int) -> _Fit:
    fit = _refined(numbers, 1)
    for count in range(2, planes + 1):
        started = _better(numbers, _fitted(numbers, _split(numbers, fit)), _refined(numbers, count))
        fit = _alternate(numbers, started, iterations)
    return fit


def _alternate(numbers: _Numbers, fit: _Fit, iterations: int) -> _Fit:
    """Least squares and nearest codes in turn, for the rows that still gain by it."""
    done = _Fit(fit.bounds.copy(), fit.codes.copy(), fit.scale.copy())
    moving, best = np.arange(len(fit.scale)), np.full(len(fit.scale), -np.inf)
    for _ in range(iterations):
        fitted = _fitted(numbers, fit)
        # ||w||^2 - ||w - B^T alpha||^2 == ||B^T alpha||^2 for alpha by least squares
        gain = (np.diff(fitted.bounds, axis=1) * fitted.levels**2).sum(1)
        better = gain > best * (1 + _LEAST_GAIN)
        if not better.any():
            break
        moving, best = moving[better], gain[better]
        numbers = numbers if better.all() else numbers.of(better)
        fit = _nearest(numbers, fitted.scale[better])
        done.bounds[moving], done.codes[moving], done.scale[moving] = fit.bounds, fit.codes, fit.scale
    return done


def _nothing(numbers: _Numbers) -> _Fit:
    """No plane yet: one interval of all numbers, which stands for zero."""
    rows, size = numbers.rising.shape
    bounds = np.tile(np.array([0, size]), (rows, 1))
    return _Fit(bounds, np.zeros((rows, 1, 0)), np.zeros((rows, 0)))


def _split(numbers: _Numbers, fit: _Fit) -> _Fit:
    """One more plane, of scale zero: the sign of number less level, which cuts each interval in two."""
    rows, intervals, planes = fit.codes.shape
    cuts = np.clip(numbers.below(fit.levels), fit.bounds[:, :-1], fit.bounds[:, 1:])
    bounds = np.empty((rows, 2 * intervals + 1), np.int64)
    bounds[:, 0::2], bounds[:, 1::2] = fit.bounds, cuts
    codes = np.empty((rows, 2 * intervals, planes + 1))
    codes[:, :, :-1] = fit.codes.repeat(2, 1)
    codes[:, 0::2, -1], codes[:, 1::2, -1] = -1.0, 1.0
    return _Fit(bounds, codes, np.concatenate([fit.scale, np.zeros((rows, 1))], 1))


def _nearest(numbers: _Numbers, scale: Floats) -> _Fit:
    """Every number gets the nearest of the levels that the signs of the scales add up to."""
    planes = scale.shape[1]
    patterns = np.where((np.arange(1 << planes)[:, None] >> np.arange(planes)) & 1, 1.0, -1.0)
    levels = scale @ patterns.T
    order = levels.argsort(1, kind="stable")
    rising = np.take_along_axis(levels, order, 1)
    inner = numbers.below((rising[:, :-1] + rising[:, 1:]) / 2)
    ends = np.tile(np.array([0, numbers.rising.shape[1]]), (len(scale), 1))
    return _Fit(np.concatenate([ends[:, :1], inner, ends[:, 1:]], 1), patterns[order], scale)


def _fitted(numbers: _Numbers, fit: _Fit) -> _Fit:
    """The same codes with the scales that fit best: (B B^T) alpha = B w."""
    gram, target = _normal(numbers, fit)
    planes, size = gram.shape[1], numbers.rising.shape[1]
    # planes that repeat each other have scales of least norm; a gram of integers is singular or far from it
    solid = np.linalg.det(gram) > 1e-9 * float(size) ** planes
    scale = np.empty_like(target)
    scale[solid] = np.linalg.solve(gram[solid], target[solid][:, :, None])[:, :, 0]
    scale[~solid] = _times(np.linalg.pinv(gram[~solid], hermitian=True), target[~solid])
    return replace(fit, scale=scale)


def _better(numbers: _Numbers, first: _Fit, second: _Fit) -> _Fit:
    """For each row the fit of less error, the first where they tie."""
    worse = _loss(numbers, first) > _loss(numbers, second)
    return _Fit(
        np.where(worse[:, None], second.bounds, first.bounds),
        np.where(worse[:, None, None], second.codes, first.codes),
        np.where(worse[:, None], second.scale, first.scale),
    )


def _loss(numbers: _Numbers, fit: _Fit) -> Floats:
    """The squared error of each row, less what does not depend on the fit."""
    gram, target = _normal(numbers, fit)
    loss: Floats = (fit.scale * (_times(gram, fit.scale) - 2 * target)).sum(1)
    return loss


def _normal(numbers: _Numbers, fit: _Fit) -> tuple[Floats, Floats]:
    """B B^T, [rows, planes, planes], and B w, [rows, planes]."""
    counts, sums = _sums(numbers, fit)
    turned = fit.codes.transpose(0, 2, 1)
    return turned @ (fit.codes * counts[:, :, None]), _times(turned, sums)


def _sums(numbers: _Numbers, fit: _Fit) -> tuple[Floats, Floats]:
    """How many numbers each interval has, and their sum."""
    sums = np.take_along_axis(numbers.sums, fit.bounds, 1)
    return np.diff(fit.bounds, axis=1).astype(np.float64), np.diff(sums, axis=1)


def _times(matrices: Floats, vectors: Floats) -> Floats:
    product: Floats = (matrices @ vectors[:, :, None])[:, :, 0]
    return product


def _check_iterations(iterations: int) -> None:
    if iterations < 0:
        raise ValueError(f"expected no or some iterations, found {iterations}")
