"""What calibration gathers about one activation: streaming, in memory that does not grow with the data.

Each accumulator takes arrays as they come (`add`), joins one that saw other data (`merge`), and holds `bytes`. What it
holds is a sum, a largest or a smallest number, so the order of the data does not matter: exactly for ranges, histograms
and counts, up to the rounding of sums for Gram matrices and means. `state` and `restore` let a run go on later.
"""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import ModelError
from .accumulator import BLOCK, Accumulator, Floats, blocks, chunks, extent, extents
from .edit import Array
from .numerics.arrays import matmul

#: A histogram's bins are no finer than this power of two of the largest magnitude, float32's own precision.
_FINEST = 24
#: Powers of two of which float32 holds the inverse.
_INVERTIBLE = 126
#: The exponent of the bins of data that are all zero; below it numbers count as zero.
_LEAST_EXPONENT = -1000


class Range(Accumulator):
    """The smallest and the largest number of arrays of any shape; infinity and its negative before the first."""

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf

    def add(self, array: Array) -> None:
        if array.size:
            low, high = extent(array)
            self.low, self.high = min(self.low, low), max(self.high, high)
            self.count += array.size

    def merge(self, other: Self) -> None:
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.count += other.count

    @property
    def bytes(self) -> int:
        return 16


class Histogram(Accumulator):
    """How many numbers of arrays of any shape lie where.

    Bin i of `counts` holds the numbers in [(first + i) 2^exponent, (first + i + 1) 2^exponent). The exponent is the
    least by which everything from `low` to `high` fits into `bins` bins, though no finer than 2^-24 of the largest
    magnitude; when data exceed the range, neighbouring bins are merged. Zero is an edge, so signs are never mixed, and
    the counts are those that the final bins would have found in all the data at once.

    >>> seen = Histogram(bins=4)
    >>> seen.add(np.array([0.0, 0.5, 1.0, 1.5]))
    >>> seen.counts.tolist(), seen.width
    ([1, 1, 1, 1], 0.5)
    >>> seen.add(np.array([-2.0]))
    >>> seen.counts.tolist(), seen.width, seen.edges.tolist()
    ([1, 0, 2, 2], 1.0, [-2.0, -1.0, 0.0, 1.0, 1.5])
    """

    def __init__(self, bins: int = 2048) -> None:
        if bins < 2:
            raise ValueError(f"expected at least 2 bins, one for each sign, found {bins}")
        self.bins = bins
        self.low, self.high = math.inf, -math.inf
        self.exponent = _LEAST_EXPONENT
        self.first = 0
        self.counts: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, array: Array) -> None:
        if not array.size:
            return
        self._cover(*extent(array))
        # float32 is exact here: quotients are no smaller than numbers, and indices have at most 24 bits and a sign
        single = array.dtype in (np.float32, np.float16) and -_INVERTIBLE <= self.exponent <= 0
        dtype = np.float32 if single else np.float64
        shrink = dtype(2.0**-self.exponent)
        for chunk in chunks(array):
            scaled = np.multiply(chunk, shrink, dtype=dtype)
            np.floor(scaled, out=scaled)
            # a product that vanishes in float64 loses its sign
            np.clip(scaled, self.first, self.first + len(self.counts) - 1, out=scaled)
            index = scaled.astype(np.intp)
            index -= self.first
            self.counts += np.bincount(index, minlength=len(self.counts))
        self.count += array.size

    def merge(self, other: Self) -> None:
        # bins that are finer than needed merge into those that would have been found
        if self.bins > other.bins:
            raise ValueError(f"expected a histogram of at least {self.bins} bins, found {other.bins}")
        if other.count:
            self._cover(other.low, other.high)
            index = _coarser(other.first, len(other.counts), self.exponent - other.exponent)
            np.add.at(self.counts, index - self.first, other.counts)
            self.count += other.count

    @property
    def width(self) -> float:
        """How wide a bin is."""
        return math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> Floats:
        """Where bins begin and end, [bins + 1], the first and the last cut to what was seen."""
        with np.errstate(over="ignore"):
            edges = (self.first + np.arange(len(self.counts) + 1)) * self.width
        return np.clip(edges, self.low, self.high)

    def through_zero(self) -> Histogram:
        """The same counts in bins that reach to zero, as the range of a quantizer does; zero itself is not counted."""
        wide = Histogram(self.bins)
        if self.count:
            wide._cover(min(self.low, 0.0), max(self.high, 0.0))
            wide.merge(self)
        return wide

    @property
    def bytes(self) -> int:
        return int(self.counts.nbytes) + 32

    def _cover(self, low: float, high: float) -> None:
        """Widen the bins, and have more of them, so that numbers from low to high have one."""
        low, high = min(low, self.low), max(high, self.high)
        exponent = _exponent(low, high, self.bins)
        first, last = _bin(low, exponent), _bin(high, exponent)
        counts = np.zeros(last - first + 1, np.int64)
        index = _coarser(self.first, len(self.counts), exponent - self.exponent)
        np.add.at(counts, index - first, self.counts)
        self.low, self.high, self.exponent, self.first, self.counts = low, high, exponent, first, counts


