"""Weight sharing by k-means: each weight becomes the center it is nearest to.

Han et al., Deep Compression, 2016, section 3: minimize sum_j sum_(w in c_j) |w - c_j|^2 by Lloyd's iteration from
centers that are spread evenly, by density, or by chance (there uniformly, here as k-means++ does).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..edit import Array
from ..weights import Codebook
from .arrays import Floats
from .line import Counts, Lines, labels, lloyd, middles
from .table import check, single

Seeding = Literal["linear", "density", "k-means++"]

#: k-means++ draws among at most so many points of a line, evenly spaced in their order.
_DRAWN = 1 << 16


def kmeans(
    weight: Array,
    *,
    bits: int = 4,
    seeding: Seeding = "linear",
    group: int = 0,
    importance: Array | None = None,
    iterations: int = 300,
    seed: int = 0,
) -> Codebook:
    """Numbers that weights of a matrix [rows, columns], in any orientation, share, found by k-means.

    bits: 1 to 8; a table has 2^bits numbers. seeding: the first centers: `linear` from the least to the largest weight
    in equal steps (section 3.2; best there, for it keeps the large weights), `density` at equal steps of the
    distribution function, `k-means++` by chance with the squared distance to those drawn before, by `seed` (Arthur and
    Vassilvitskii, 2007). group: rows that share a table, the last may be fewer; 0 for one table in all. importance:
    what the squared error of each weight counts, of a shape that broadcasts to the weight's, such as the diagonal of a
    Hessian (Choi et al., Towards the Limit of Network Quantization, 2017); it does not change which center is nearest,
    but where the centers lie. iterations: at most so many.

    Raises ValueError for a weight that is no matrix of finite floats, for other bits and seedings, and for importances
    that are negative, not finite or of another shape.

    >>> found = kmeans(np.array([[0.0, 0.25, 2.0, 2.25]], np.float32), bits=1)
    >>> found.dense().tolist()
    [[0.125, 0.125, 2.125, 2.125]]
    """
    check(weight, bits)
    rows, columns = weight.shape
    if not weight.size:
        return single(np.zeros(weight.shape), np.zeros(1 << bits), weight, bits)
    if seeding not in ("linear", "density", "k-means++"):
        raise ValueError(f"expected the seeding linear, density or k-means++, found {seeding}")
    if group < 0 or iterations < 0:
        raise ValueError(f"expected a group and iterations of at least zero, found {group} and {iterations}")
    counts = None if importance is None else _importance(importance, weight)
    size = min(group or rows, rows)
    whole = rows // size * size
    indices, tables = [], []
    for start, stop, each in ((0, whole, size), (whole, rows, rows - whole)):
        if start < stop:
            shape = (stop - start) // each, each * columns
            points = weight[start:stop].reshape(shape)
            lines = Lines.of(points, None if counts is None else counts[start:stop].reshape(shape))
            centers = lloyd(lines, _SEEDS[seeding](lines, 1 << bits, seed), iterations)
            indices.append(labels(points, middles(centers)).reshape(stop - start, columns))
            tables.append(centers)
    books = np.concatenate(tables).reshape(1, -1, 1).astype(weight.dtype)
    shared = size if size < rows else 0
    return Codebook(np.concatenate(indices)[None], books, (rows, columns), bits, tile=(shared, 0))


def _importance(importance: Array, weight: Array) -> Floats:
    try:
        spread = np.broadcast_to(np.asarray(importance, np.float64), weight.shape)
    except ValueError:
        raise ValueError(f"expected importances that broadcast to {weight.shape}, found {importance.shape}") from None
    if not np.isfinite(spread).all() or (spread < 0).any():
        raise ValueError("an importance is negative, NaN or infinite")
    return spread


def _linear(lines: Lines, count: int, seed: int) -> Floats:
    """From the least point to the largest in equal steps."""
    return np.linspace(lines.points[:, 0], lines.points[:, -1], count, axis=1)


def _density(lines: Lines, count: int, seed: int) -> Floats:
    """The middle one of each of `count` equal parts of the points in their order."""
    at: Counts = ((np.arange(count) + 0.5) / count * lines.points.shape[1]).astype(np.int64)
    return lines.points[:, at]


def _drawn(lines: Lines, count: int, seed: int) -> Floats:
    """Points drawn one after another, with the importance times the squared distance to those that are there."""
    size = lines.points.shape[1]
    at: Counts = np.arange(min(size, _DRAWN)) * size // min(size, _DRAWN)
    points, mass = lines.points[:, at], np.diff(lines.mass, axis=1)[:, at]
    random = np.random.default_rng(seed)
    centers = _draw(points, mass, random)
    distance = (points - centers) ** 2
    for _ in range(count - 1):
        drawn = _draw(points, mass * distance, random)
        distance = np.minimum(distance, (points - drawn) ** 2)
        centers = np.concatenate([centers, drawn], 1)
    return np.sort(centers, axis=1)


def _draw(points: Floats, chance: Floats, random: np.random.Generator) -> Floats:
    """One point of each line, [lines, 1], by chance; the last where no chance is above zero."""
    sums = np.cumsum(chance, axis=1)
    wanted = random.random((len(points), 1)) * sums[:, -1:]
    at: NDArray[np.int64] = np.minimum((sums <= wanted).sum(1, keepdims=True), points.shape[1] - 1)
    return np.take_along_axis(points, at, 1)


_SEEDS = {"linear": _linear, "density": _density, "k-means++": _drawn}
