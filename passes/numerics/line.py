"""k-means on the line, exact: points in order, cut where two centers are equally near, means by sums of prefixes.

    cut_j = how many points are at most (c_j + c_j+1) / 2
    c_j = (S[cut_j] - S[cut_j-1]) / (M[cut_j] - M[cut_j-1])

with S and M the sums of importance * point and of importance over the first points. After the sort, a step of Lloyd's
iteration costs log n for each center. Many lines are done at once, one in each row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..edit import Array
from .arrays import Floats

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Lines:
    """Points in order, [lines, n]; sums of the first 0 .. n importances and of importance * point, [lines, n + 1]."""

    points: Floats
    mass: Floats
    moment: Floats

    @classmethod
    def of(cls, points: Array, importance: Floats | None = None) -> Lines:
        """Put points [lines, n] in order. importance: what each weighs, [lines, n]; one without."""
        if importance is None:
            ordered = np.sort(points, axis=1).astype(np.float64)
            mass = np.broadcast_to(np.arange(points.shape[1] + 1, dtype=np.float64), (len(points), points.shape[1] + 1))
            return cls(ordered, mass, _prefixes(ordered))
        order = np.argsort(points, axis=1)
        ordered, weighs = (np.take_along_axis(of, order, 1).astype(np.float64) for of in (points, importance))
        return cls(ordered, _prefixes(weighs), _prefixes(weighs * ordered))

    def cut(self, bounds: Floats, *, below: bool = False) -> Counts:
        """How many points of each line are at most each of its bounds [lines, k], or with `below` less than it."""
        size = self.points.shape[1]
        low = np.zeros(bounds.shape, np.int64)
        high = np.full(bounds.shape, size, np.int64)
        if not size:
            return low
        for _ in range(size.bit_length()):
            middle = (low + high) // 2
            found = np.take_along_axis(self.points, np.minimum(middle, size - 1), 1)
            left = (found < bounds if below else found <= bounds) & (low < high)
            low, high = np.where(left, middle + 1, low), np.where(left, high, middle)
        return low

    def means(self, edges: Counts, otherwise: Floats) -> Floats:
        """The weighted mean of the points between neighbouring edges [lines, k + 1]; `otherwise` [lines, k] where none
        weighs anything."""
        size = self.points.shape[1]
        if not size:
            return otherwise
        mass, moment = (np.diff(np.take_along_axis(sums, edges, 1), axis=1) for sums in (self.mass, self.moment))
        first, last = edges[:, :-1], edges[:, 1:] - 1
        least, most = (np.take_along_axis(self.points, np.clip(at, 0, size - 1), 1) for at in (first, last))
        # a mean lies between its points whatever the sums were rounded to
        found = np.clip(np.divide(moment, mass, out=np.zeros_like(moment), where=mass > 0), least, most)
        return np.where((mass > 0) & (first <= last), found, otherwise)

    def edges(self, cuts: Counts) -> Counts:
        """Cuts [lines, k - 1] with both ends, [lines, k + 1]."""
        ends = np.zeros((len(cuts), 1), np.int64)
        return np.concatenate([ends, cuts, ends + self.points.shape[1]], 1)

    def between(self, cuts: Counts) -> Floats:
        """Bounds [lines, k] for `labels`, by which the points before each cut, [lines, k], lie below."""
        before = np.take_along_axis(self.points, np.maximum(cuts - 1, 0), 1)
        return np.where(cuts > 0, before, -np.inf)


def middles(centers: Floats) -> Floats:
    """Points that are equally near to two neighbouring centers, [lines, k - 1]."""
    return (centers[:, 1:] + centers[:, :-1]) / 2


def labels(points: Array, bounds: Floats) -> NDArray[np.uint8]:
    """Between which bounds [lines, k - 1], in order, each of the points [lines, n] lies; one on a bound lies below."""
    found = np.empty(points.shape, np.uint8)
    for line, (each, between) in enumerate(zip(points, bounds, strict=True)):
        found[line] = np.searchsorted(between, each)
    return found


def lloyd(lines: Lines, centers: Floats, iterations: int) -> Floats:
    """Centers [lines, k], in order, moved to the means of the points nearest to them until they stay, or for so many
    iterations.

    A center whose points weigh nothing stays where it is. A point that is equally near to two goes to the lower one.
    """
    for _ in range(iterations):
        moved = lines.means(lines.edges(lines.cut(middles(centers))), centers)
        if np.array_equal(moved, centers):
            break
        centers = moved
    return centers


def _prefixes(numbers: Floats) -> Floats:
    sums = np.zeros((len(numbers), numbers.shape[1] + 1))
    np.cumsum(numbers, axis=1, out=sums[:, 1:])
    return sums
