"""How many codes, books and atoms fit into so many bytes: of what fits, what says most of a word."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..base import Miss
from .composed import code_bytes

#: Of what is there, for the dictionary; the rest is for indices and coefficients.
_ATOMS = 0.4
#: Bytes of a coefficient.
_SHARE = 2
#: Atoms up to which an index takes one byte, two, or four.
_LIMITS = (1 << 8, 1 << 16, 1 << 32)
#: Sizes of fewer bits than this share of the most are worse whatever else.
_CLOSE = 0.6


@dataclass(frozen=True)
class Size:
    """Of codes: `stages` vectors of `width` columns that add up, for each run of columns, of `entries` in a book."""

    entries: int
    width: int
    stages: int
    runs: int
    bytes: int

    @property
    def bits(self) -> float:
        """What the codes of a word can tell."""
        return self.runs * self.stages * math.log2(self.entries)


def composition(
    shape: tuple[int, int],
    item: int,
    room: int,
    *,
    entries: Sequence[int],
    widths: Iterable[int] | None = None,
    stages: Sequence[int] = (1,),
    shared: bool = False,
    beside: int = 0,
    rule: str = "ratio",
) -> list[Size] | Miss:
    """Of each number of entries and stages the narrowest size that fits into `room` bytes, those of most bits first.

    item: bytes of a number. shared: one book for all runs. beside: bytes of what is stored too. rule: what a
    miss is called where nothing fits.
    """
    words, columns = shape
    found = []
    for width in range(1, columns + 1) if widths is None else widths:
        runs = -(-columns // width)
        for number in (number for number in entries if number <= words * (runs if shared else 1)):
            for stage in stages:
                books = number * width * item * (1 if shared else runs * stage)
                found.append(
                    Size(number, width, stage, runs, words * code_bytes(runs * stage, number) + books + beside)
                )
    if not found:
        return Miss("words", f"{words}", f"at least the {min(entries)} entries of a book")
    fits = [size for size in found if size.bytes <= room]
    if not fits:
        least = min(size.bytes for size in found)
        return Miss(rule, f"{room:,} bytes", f"at least {least:,} for codes and books of a table {list(shape)}")
    best: dict[tuple[int, int], Size] = {}
    for size in sorted(fits, key=lambda size: (-size.bits, -size.entries, size.stages)):
        best.setdefault((size.entries, size.stages), size)
    most = max(size.bits for size in fits)
    return [size for size in best.values() if size.bits >= _CLOSE * most]


def combination(
    shape: tuple[int, int], item: int, room: int, *, atoms: int | None, nonzeros: int | None, rule: str = "ratio"
) -> tuple[int, int] | Miss:
    """Atoms, and how many of them a word has, in `room` bytes."""
    words, columns = shape

    def taken(atoms: int, nonzeros: int) -> int:
        return atoms * columns * item + words * nonzeros * (_index(atoms) + _SHARE)

    most = words if atoms is None else atoms
    if nonzeros is not None and nonzeros > most:
        return Miss("nonzeros", f"{nonzeros}", f"at most the {most} atoms")
    least = taken(atoms or nonzeros or 1, nonzeros or 1)
    if least > room:
        return Miss(rule, f"{room:,} bytes", f"at least {least:,} for atoms and sums of a table {list(shape)}")
    if atoms is None:
        part = int(_ATOMS * room) if nonzeros is None else room
        # indices of more bits leave room for fewer atoms
        fits = [
            min((part - words * (nonzeros or 0) * (_index(limit) + _SHARE)) // (columns * item), limit, words)
            for limit in _LIMITS
        ]
        atoms = max(*fits, nonzeros or 1)
    if nonzeros is None:
        nonzeros = min((room - atoms * columns * item) // (words * (_index(atoms) + _SHARE)), atoms, columns)
    return atoms, nonzeros


def _index(atoms: int) -> int:
    """Bytes of the index of an atom."""
    return 1 if atoms <= 1 << 8 else 2 if atoms <= 1 << 16 else 4


def rows_and_columns(
    shape: tuple[int, int], item: int, room: int, *, halves: bool, width: int | None, rule: str = "ratio"
) -> int | Miss:
    """The width of runs, each with a table of words of its own; 0 for whole words.

    halves: the vector of a row is as wide as half of a run.
    """
    words, columns = shape
    high = math.isqrt(max(words - 1, 0)) + 1
    found = []
    for each in range(1 + halves, columns + 1, 1 + halves) if width is None else (width or columns,):
        # two halves are alike
        stored = each + each % (1 + halves)
        runs = -(-columns // stored)
        books = 2 * high * runs * stored * item // (1 + halves)
        found.append((words * code_bytes(2 * runs, high) + books, each))
    fits = [each for size, each in found if size <= room]
    if not fits:
        return Miss(rule, f"{room:,} bytes", f"at least {min(found)[0]:,} for {high} rows and columns of words")
    return min(fits)
