"""GOBO: the few weights that a normal distribution hardly explains are kept; the rest share a few numbers.

Zadeh et al., GOBO: Quantizing Attention-Based NLP Models for Low Latency and Energy Efficient Inference, 2020, section
IV: the rest is put in order, cut into bins of as many weights each, and the bins' means are the first centers; weights
go to the nearest center and centers to the mean of their weights, until the sum of |w - c| no longer falls.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from ...numerics.line import Counts, Lines, labels, middles
from ...numerics.table import check, single
from ...weights import Codebook


def gobo(
    weight: Array, *, bits: int = 3, threshold: float = -4.0, sigmas: float | None = None, iterations: int = 100
) -> Codebook:
    """A table of 2^bits numbers and the outliers of a weight [rows, columns], in any orientation.

    bits: 1 to 8. threshold: a weight is an outlier where the natural logarithm of the density of the normal
    distribution with the mean and standard deviation of all weights is below it. A density has the unit of 1 / weight,
    so that -4 means 3.7 standard deviations of weights that deviate by 0.02, and 2.5 by 1; above 22 all are outliers.
    sigmas: outliers are instead what lies further from the mean than so many standard deviations, at any scale.
    iterations: at most so many. Constant weights have no outliers.

    Raises ValueError for a weight that is no matrix of finite floats and for other bits.
    """
    wide = check(weight, bits).reshape(-1)
    if not wide.size:
        return single(np.zeros(weight.shape), np.zeros(1 << bits), weight, bits)
    apart = _outliers(wide, threshold, sigmas)
    flat = weight.reshape(1, -1)
    lines = Lines.of(flat[:, ~apart])
    centers = dictionary(lines, 1 << bits, iterations)
    found = single(labels(flat, middles(centers)), centers[0], weight, bits)
    (where,) = np.nonzero(apart)
    return replace(found, outliers=(where.astype(np.int64), flat[0, where])) if where.size else found


def dictionary(lines: Lines, count: int, iterations: int) -> Floats:
    """GOBO's centers, [1, count], in order: means of bins of equal population, then as long as the L1 error falls."""
    size = lines.points.shape[1]
    edges: Counts = (np.arange(count + 1) * size // count)[None]
    # fewer points than centers leave bins empty: those repeat the point before them
    repeated = lines.points[:, np.maximum(edges[0, 1:] - 1, 0)] if size else np.zeros((1, count))
    centers = lines.means(edges, repeated)
    error = _absolute(lines, edges, centers)
    for _ in range(iterations):
        edges = lines.edges(lines.cut(middles(centers)))
        moved = lines.means(edges, centers)
        left = _absolute(lines, edges, moved)
        if left >= error:
            break
        centers, error = moved, left
    return centers


def _outliers(
    points: Floats, threshold: float, sigmas: float | None
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    deviation, distance = float(points.std()), np.abs(points - points.mean())
    # constant weights deviate from their mean by its rounding
    if deviation <= np.finfo(np.float64).eps * float(np.abs(points).max()):
        return np.zeros(points.shape, np.bool_)
    if sigmas is None:
        density = -0.5 * np.square(distance / deviation) - math.log(deviation * math.sqrt(2 * math.pi))
        return np.asarray(density < threshold)
    return np.asarray(distance > sigmas * deviation)


def _absolute(lines: Lines, edges: Counts, centers: Floats) -> float:
    """sum |w - c| over the points between each two edges and the center that they share."""
    # of a bin cut at its center: sum |w - c| = c (below - above) + (sum above - sum below)
    first, last = edges[:, :-1], edges[:, 1:]
    middle = np.clip(lines.cut(centers), first, last)
    sums = [np.take_along_axis(lines.moment, at, 1) for at in (first, middle, last)]
    below, above = middle - first, last - middle
    return float((centers * (below - above) + (sums[2] - sums[1]) - (sums[1] - sums[0])).sum())
