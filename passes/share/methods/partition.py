"""Which layers next to each other are one group."""

from __future__ import annotations

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check


def spread(distances: Array) -> Floats:
    """What a run of layers costs, [first, last], where squares of distances of each two are [layers, layers].

    The sum over the pairs of a run by its length: the sum of squares around the mean, where the distances are of
    points. Runs that end before they begin cost nothing.
    """
    pairs = np.triu(check(distances), 1)
    size = len(pairs)
    found = np.zeros((size, size))
    for first in range(size):
        total = 0.0
        for last in range(first + 1, size):
            total += float(pairs[first:last, last].sum())
            found[first, last] = total / (last - first + 1)
    return found


def partition(cost: Array, groups: int) -> list[range]:
    """The runs of layers, so many, that cost least in sum; cost: of each run, [first, last].

    Exact, by dynamic programming over where the last run begins; of equal costs the one whose first runs are shortest.
    Raises ValueError for no groups, or more than layers.

    >>> partition(spread(np.array([[0.0, 9.0, 9.0], [9.0, 0.0, 1.0], [9.0, 1.0, 0.0]])), 2)
    [range(0, 1), range(1, 3)]
    """
    costs = check(cost)
    size = len(costs)
    if not 1 <= groups <= size:
        raise ValueError(f"expected 1 to {size} groups of {size} layers, found {groups}")
    best = np.full((groups + 1, size + 1), np.inf)
    begins = np.zeros((groups + 1, size + 1), np.intp)
    best[0, 0] = 0.0
    for count in range(1, groups + 1):
        for end in range(count, size - (groups - count) + 1):
            tried = [best[count - 1, begin] + costs[begin, end - 1] for begin in range(count - 1, end)]
            at = int(np.argmin(tried))
            best[count, end], begins[count, end] = tried[at], at + count - 1
    found, end = [], size
    for count in range(groups, 0, -1):
        begin = int(begins[count, end])
        found.append(range(begin, end))
        end = begin
    return found[::-1]


def even(size: int, groups: int) -> list[range]:
    """So many runs of as equal lengths as there are, the longer ones first.

    >>> even(5, 2)
    [range(0, 3), range(3, 5)]
    """
    if not 1 <= groups <= size:
        raise ValueError(f"expected 1 to {size} groups of {size} layers, found {groups}")
    ends = np.cumsum([len(part) for part in np.array_split(np.arange(size), groups)])
    return [range(int(begin), int(end)) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