class _ByFeature(Accumulator):
    """Numbers for each feature."""

    def __init__(self, features: int) -> None:
        self.features = features

    def _check(self, array: Array) -> None:
        if array.ndim != 2 or array.shape[1] != self.features:
            raise ValueError(f"expected an array [tokens, {self.features}], found {list(array.shape)}")

    def _match(self, other: _ByFeature) -> None:
        if self.features != other.features:
            raise ValueError(f"expected {self.features} features, found {other.features}")


class FeatureRange(_ByFeature):
    """The smallest and the largest number of each feature, `low` and `high` [features]."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.low: Floats = np.full(features, np.inf)
        self.high: Floats = np.full(features, -np.inf)

    def add(self, array: Array) -> None:
        self._check(array)
        if array.size:
            low, high = extents(array)
            np.minimum(self.low, low, out=self.low)
            np.maximum(self.high, high, out=self.high)
        self.count += len(array)

    def merge(self, other: Self) -> None:
        self._match(other)
        np.minimum(self.low, other.low, out=self.low)
        np.maximum(self.high, other.high, out=self.high)
        self.count += other.count

    @property
    def bytes(self) -> int:
        return self.low.nbytes + self.high.nbytes


class AbsMax(_ByFeature):
    """The largest magnitude of each feature, `largest` [features]."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.largest: Floats = np.zeros(features)

    def add(self, array: Array) -> None:
        self._check(array)
        if array.size:
            low, high = extents(array)
            np.maximum(self.largest, np.maximum(high, -low), out=self.largest)
        self.count += len(array)

    def merge(self, other: Self) -> None:
        self._match(other)
        np.maximum(self.largest, other.largest, out=self.largest)
        self.count += other.count

    @property
    def bytes(self) -> int:
        return self.largest.nbytes


class AbsMean(_ByFeature):
    """The mean magnitude of each feature, `mean` [features]; zeros before the first token."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.total: Floats = np.zeros(features)

    def add(self, array: Array) -> None:
        self._check(array)
        if array.size:
            extent(array)  # refuses what is not finite
            self.total += np.abs(array).sum(0, dtype=np.float64)
        self.count += len(array)

    def merge(self, other: Self) -> None:
        self._match(other)
        self.total += other.total
        self.count += other.count

    @property
    def mean(self) -> Floats:
        return self.total / max(self.count, 1)

    @property
    def bytes(self) -> int:
        return self.total.nbytes


class Gram(_ByFeature):
    """x.T @ x over all tokens, `matrix` [features, features], and the mean of each feature.

    Products are summed in float32 over blocks of tokens, and the blocks in float64. Where numbers are so large or small
    that their products leave float32, the block is float64.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.matrix: Floats = np.zeros((features, features))
        self.total: Floats = np.zeros(features)

    def add(self, array: Array) -> None:
        self._check(array)
        for block in blocks(array):
            self.matrix += matmul(block.T, block)
            self.total += block.sum(0, dtype=np.float64)
        self.count += len(array)

    def merge(self, other: Self) -> None:
        self._match(other)
        self.matrix += other.matrix
        self.total += other.total
        self.count += other.count

    @property
    def mean(self) -> Floats:
        """The mean of each feature, [features]; zeros before the first token."""
        return self.total / max(self.count, 1)

    @property
    def bytes(self) -> int:
        return self.matrix.nbytes + self.total.nbytes


