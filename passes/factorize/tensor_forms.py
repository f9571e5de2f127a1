"""The forms that a matrix may take in each tensor format: which modes, which ranks, how many numbers.

    tt           cores of the digits of rows and columns in pairs (i1 j1)(i2 j2), or one after the other i1 i2 j1 j2
    tucker, cp, block-term        tensors [i1, i2, j1, j2], [in, j1, j2] and [i1, i2, out]
    kronecker    every way to write in = i1 i2, out = j1 j2

Modes that nobody gave are chosen: of the forms that fit the numbers allowed the one that costs no more multiply-adds
than the matrix and loses least (`passes.factorize.fitted`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..edit import Array
from ..numerics.arrays import Floats
from .methods import block_term, tensor_train, tucker
from .methods import cp as canonical
from .methods.kronecker import kronecker
from .methods.modes import fitting
from .methods.network import Factor, Labels, Network, folded, merged

Format = Literal["tt", "tucker", "cp", "block-term", "kronecker"]
Modes = tuple[tuple[int, ...], tuple[int, ...]]

#: Multiply-adds that alternating least squares of one weight may take, and rounds at least and at most.
_WORK, _LEAST, _MOST = 10**12, 5, 60

FORMATS: tuple[Format, ...] = ("tt", "tucker", "cp", "block-term", "kronecker")


@dataclass(frozen=True)
class Size:
    """How large a form may be.

    share: numbers held, of the weight's. rank, terms: as the format has them, in the place of the share.
    """

    share: float | None
    rank: int | None = None
    terms: int | None = None

    @property
    def blocks(self) -> int:
        """Of a block-term decomposition."""
        return self.terms or 2


@dataclass(frozen=True)
class Form:
    """A format with its modes and ranks. blocks: of block terms."""

    format: Format
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    ranks: tuple[int, ...]
    blocks: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor that is decomposed."""
        if self.format in ("tt", "kronecker"):
            return tuple(i * j for i, j in zip(self.ins, self.outs, strict=True))
        return (*(size for size in self.ins if size > 1), *(size for size in self.outs if size > 1))

    @property
    def outline(self) -> Network:
        """The network with nothing in it: what it holds and costs."""
        inside = tuple(Factor(_nothing(sizes), labels) for sizes, labels in self._axes())
        found = Network(inside, *self._labels, (math.prod(self.ins), math.prod(self.outs)))
        return merged(found, lambda _, kept: _nothing([found.sizes[label] for label in kept]))

    def of(self, matrix: Floats, seed: int) -> Network:
        """The decomposition of a matrix that has no more rows and columns than the modes."""
        if self.format == "tt":
            return merged(tensor_train.tt_matrix(matrix, (self.ins, self.outs), self.ranks))
        if self.format == "kronecker":
            arrays: Sequence[Floats] = kronecker(matrix, self.ins, self.outs, self.ranks[0])
        else:
            arrays = self._arrays(folded(matrix, self.ins, self.outs).reshape(self.shape), seed)
        factors = tuple(
            Factor(array.reshape(sizes), labels) for array, (sizes, labels) in zip(arrays, self._axes(), strict=True)
        )
        return merged(Network(factors, *self._labels, (matrix.shape[0], matrix.shape[1])))

    def __str__(self) -> str:
        ranks = "x".join(map(str, self.ranks))
        size = f"{ranks} terms" if self.format == "kronecker" else f"rank {ranks}"
        blocks = f", {self.blocks} blocks" if self.format == "block-term" else ""
        return f"{'x'.join(map(str, self.ins))}/{'x'.join(map(str, self.outs))}, {size}{blocks}"

    @property
    def _labels(self) -> tuple[Labels, Labels]:
        ins, outs = (
            tuple(f"{letter}{at}" for at, size in enumerate(modes) if size > 1)
            for letter, modes in (("i", self.ins), ("j", self.outs))
        )
        return ins, outs

    def _arrays(self, tensor: Floats, seed: int) -> list[Floats]:
        if self.format == "cp":
            each = tensor.ndim * tensor.size * self.ranks[0]
            return canonical.cp(tensor, self.ranks[0], rounds=max(_LEAST, min(_MOST, _WORK // each)), seed=seed)
        labels = [str(at) for at in range(tensor.ndim)]
        if self.format == "tucker":
            return [np.asarray(each.array) for each in tucker.tucker(tensor, self.ranks).factors(labels)]
        found = block_term.block_term(tensor, self.ranks, self.blocks)
        return [np.asarray(each.array) for each in block_term.factors(found, labels)]

    def _axes(self) -> Iterator[tuple[list[int], Labels]]:
        """Sizes and labels of the factors' axes; an axis of one value has none."""
        for axes in self._all_axes():
            kept = [(label, size) for label, size in axes if size > 1]
            yield [size for _, size in kept], tuple(label for label, _ in kept)

    def _all_axes(self) -> Iterator[list[tuple[str, int]]]:
        names = [*self._labels[0], *self._labels[1]]
        if self.format == "tt":
            ends = (1, *self.ranks, 1)
            for at, (i, j) in enumerate(zip(self.ins, self.outs, strict=True)):
                yield [(f"r{at}", ends[at]), (f"i{at}", i), (f"j{at}", j), (f"r{at + 1}", ends[at + 1])]
        elif self.format == "kronecker":
            for at in range(2):
                yield [("t", self.ranks[0]), (f"i{at}", self.ins[at]), (f"j{at}", self.outs[at])]
        elif self.format == "cp":
            for label, size in zip(names, self.shape, strict=True):
                yield [(label, size), ("r", self.ranks[0])]
        else:
            each = list(zip(names, self.ranks, self.shape, strict=True))
            block = [("b", self.blocks)]
            yield [*block, *((label if rank == size else f"p{label}", rank) for label, rank, size in each)]
            for label, rank, size in each:
                if rank < size:
                    yield [*block, (label, size), (f"p{label}", rank)]


def modes_of(format: Format, rows: int, columns: int, *, table: bool = False) -> list[Modes]:
    """The modes to try for a matrix of so many rows and columns; of a table rows are digits that are looked up."""
    ins, outs = fitting(rows, 2), fitting(columns, 2)
    if format == "tt":
        apart = ((*ins, 1), (1, 1, columns)) if table else ((*ins, 1, 1), (1, 1, *outs))
        whole = [] if table else [((rows, 1, 1), (1, *outs)), ((*ins, 1), (1, 1, columns))]
        return list(dict.fromkeys([*whole, apart, (ins, outs), (fitting(rows, 3), fitting(columns, 3))]))
    if format == "kronecker":
        padded = math.prod(ins), math.prod(outs)
        every = (((i, padded[0] // i), (j, padded[1] // j)) for i in _divisors(padded[0]) for j in _divisors(padded[1]))
        return [modes for modes in every if _products(*modes)]
    tried = [(ins, (columns,)), (ins, outs)] if table else [(ins, outs), ((rows,), outs), (ins, (columns,))]
    return [modes for modes in dict.fromkeys(tried) if sum(size > 1 for side in modes for size in side) > 2]


def form(format: Format, modes: Modes, matrix: Array, size: Size) -> Form | None:
    """The form of these modes for a matrix: the ranks asked for, or those that lose least within the numbers allowed;
    None where none does.

    Raises ValueError for a rank above full and for modes that the format does not have.
    """
    ins, outs = modes
    numbers = None if size.share is None else size.share * matrix.size
    if format == "kronecker":
        return _kronecker(ins, outs, numbers, size)
    tensor = folded(matrix, ins, outs)
    if format == "tt":
        if len(ins) != len(outs) or len(ins) < 2:
            raise ValueError("a tensor train takes as many modes of inputs as of outputs, two or more")
        paired = tensor_train.paired(tensor, ins, outs)
        most = tensor_train.most(paired.shape)
        ranks = tensor_train.ranks_within([paired], numbers) if numbers is not None else cut(size.rank, most)
        return None if ranks is None else Form(format, ins, outs, ranks)
    tensor = tensor.reshape([each for each in tensor.shape if each > 1])
    if format == "cp":
        full = canonical.most(tensor.shape)
        rank = size.rank if numbers is None else min(int(numbers) // sum(tensor.shape), full)
        assert rank is not None  # without a share there is a rank
        if rank > full:
            raise ValueError(f"{full} is the full rank of this tensor")
        return Form(format, ins, outs, (rank,)) if rank else None
    blocks = size.blocks if format == "block-term" else 1
    if numbers is None:
        found: tuple[int, ...] | None = tucker.feasible(cut(size.rank, tucker.most(tensor.shape)))
    else:
        found = tucker.ranks_within([tensor], numbers / blocks)
    return None if found is None else Form(format, ins, outs, found, blocks)


def cut(rank: int | None, most: Sequence[int]) -> tuple[int, ...]:
    """One rank for all, of each no more than its full one. Raises ValueError where it is above all of these."""
    assert rank is not None  # without a share there is a rank
    if rank > max(most, default=1):
        raise ValueError(f"{max(most, default=1)} is the full rank of this tensor")
    return tuple(min(rank, each) for each in most)


def _kronecker(ins: tuple[int, ...], outs: tuple[int, ...], numbers: float | None, size: Size) -> Form | None:
    if len(ins) != 2 or len(outs) != 2:
        raise ValueError("a Kronecker product takes two modes of inputs and two of outputs")
    first, second = ins[0] * outs[0], ins[1] * outs[1]
    full = min(first, second)
    terms = size.terms if numbers is None else min(int(numbers) // (first + second), full)
    assert terms is not None  # without a share there are terms
    if terms > full:
        raise ValueError(f"{full} terms are the whole of this matrix")
    return Form("kronecker", ins, outs, (terms,)) if terms else None


def _products(ins: tuple[int, ...], outs: tuple[int, ...]) -> bool:
    """Whether neither factor is a number, and they are not a column and a row, which is a matrix of low rank."""
    return min(ins[0] * outs[0], ins[1] * outs[1]) > 1 and not (ins[0] == outs[1] == 1 or ins[1] == outs[0] == 1)


def _nothing(sizes: Sequence[int]) -> Floats:
    """Zeros that take no memory."""
    return np.broadcast_to(np.float64(0), sizes)


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]
