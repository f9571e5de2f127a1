"""Where zeros may lie, and which weights go by their scores: those of the lowest.

free        anywhere
2:4         2 of every 4 neighbouring inputs of an output stay
4x4         tiles of 4 inputs x 4 outputs go or stay as one
bank:64     the same number of every 64 neighbouring inputs of an output stays
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import Floats, check

Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """group: (N, M), N of M inputs stay. tile: inputs and outputs that go as one. bank: inputs of a bank; all free
    where none is given.

    Sources: N:M, Mishra et al., Accelerating Sparse Deep Neural Networks, 2021; tiles, Narang et al., Block-Sparse
    Recurrent Neural Networks, 2017; banks, Cao et al., Efficient and Effective Sparse LSTM on FPGA with Bank-Balanced
    Sparsity, 2019.
    """

    group: tuple[int, int] = (0, 0)
    tile: tuple[int, int] = (1, 1)
    bank: int = 0

    @classmethod
    def of(cls, text: str) -> Pattern:
        """A pattern as it is spelled. Raises ValueError for what is none.

        >>> Pattern.of("2:4").sparsity
        0.5
        """
        if text == "free":
            return cls()
        if found := re.fullmatch(r"(\d+):(\d+)", text):
            kept, size = map(int, found.groups())
            if 0 < kept < size:
                return cls(group=(kept, size))
        elif found := re.fullmatch(r"(\d+)x(\d+)", text):
            tall, wide = map(int, found.groups())
            if tall * wide > 1:
                return cls(tile=(tall, wide))
        elif (found := re.fullmatch(r"bank:(\d+)", text)) and int(found[1]) > 1:
            return cls(bank=int(found[1]))
        raise ValueError(
            f"expected a pattern free, N:M such as 2:4 with 0 < N < M, ROWSxCOLUMNS such as 4x4 or bank:SIZE such as "
            f"bank:64, found {text!r}"
        )

    @property
    def sparsity(self) -> float | None:
        """The share of zeros where the pattern says it."""
        kept, size = self.group
        return 1 - kept / size if size else None

    @property
    def run(self) -> int:
        """Inputs of an output that are looked at as one set; 0 where all are."""
        return self.group[1] or self.bank

    @property
    def rows(self) -> int:
        """Inputs whose weights must be chosen at one time."""
        return self.run or self.tile[0]

    def misfit(self, shape: tuple[int, int]) -> str | None:
        """What a weight [in, out] would have to be for this pattern; None for what it is."""
        (tall, wide), run = self.tile, self.run
        if run and shape[0] % run:
            return f"inputs in multiples of {run}"
        if shape[0] % tall or shape[1] % wide:
            return f"inputs in multiples of {tall} and outputs in multiples of {wide}"
        return None


def choose(
    scores: Array,
    sparsity: float,
    pattern: Pattern,
    *,
    among: Literal["weight", "output"] = "weight",
    pool: Literal["max", "sum"] = "max",
) -> Bools:
    """Which weights stay, [in, out]: of each set those with the highest scores.

    scores: [in, out]. sparsity: the share that goes; N:M has its own. among: whether free weights are compared with all
    others or with those of the same output. pool: what a tile scores: its largest weight (Narang 2017), or all of it.
    Where scores are equal any may go. Raises ValueError for a sparsity outside of 0 to 1 and for shapes that the
    pattern does not fit.

    >>> choose(np.array([[4.0], [1.0], [3.0], [2.0]]), 0.5, Pattern())[:, 0].tolist()
    [True, False, True, False]
    """
    wide = check(scores)
    check_sparsity(sparsity)
    misfit = pattern.misfit((len(wide), wide.shape[1]))
    if misfit:
        raise ValueError(f"expected a weight with {misfit}, found {list(wide.shape)}")
    kept, size = pattern.group
    if size:
        return _highest(wide, size, kept)
    if pattern.bank:
        return _highest(wide, pattern.bank, pattern.bank - round(sparsity * pattern.bank))
    if among == "output" and pattern.tile == (1, 1):
        return _highest(wide, len(wide), len(wide) - round(sparsity * len(wide)))
    cells = pooled(wide, pattern.tile, pool)
    flat = _highest(cells.reshape(-1, 1), cells.size, cells.size - round(sparsity * cells.size))
    return spread(flat.reshape(cells.shape), pattern.tile)


def check_sparsity(sparsity: float) -> None:
    """Raise ValueError unless it is a share."""
    if not 0 <= sparsity <= 1:
        raise ValueError(f"expected a sparsity from 0 to 1, found {sparsity:g}")


def pooled(scores: Floats, tile: tuple[int, int], pool: Literal["max", "sum"]) -> Floats:
    """The score of each tile, [in / tall, out / wide]."""
    (tall, wide), (rows, columns) = tile, scores.shape
    apart = scores.reshape(rows // tall, tall, columns // wide, wide)
    found: Floats = apart.max((1, 3)) if pool == "max" else apart.sum((1, 3))
    return found


def spread(cells: Bools, tile: tuple[int, int]) -> Bools:
    """What is said of tiles, of each weight."""
    return cells.repeat(tile[0], 0).repeat(tile[1], 1)


def _highest(scores: Floats, run: int, kept: int) -> Bools:
    """The `kept` highest of every `run` rows of each column."""
    rows, columns = scores.shape
    apart = scores.reshape(rows // run if run else 0, run, columns)
    found = np.zeros(apart.shape, np.bool_)
    if kept and found.size:
        # the last `kept` places of a partition hold the highest
        best = (
            np.argpartition(apart, run - kept, axis=1)[:, run - kept :] if kept < run else np.arange(run)[None, :, None]
        )
        np.put_along_axis(found, np.broadcast_to(best, (len(apart), kept, columns)), True, axis=1)
    return found.reshape(rows, columns)
