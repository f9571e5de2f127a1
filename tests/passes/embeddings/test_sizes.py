"""What fits into so many bytes: never more, of each kind the most that does, and a miss where nothing does."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.base import Miss
from tersor.passes.embeddings.composed import code_bytes
from tersor.passes.embeddings.methods.cells import cells
from tersor.passes.embeddings.sizes import combination, composition, rows_and_columns

SHAPE = (1000, 24)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("room", [8_000, 20_000, 60_000])
def test_codes_fit_and_one_column_less_would_not(room: int, shared: bool) -> None:
    found = composition(SHAPE, 4, room, entries=(256, 16, 4), stages=(1, 2), shared=shared)
    assert not isinstance(found, Miss)
    assert len({(size.entries, size.stages) for size in found}) == len(found)
    bits = [size.bits for size in found]
    assert bits == sorted(bits, reverse=True)
    for size in found:
        books = size.entries * size.width * 4 * (1 if shared else size.runs * size.stages)
        assert size.bytes == 1000 * code_bytes(size.runs * size.stages, size.entries) + books <= room
        if size.width > 1:
            runs = -(-24 // (size.width - 1))
            books = size.entries * (size.width - 1) * 4 * (1 if shared else runs * size.stages)
            more = 1000 * code_bytes(runs * size.stages, size.entries) + books
            assert more > room or runs == size.runs


def test_books_that_are_larger_than_vocabularies_do_not_fit() -> None:
    found = composition((100, 8), 4, 1 << 20, entries=(256,))
    assert isinstance(found, Miss) and found.rule == "words"
    shared = composition((100, 8), 4, 1 << 20, entries=(256,), shared=True)
    assert not isinstance(shared, Miss) and shared[0].runs * 100 >= 256


def test_codes_take_as_many_bytes_as_they_are_stored_in() -> None:
    assert [code_bytes(6, entries) for entries in (2, 4, 8, 16, 256, 257, 1 << 17)] == [1, 2, 6, 3, 6, 12, 24]


def test_atoms_and_nonzeros() -> None:
    found = combination(SHAPE, 4, 20_000, atoms=None, nonzeros=None)
    assert not isinstance(found, Miss)
    atoms, nonzeros = found
    assert atoms * 24 * 4 + 1000 * nonzeros * 3 <= 20_000 < atoms * 24 * 4 + 1000 * (nonzeros + 1) * 3
    assert combination(SHAPE, 4, 20_000, atoms=50, nonzeros=None) == (50, 5)
    given = combination(SHAPE, 4, 20_000, atoms=None, nonzeros=3)
    assert not isinstance(given, Miss) and given[1] == 3
    assert given[0] * 96 + 3000 * 3 <= 20_000 < (given[0] + 1) * 96 + 3000 * 3
    none = combination(SHAPE, 4, 100, atoms=None, nonzeros=None)
    assert isinstance(none, Miss) and none.rule == "ratio"
    few = combination(SHAPE, 4, 1 << 20, atoms=3, nonzeros=4)
    assert isinstance(few, Miss) and few.rule == "nonzeros"


@pytest.mark.parametrize(
    ("atoms", "nonzeros"), [(None, None), (40, None), (None, 3), (40, 3), (300, 2), (None, 9), (20, 12)]
)
def test_sums_fit_whatever_is_given_or_tell_how_much_they_take(atoms: int | None, nonzeros: int | None) -> None:
    for room in range(1000, 120_000, 1000):
        found = combination(SHAPE, 4, room, atoms=atoms, nonzeros=nonzeros)
        if isinstance(found, Miss):
            least = int(found.need.split()[2].replace(",", ""))
            assert found.rule == "ratio" and least > room
            enough = combination(SHAPE, 4, least, atoms=atoms, nonzeros=nonzeros)
            assert not isinstance(enough, Miss), "what is told is true"
            continue
        index = 1 if found[0] <= 256 else 2
        assert found[0] * 24 * 4 + 1000 * found[1] * (index + 2) <= room
        assert (atoms, nonzeros) == tuple(
            each if told is not None else None for each, told in zip(found, (atoms, nonzeros), strict=True)
        )


def test_atoms_that_two_bytes_tell_apart_cost_more_than_those_of_one() -> None:
    shape = (10_000, 24)
    # 256 atoms and 3 bytes a word; 300 would need 4
    assert combination(shape, 4, 256 * 96 + 30_000, atoms=None, nonzeros=1) == (256, 1)
    assert combination(shape, 4, 300 * 96 + 40_000, atoms=None, nonzeros=1) == (300, 1)


@pytest.mark.parametrize("join", ["sum", "concat"])
@pytest.mark.parametrize(
    ("words", "columns", "width"), [(200, 9, 3), (250, 10, 0), (70, 9, 0), (1000, 24, 6), (9, 8, 4)]
)
def test_rows_and_columns_take_what_is_told(join: str, words: int, columns: int, width: int) -> None:
    """Four bits where they are enough, and halves that are alike."""
    table = np.random.default_rng(0).standard_normal((words, columns)).astype(np.float32)
    made = cells(table, join=join, width=width, iterations=0)  # type: ignore[arg-type]
    shape, halves = (words, columns), join == "concat"
    assert rows_and_columns(shape, 4, made.bytes, halves=halves, width=width) == (width or columns)
    short = rows_and_columns(shape, 4, made.bytes - 1, halves=halves, width=width)
    assert isinstance(short, Miss)


@pytest.mark.parametrize("halves", [False, True])
def test_rows_and_columns_of_words(halves: bool) -> None:
    narrow = rows_and_columns(SHAPE, 4, 40_000, halves=halves, width=None)
    wide = rows_and_columns(SHAPE, 4, 12_000, halves=halves, width=None)
    assert not isinstance(narrow, Miss) and not isinstance(wide, Miss)
    assert narrow < wide
    assert rows_and_columns(SHAPE, 4, 40_000, halves=halves, width=0) == 24
    none = rows_and_columns(SHAPE, 4, 1000, halves=halves, width=None, rule="bytes")
    assert isinstance(none, Miss) and none.rule == "bytes"
