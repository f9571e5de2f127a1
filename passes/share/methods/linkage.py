"""Tensors that are nearly alike: how far apart, and clusters of which no two members are farther than that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import Floats

Flags = NDArray[np.bool_]

#: Rows that are compared at once.
_PIECE = 1 << 10
#: Of sums of squares.
_ROUNDING = 1e-6


def distances(tensors: Sequence[Array], able: Sequence[bool], most: float) -> tuple[Floats, Flags]:
    """|A - B| / min(|A|, |B|) of each two tensors, [n, n], infinite above `most`; and whether one is transposed.

    able: which may be transposed; two of other shapes are compared so alone, two squares either way, the nearer one
    counting. Two tensors of zeros are 0 apart.

    >>> a = np.array([[3.0, 0.0], [4.0, 0.0]])
    >>> apart, turned = distances([a, a.T], [False, True], 0.1)
    >>> float(apart[0, 1]), bool(turned[0, 1])
    (0.0, True)
    """
    count = len(tensors)
    apart, turned = np.full((count, count), np.inf), np.zeros((count, count), np.bool_)
    np.fill_diagonal(apart, 0.0)
    sides = [_sides(tensor) for tensor in tensors]
    for one in range(count):
        for other in range(one + 1, count):
            for turning in (False, True) if able[one] or able[other] else (False,):
                mine, theirs = tensors[one], tensors[other].T if turning else tensors[other]
                if mine.shape != theirs.shape:
                    continue
                # |(|a_k|) - (|b_k|)| <= |A - B|, a_k and b_k being rows
                bounds = sides[one][0], sides[other][1 if turning else 0]
                least = min(np.linalg.norm(each) for each in bounds)
                if np.linalg.norm(bounds[0] - bounds[1]) > most * least * (1 + _ROUNDING):
                    continue
                found = _apart(mine, theirs, float(least))
                if found <= most and found < apart[one, other]:
                    apart[one, other] = apart[other, one] = found
                    turned[one, other] = turned[other, one] = turning
    return apart, turned


def clusters(apart: Floats, most: float) -> list[list[int]]:
    """Clusters by complete linkage: no two members of one are farther apart than `most`; [n, n] -> members in order.

    The two nearest clusters are joined first, by their farthest members, as long as any are near enough.

    >>> clusters(np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 1.5], [3.0, 1.5, 0.0]]), 2.0)
    [[0, 1], [2]]
    """
    if apart.ndim != 2 or apart.shape[0] != apart.shape[1] or np.isnan(apart).any():
        raise ValueError(f"expected distances of each two, found {list(apart.shape)}, or NaN among them")
    linked = apart.astype(np.float64).copy()
    np.fill_diagonal(linked, np.inf)
    members = [[at] for at in range(len(linked))]
    while len(linked) > 1:
        one, other = sorted(int(at) for at in np.unravel_index(linked.argmin(), linked.shape))
        if not linked[one, other] <= most:
            break
        members[one] += members[other]
        farthest = np.maximum(linked[one], linked[other])
        linked[one], linked[:, one] = farthest, farthest
        # gone: near to nothing any more
        linked[other], linked[:, other], linked[one, one] = np.inf, np.inf, np.inf
        members[other] = []
    return [sorted(each) for each in members if each]


def _sides(tensor: Array) -> tuple[Floats, Floats]:
    """The lengths of the rows of a tensor, and those of its columns where it is a matrix."""
    wide = np.square(tensor.astype(np.float64)).reshape(len(tensor) if tensor.ndim else 1, -1)
    return np.sqrt(wide.sum(1)), np.sqrt(wide.sum(0))


def _apart(one: Array, other: Array, least: float) -> float:
    lost = 0.0
    for start in range(0, len(one), _PIECE):
        part = one[start : start + _PIECE].astype(np.float64) - other[start : start + _PIECE].astype(np.float64)
        lost += float(np.sum(np.square(part)))
    return float(np.sqrt(lost)) / least if least else 0.0 if not lost else np.inf
