"""Balanced quantization: as many weights for each level, whatever their distribution.

Zhou et al., Balanced Quantization: An Effective and Efficient Approach to Quantized Neural Networks, 2017, section 3:
weights are cut at their median, each half at its own, and so on, and the bins, in order, become levels in equal steps.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from ...numerics.line import Counts, Lines, labels
from ...numerics.table import check, single
from ...weights import Codebook

Levels = Literal["uniform", "means"]


def balanced(
    weight: Array, *, bits: int = 2, levels: Levels = "uniform", cut: Literal["median", "mean"] = "median"
) -> Codebook:
    """2^bits levels for the bins of `bits` rounds of cuts; weight: [rows, columns], in any orientation; bits: 1 to 8.

    levels: with `uniform` s (2 i - (2^bits - 1)) / (2^bits - 1) for bin i: even steps as in the paper, where training
    adapts to a range that is kept; without training the s of least squares serves. With `means` the mean of each bin,
    the least squared error that these bins allow, in uneven steps. cut: at the median of each part, so that bins differ
    by at most one weight as long as no two weights are equal, or at its mean, the paper's cheaper approximation. Equal
    weights always share a bin; a bin may stay empty for it.

    Raises ValueError for a weight that is no matrix of finite floats and for other bits, levels and cuts.

    >>> balanced(np.array([[0.0, 1.0, 2.0, 9.0]]), bits=1, levels="means").dense().tolist()
    [[0.5, 0.5, 5.5, 5.5]]
    """
    wide = check(weight, bits)
    if levels not in ("uniform", "means") or cut not in ("median", "mean"):
        raise ValueError(f"expected uniform or means, and median or mean, found {levels} and {cut}")
    even = np.linspace(-1.0, 1.0, 1 << bits)
    if not wide.size:
        return single(np.zeros(wide.shape), even, weight, bits)
    points = weight.reshape(1, -1)
    lines = Lines.of(points)
    edges = np.array([[0, points.size]])
    for _ in range(bits):
        edges = _halved(lines, edges, cut)
    indices = labels(points, lines.between(edges[:, 1:-1]))
    counts, sums = np.diff(edges[0]), np.diff(lines.moment[0, edges[0]])
    if levels == "uniform":
        # least squares: s = <w, e> / <e, e>
        table = even * (float(even @ sums) / float(even**2 @ counts))
    else:
        table = lines.means(edges, lines.points[:, np.clip(edges[0, 1:] - 1, 0, points.size - 1)])[0]
    return single(indices, table, weight, bits)


def _halved(lines: Lines, edges: Counts, cut: str) -> Counts:
    """Each part of the points between two edges cut in two, where points differ, as near to its half as that allows."""
    first, last = edges[:, :-1], edges[:, 1:]
    size = lines.points.shape[1]
    middle = (first + last) // 2
    at = np.clip(middle - 1, first, size - 1)
    bounds: Floats = np.take_along_axis(lines.points, at, 1)
    if cut == "mean":
        bounds = lines.means(edges, bounds)
        middle = lines.cut(bounds)
    below, upto = (np.clip(lines.cut(bounds, below=below), first, last) for below in (True, False))
    halves = np.where(middle - below < upto - middle, below, upto)
    return np.sort(np.concatenate([edges, halves], 1), axis=1)
