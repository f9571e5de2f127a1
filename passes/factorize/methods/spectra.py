"""Singular values of unfoldings, and the ranks that fit into so many numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from ...numerics.low_rank import tails

#: A matrix with so many times more columns than rows is taken to a triangle first.
_WIDE = 2
#: Steps of the bisection, each of which halves what is not known about the error allowed.
_STEPS = 60


def svd(matrix: Floats) -> tuple[Floats, Floats, Floats]:
    """U [rows, most], s [most] and V.T [most, columns] of a matrix in float64."""
    # torch's LAPACK takes a fraction of the time of the one in numpy's wheels; imported when it is needed
    import torch

    rows, columns = matrix.shape
    if columns > _WIDE * rows:
        right, values, left = svd(matrix.T)
        return left.T, values, right.T
    given = torch.from_numpy(np.ascontiguousarray(matrix))
    if rows > _WIDE * columns:
        basis, triangle = torch.linalg.qr(given)
        left, values, right = torch.linalg.svd(triangle, full_matrices=False)
        return (basis @ left).numpy(), values.numpy(), right.numpy()
    left, values, right = torch.linalg.svd(given, full_matrices=False)
    return left.numpy(), values.numpy(), right.numpy()


def squares(matrix: Floats) -> Floats:
    """The squares of the singular values, largest first; what may be rounding is zero."""
    import torch

    small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    found: Floats = torch.linalg.eigvalsh(torch.from_numpy(np.ascontiguousarray(small @ small.T))).numpy()
    return np.where(found > len(found) * np.finfo(np.float64).eps * found[-1], found, 0.0)[::-1]


def sum_of(spectra: Iterable[Floats]) -> Floats:
    """Spectra of one length added up."""
    found: Floats = np.sum(list(spectra), axis=0)
    return found


def within(spectra: Sequence[Floats], numbers: Callable[[tuple[int, ...]], int], most: float) -> tuple[int, ...] | None:
    """The ranks, one for each spectrum of squares, whose cuts together lose least and that hold no more than `most`
    numbers; None where even ranks of one hold more.

    From ranks whose cuts lose the same each (Oseledets, Tensor-Train Decomposition, 2011, algorithm 1) two at a time
    are moved against each other as long as less is lost.
    """
    left = [tails(each) for each in spectra]

    def ranks(lost: float) -> tuple[int, ...]:
        return tuple(max(1, int(np.searchsorted(-each, -lost))) for each in left)

    if numbers(tuple(1 for _ in spectra)) > most:
        return None
    low, high = 0.0, max(each[0] for each in left)
    if numbers(ranks(low)) <= most:
        return ranks(low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if numbers(ranks(middle)) <= most else (middle, high)
    return _moved(ranks(high), left, numbers, most)


def _moved(
    found: tuple[int, ...], left: Sequence[Floats], numbers: Callable[[tuple[int, ...]], int], most: float
) -> tuple[int, ...]:
    def lost(ranks: Sequence[int]) -> float:
        return float(sum(each[rank] for each, rank in zip(left, ranks, strict=True)))

    def filled(ranks: list[int], free: int) -> tuple[int, ...] | None:
        """With the largest rank of one cut that there is room for."""

        def held(rank: int) -> int:
            return numbers((*ranks[:free], rank, *ranks[free + 1 :]))

        # an axis of full rank may hold fewer numbers than one of the rank below: it needs no basis
        full = len(left[free]) - 1
        count = full if held(full) <= most else bisect_right(range(1, full), most, key=held)
        return (*ranks[:free], count, *ranks[free + 1 :]) if count else None

    while True:
        tried = [
            filled([*found[:given], rank, *found[given + 1 :]], free)
            for given in range(len(found)) for free in range(len(found))
            for rank in (range(1, len(left[given])) if free != given else (found[given],))
        ]  # fmt: skip
        best = min((each for each in tried if each is not None), key=lost, default=found)
        if not lost(best) < lost(found):
            return found
        found = best


def unfolding(tensor: Array, axes: Sequence[int]) -> Floats:
    """A tensor as a matrix whose rows are some of its axes."""
    rest = [axis for axis in range(tensor.ndim) if axis not in axes]
    rows = int(np.prod([tensor.shape[axis] for axis in axes], dtype=np.int64))
    return np.asarray(tensor, np.float64).transpose([*axes, *rest]).reshape(rows, -1)
