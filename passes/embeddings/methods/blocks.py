"""Tables as blocks of words, each the product of two thinner matrices: T[block] ~= A_block B_block.

    least sum over words of f_w |t_w - a_w B|^2        f: how much a word counts

B of least error has the first eigenvectors of sum f_w t_w t_w^T as its rows, and a_w = t_w B^T whatever f_w is: what is
left are the other eigenvalues (weighted singular values squared; Eckart and Young, 1936). A word that never counts
takes no part in B and is written in it all the same; a row of zeros stays one. With `metric` M the error is
(t_w - a_w B) M (t_w - a_w B)^T, such as that of scores x T^T, for which M = E[x^T x].

One block is the factorisation V x E x H of Lan et al., ALBERT, 2020, arXiv 1909.11942, section 3.1. Several are blocks
of words by frequency, each as wide as pays: Chen, Grangier and Auli, Strategies for Training Large Vocabulary Neural
Language Models, 2016, arXiv 1512.04906 (differentiated softmax); weighted and reassigned: Chen et al.,
GroupReduce, 2018, arXiv 1806.06950, equations 2 to 5. All blocks together are the product of a sparse matrix and a
dense one, T = C D with D = [B_1; B_2; ..], the form of Variani et al., WEST, 2019, arXiv 1811.08417.

Where GroupReduce sets ranks in proportion to frequencies, they are here those of least error within a number of
numbers (`numerics.knapsack`), and a block whose words are few may stay as it is; where it moves a word to the block of
least error, its price counts too, or all words would move to the widest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import Floats, check, vector
from ...numerics.knapsack import knapsack
from ...numerics.low_rank import LowRank, Side, tails

Words = NDArray[np.int64]

#: Entries of the table that ranks are chosen by, and ranks of a block that are weighed.
_CELLS, _RANKS = 1 << 20, 255
#: Of a Gram matrix of scores, as a share of the mean of its diagonal.
_DAMPING = 1e-3


class RoomError(ValueError):
    """Not even the least ranks fit."""


@dataclass(frozen=True)
class Part:
    """Some words of a table.

    members: which, [n]. left: [n, rank]. right: [rank, width]; None where left is the rows.
    """

    members: Words
    left: Floats
    right: Floats | None

    def dense(self) -> Floats:
        """The rows that it stands for, [n, width]."""
        found: Floats = self.left if self.right is None else self.left @ self.right
        return found


@dataclass(frozen=True)
class _Spectrum:
    """values: eigenvalues of the weighted Gram matrix, largest first. across: its eigenvectors as columns."""

    members: Words
    values: Floats
    across: Floats

    @property
    def lost(self) -> Floats:
        """The error by rank, from 0 on."""
        return tails(self.values)


def whole(table: Array, weights: Array, rank: int, *, metric: Array | None = None) -> Part:
    """The best product of that rank for all words together.

    table: [words, width]. weights: [words], at least 0. metric: [width, width]; the identity unless given. Raises
    ValueError for a rank below 1 or above the lesser of both sizes, and for other numbers.
    """
    wide, counted, side = _checked(table, weights, metric)
    most = min(wide.shape)
    if not 1 <= rank <= most:
        raise ValueError(f"expected a rank from 1 to {most}, found {rank}")
    scaled = side.times(wide.T).T
    return _part(_spectrum(scaled, counted, np.arange(len(wide))), rank, scaled, wide, side)


def blocks(
    table: Array,
    weights: Array,
    count: int,
    numbers: int,
    *,
    refine: int = 0,
    extra: int = 0,
    metric: Array | None = None,
) -> list[Part]:
    """Words in so many blocks, in the order of their weights, the ranks of least error within `numbers` in all.

    The first block has the heaviest words; each that follows is as large as all before it. refine: how often words
    move to the block where they cost least, as long as that lowers the error; a block may lose all of its words. extra:
    rows that each block stores beside its words. Raises RoomError where not even ranks of 1 fit, and as `whole` does.
    """
    wide, counted, side = _checked(table, weights, metric)
    if not 1 <= count <= len(wide):
        raise ValueError(f"expected from 1 to {len(wide)} blocks, found {count}")
    scaled = side.times(wide.T).T
    order = np.argsort(-counted, kind="stable")
    found = _Fit.of(scaled, counted, _halves(order, count), numbers, extra)
    for _ in range(refine if count > 1 else 0):
        moved = _Fit.of(scaled, counted, found.reassigned(scaled, counted), numbers, extra)
        if not moved.error < found.error:
            break
        found = moved
    return [_part(each, rank, scaled, wide, side) for each, rank in zip(found.spectra, found.ranks, strict=True)]


@dataclass(frozen=True)
class _Fit:
    """Blocks with their ranks; 0 for one that stays as it is. error: what that loses."""

    spectra: tuple[_Spectrum, ...]
    ranks: tuple[int, ...]
    error: float

    @classmethod
    def of(cls, table: Floats, weights: Floats, members: Sequence[Words], numbers: int, extra: int) -> _Fit:
        """Those of least error. Raises RoomError where the least take more than `numbers`."""
        spectra = tuple(_spectrum(table, weights, each) for each in members)
        width = table.shape[1]
        ranks, sizes, costs = [], [], []
        for each in spectra:
            rows, most = len(each.members) + extra, min(len(each.members), width)
            tried = np.unique(np.linspace(1, most, min(most, _RANKS)).round().astype(np.int64))
            lost = each.lost
            ranks.append([*(int(rank) for rank in tried), 0])
            sizes.append([*(int(rank) * (rows + width) for rank in tried), rows * width])
            costs.append([*(float(lost[rank]) for rank in tried), 0.0])
        least = sum(map(min, sizes))
        if numbers < least:
            raise RoomError(f"expected room for at least {least:,} numbers, found {numbers:,}")
        taken = knapsack(sizes, costs, cells=_CELLS).within(numbers)
        chosen = tuple(each[at] for each, at in zip(ranks, taken, strict=True))
        return cls(spectra, chosen, sum(each[at] for each, at in zip(costs, taken, strict=True)))

    def reassigned(self, table: Floats, weights: Floats) -> list[Words]:
        """Words where their error and the price of their numbers are least together."""
        squares = np.einsum("wi,wi->w", table, table)
        price, width = self._price(table.shape[1]), table.shape[1]
        asked = []
        for each, rank in zip(self.spectra, self.ranks, strict=True):
            inside = table @ each.across[:, :rank]
            left = np.maximum(squares - np.einsum("wi,wi->w", inside, inside), 0.0) if rank else np.zeros_like(squares)
            asked.append(weights * left + price * (rank or width))
        best = np.argmin(asked, axis=0)
        found = [np.flatnonzero(best == at) for at in range(len(asked))]
        return [each for each in found if len(each)]

    def _price(self, width: int) -> float:
        """What one number more would gain: the error that the next rank of a block takes away, over its numbers."""
        gains = [
            each.values[rank] / (len(each.members) + width)
            for each, rank in zip(self.spectra, self.ranks, strict=True)
            if 0 < rank < len(each.values)
        ]
        return float(np.median(gains)) if gains else 0.0


def _checked(table: Array, weights: Array, metric: Array | None) -> tuple[Floats, Floats, Side]:
    wide = check(table)
    counted = vector(weights, len(wide), "weights")
    if counted.min(initial=np.inf) < 0:
        raise ValueError(f"expected weights of at least 0, found {counted.min():.3g}")
    return wide, counted, Side.of(metric, wide.shape[1], _DAMPING)


def _halves(order: Words, count: int) -> list[Words]:
    """Runs of words, each as long as all before it; each has one at least."""
    bounds = [max(len(order) >> (count - at), at) for at in range(1, count)]
    return np.split(order, bounds)


def _spectrum(table: Floats, weights: Floats, members: Words) -> _Spectrum:
    import torch

    rows = table[members]
    counted = weights[members]
    if not counted.any():
        counted = np.ones_like(counted)
    values, across = torch.linalg.eigh(torch.from_numpy(rows.T @ (rows * counted[:, None])))
    most = min(rows.shape)
    found = values.numpy()[::-1][:most]
    # what rounding leaves of nothing is nothing; torch takes no arrays that run backwards
    kept = np.where(found > found[0] * len(found) * np.finfo(np.float64).eps, found, 0.0)
    return _Spectrum(members, kept, across.numpy()[:, ::-1][:, :most].copy())


def _part(found: _Spectrum, rank: int, scaled: Floats, table: Floats, side: Side) -> Part:
    """A block in so many numbers a word; rank 0 for its rows as they are."""
    if not rank:
        return Part(found.members, table[found.members], None)
    across = np.ascontiguousarray(found.across[:, :rank])
    # T R^T ~= A V^T with R^T R = M, so that T ~= A V^T R^-T
    made = LowRank(scaled[found.members] @ across, side.solve(across).T).evened()
    return Part(found.members, made.left, made.right)