class Joint(_ByFeature):
    """What features are now beside what they were in another model, over the same tokens.

    Takes both side by side, [tokens, 2 * features], now first. With x' now and x before: `matrix`, x'.T @ x', and
    `cross`, x'.T @ x, [features, features] each, and the means of both.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self._gram = Gram(features)
        self.cross: Floats = np.zeros((features, features))
        self._before: Floats = np.zeros(features)

    def add(self, array: Array) -> None:
        if array.ndim != 2 or array.shape[1] != 2 * self.features:
            raise ValueError(f"expected an array [tokens, {2 * self.features}], found {list(array.shape)}")
        now, before = array[:, : self.features], array[:, self.features :]
        if before.size:
            extent(before)
        self._gram.add(now)
        for start in range(0, len(array), BLOCK):
            part = slice(start, start + BLOCK)
            self.cross += matmul(np.asarray(now[part], np.float64).T, np.asarray(before[part], np.float64))
        self._before += before.sum(0, dtype=np.float64)
        self.count += len(array)

    def merge(self, other: Self) -> None:
        self._match(other)
        self._gram.merge(other._gram)
        self.cross += other.cross
        self._before += other._before
        self.count += other.count

    @property
    def matrix(self) -> Floats:
        """x'.T @ x', [features, features]."""
        return self._gram.matrix

    @property
    def mean_now(self) -> Floats:
        """The mean of each feature now; zeros before the first token."""
        return self._gram.mean

    @property
    def mean_before(self) -> Floats:
        """The mean of each feature before; zeros before the first token."""
        return self._before / max(self.count, 1)

    @property
    def bytes(self) -> int:
        return self._gram.bytes + self.cross.nbytes + self._before.nbytes


class TokenCounts(Accumulator):
    """How often each row of a table was looked up, `counts` [rows].

    Takes integers of any shape; as in ONNX's Gather, negative ones count from the end. Raises ModelError for others.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.counts: NDArray[np.int64] = np.zeros(rows, np.int64)

    def add(self, array: Array) -> None:
        if array.dtype.kind not in "iu":
            raise ModelError(f"expected integer ids into a table of {self.rows} rows, found {array.dtype}")
        if not array.size:
            return
        low, high = int(array.min()), int(array.max())
        if low < -self.rows or high >= self.rows:
            worst = low if low < -self.rows else high
            raise ModelError(f"expected ids below the {self.rows} rows of a table, found {worst}")
        for chunk in chunks(array):
            index = chunk.astype(np.int64)
            if low < 0:
                index[index < 0] += self.rows
            self.counts += np.bincount(index, minlength=self.rows)
        self.count += array.size

    def merge(self, other: Self) -> None:
        if self.rows != other.rows:
            raise ValueError(f"expected counts of {self.rows} rows, found {other.rows}")
        self.counts += other.counts
        self.count += other.count

    @property
    def bytes(self) -> int:
        return self.counts.nbytes


def _exponent(low: float, high: float, bins: int) -> int:
    """Of the least power of two that divides low to high into at most `bins` bins between its multiples."""
    largest = max(abs(low), abs(high))
    exponent = max(math.frexp(largest)[1] - _FINEST, _LEAST_EXPONENT) if largest else _LEAST_EXPONENT
    while _bin(high, exponent) - _bin(low, exponent) >= bins:
        exponent += 1
    return exponent


def _bin(number: float, exponent: int) -> int:
    """The bin of a number, whose quotient by the width may vanish but not its sign."""
    return math.floor(math.ldexp(number, -exponent)) or -(number < 0)


def _coarser(first: int, count: int, shift: int) -> NDArray[np.int64]:
    """Which bins, 2^shift times as wide, the bins from `first` on lie in."""
    # no index has more bits than _FINEST and a sign
    return (first + np.arange(count, dtype=np.int64)) >> min(shift, 2 * _FINEST)
