"""Three levels for each weight: one of zero, and one or two scales.

    TWN    w ~  scale * t              t in {-1, 0, +1}
    TTQ    w ~  plus, 0 or -minus      two scales, one for each sign

Weights are [in, out]. Nothing here looks at activations.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...numerics.grid import Scheme, spread
from ...weights import Codebook, Quantized

#: The threshold of TWN in mean magnitudes, exact for uniform and near it for normal weights.
DELTA = 0.7
#: Numbers that are worked on at once: bounds the memory, not the result.
_CHUNK = 1 << 21


def ternary(weight: Array, *, group: int = 0, exact: bool = True) -> Quantized:
    """-1, 0 or +1 times a scale for each output column, or each run of `group` rows of one (TWN).

    The scale is the mean of the magnitudes that are kept. exact: keep those by which the error in L2 is least, found by
    trying all thresholds over sorted magnitudes; else those above DELTA mean magnitudes. A group of zeros has the scale
    one. The values take 2 bits. Source: Li et al., Ternary Weight Networks, 2016, equations 3 to 6 and section 2.2.
    Raises ValueError for a weight that is no matrix of finite numbers and a negative group.

    >>> ternary(np.array([[4.0], [-2.0], [0.5]], np.float32)).dense().tolist()
    [[3.0], [-3.0], [0.0]]
    """
    scheme = Scheme(bits=2, group=group)
    wide = check(weight)
    values = np.zeros(wide.shape, np.int8)
    scale = np.ones((len(scheme.groups(len(wide))), wide.shape[1]))
    for columns in _columns(wide):
        part = wide[:, columns]
        magnitudes = np.abs(part)
        limits = [(None if exact else DELTA * _mean(rows)) for rows in _parts(magnitudes, scheme)]
        least, scale[:, columns] = _kept(magnitudes, limits, scheme)
        values[:, columns] = np.where(magnitudes >= spread(least, len(wide), scheme), np.sign(part), 0.0)
    dtype = np.dtype(np.float32) if weight.dtype.kind in "iub" else weight.dtype
    return scheme.quantized(values, scale, None, dtype)


def trained_ternary(weight: Array, *, group: int | None = None, threshold: float | None = None) -> Codebook:
    """A level for large weights above zero, zero, and a level for large ones below (the form of TTQ, untrained).

    The levels are the means of the weights that they stand for, which is the least error in L2 for these codes; they
    can be trained further. group: None for one table of three levels in all (TTQ's, by layer), 0 for one for each
    output column, else for each run of so many rows of one. threshold: weights are large above this part of the largest
    magnitude of their table (0.05 in the paper); None finds the two thresholds of least error, one for each side. A
    side without weights has the level zero. The weight keeps its shape [in, out]; codes take 2 bits. Source: Zhu et
    al., Trained Ternary Quantization, 2017, equations 6 and 9. Raises ValueError for a weight that is no matrix of
    finite numbers, a negative group and a threshold out of range.

    >>> trained_ternary(np.array([[4.0, 2.0], [-2.0, 0.1]], np.float32), threshold=0.05).dense().tolist()
    [[3.0, 3.0], [-2.0, 0.0]]
    """
    if threshold is not None and not 0 <= threshold < 1:
        raise ValueError(f"expected a threshold from 0 to below 1, found {threshold}")
    scheme = Scheme(bits=2, group=group or 0)
    wide = check(weight)
    table = wide.reshape(-1, 1) if group is None else wide
    codes = np.ones(table.shape, np.uint8)
    levels = np.zeros((len(scheme.groups(len(table))), table.shape[1], 3))
    for columns, sign in product(_columns(table), (-1, 1)):
        side = np.maximum(sign * table[:, columns], 0.0)
        limits = [
            None if threshold is None else threshold * _largest(rows) for rows in _parts(table[:, columns], scheme)
        ]
        least, scale = _kept(side, limits, scheme)
        codes[:, columns][side >= spread(least, len(table), scheme)] = 1 + sign
        levels[:, columns, 1 + sign] = np.where(np.isfinite(least), sign * scale, 0.0)
    dtype = np.dtype(np.float32) if weight.dtype.kind in "iub" else weight.dtype
    book = levels.astype(dtype).reshape(1, -1, 1)
    shape = wide.shape[0], wide.shape[1]
    return Codebook(codes.reshape(1, *shape), book, shape, 2, tile=(0, 0) if group is None else (group, 1))


def _columns(wide: Floats) -> list[slice]:
    """Runs of columns that are worked on at once."""
    step = max(1, _CHUNK // max(len(wide), 1))
    return [slice(start, start + step) for start in range(0, wide.shape[1], step)]


def _parts(wide: Floats, scheme: Scheme) -> list[Floats]:
    return [wide[rows] for rows in scheme.groups(len(wide))]


def _kept(magnitudes: Floats, limits: list[Floats | None], scheme: Scheme) -> tuple[Floats, Floats]:
    """The least magnitude that each group keeps and the mean of those kept, [groups, out]; no limit is the best one."""
    parts = zip(_parts(magnitudes, scheme), limits, strict=True)
    found = [_exact(part) if limit is None else _above(part, limit) for part, limit in parts]
    least, scale = (np.stack(each) for each in zip(*found, strict=True))
    return least, scale


def _exact(magnitudes: Floats) -> tuple[Floats, Floats]:
    """The k largest of each column, k by which (sum of the k largest)^2 / k is greatest."""
    # ||w - a t||^2 == ||w||^2 - (sum of kept)^2 / k  for a their mean; equal magnitudes are kept or left together
    size, width = magnitudes.shape
    if not magnitudes.size:
        return np.full(width, np.inf), np.ones(width)
    falling = np.sort(magnitudes, axis=0)[::-1]
    counts = np.arange(1, size + 1)[:, None]
    sums = falling.cumsum(0)
    best = (sums / np.sqrt(counts)).argmax(0)[None]
    scale = np.take_along_axis(sums, best, 0)[0] / counts[best[0], 0]
    least = np.take_along_axis(falling, best, 0)[0]
    return np.where(scale > 0, least, np.inf), np.where(scale > 0, scale, 1.0)


def _above(magnitudes: Floats, limit: Floats) -> tuple[Floats, Floats]:
    """Those above a limit for each column."""
    kept = magnitudes > limit
    count = kept.sum(0)
    scale = np.where(kept, magnitudes, 0.0).sum(0) / np.maximum(count, 1)
    return np.where(count > 0, np.nextafter(limit, np.inf), np.inf), np.where(count > 0, scale, 1.0)


def _largest(part: Floats) -> Floats:
    largest: Floats = np.abs(part).max(0, initial=0.0)
    return largest


def _mean(magnitudes: Floats) -> Floats:
    mean: Floats = magnitudes.sum(0) / max(len(magnitudes), 1)
    return mean
