"""Units of several layers in one order: the permutations that make their weights agree best.

    minimise   sum over layers of |A_k - P_k A_l|^2        maximise   <A_k, P_k A_l>

Sources: Ainsworth, Hayase and Srinivasa, Git Re-Basin: Merging Models modulo Permutation Symmetries, 2022, equation 1
and algorithm 3 (MergeMany); units of different layers lie between the same axes of the stream, which is not permuted,
so that the permutation of each is one assignment.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...edit import Array
from ...numerics.arrays import check
from ...numerics.assignment import Order, least_assignment

#: Rounds of `together` at most, and what one must gain to be worth another, of the energy of the mean.
_ROUNDS = 2
_ROUNDING = 1e-3


def match(target: Array, units: Array) -> Order:
    """Which unit belongs at each place: `units[order]` is as near to `target` as any order makes it; [units, numbers].

    >>> match(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.1, 2.0], [1.0, 0.0]])).tolist()
    [1, 0]
    """
    if target.shape != units.shape or target.ndim != 2:
        raise ValueError(f"expected two matrices of one shape, found {list(target.shape)} and {list(units.shape)}")
    # |A - P B|^2 == |A|^2 + |B|^2 - 2 <A, P B>
    return least_assignment(-(check(target) @ check(units).T))


def together(layers: Sequence[Array]) -> list[Order]:
    """An order of the units of each layer, [units, numbers], in which all are near to their mean.

    The first keeps its order where the layers agree on it. Each is matched to the sum of those before it, then in turn
    to the sum of the others: the sum of squares around the mean never grows.
    """
    wide = [check(layer) for layer in layers]
    found: list[Order] = [np.arange(len(wide[0]))]
    total = wide[0].copy()
    for layer in wide[1:]:
        found.append(match(total, layer))
        total += layer[found[-1]]
    # of two layers the second is at its best already
    for _ in range(_ROUNDS if len(wide) > 2 else 0):
        gained = 0.0
        for at, layer in enumerate(wide):
            others = total - layer[found[at]]
            order = match(others, layer)
            gained += float(np.sum(others * (layer[order] - layer[found[at]])))
            found[at], total = order, others + layer[order]
        if gained <= _ROUNDING * float(np.sum(np.square(total))):
            break
    return found
