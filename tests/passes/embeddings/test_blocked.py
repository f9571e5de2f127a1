"""Tables in blocks: the table that they stand for, and what lookups and heads make of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph
from tersor.passes.embeddings.blocked import BESIDE, Blocked, place_bytes
from tersor.passes.embeddings.methods.blocks import Part, blocks, whole
from tersor.passes.lookups import tables
from tersor.passes.replacing import put
from tersor.tests.support import ROUNDED, distance, on_onnxruntime

WIDTH = 8


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def stored(parts: list[Part], words: int) -> Blocked:
    return Blocked.of(parts, words, np.dtype(np.float32))


def parts_of(*ranks: int, words: int) -> list[Part]:
    """Blocks of shuffled words; rank 0 for one that stays as it is."""
    members = np.array_split(np.random.default_rng(0).permutation(words), len(ranks))
    return [
        Part(each, normal(len(each), rank or WIDTH), normal(rank, WIDTH) if rank else None)
        for each, rank in zip(members, ranks, strict=True)
    ]


def answers(made: Blocked, words: int, ids: np.ndarray, x: np.ndarray) -> list[np.ndarray]:
    model: ir.Model = graph(
        "e = Gather(t, ids)", "u = Transpose{perm=[1, 0]}(t)", "s = MatMul(x, u)",
        inputs={"ids": "int64[n]", "x": "float[m, 8]"}, outputs=["e", "s"], t=np.zeros((words, WIDTH), np.float32),
    )  # fmt: skip
    (table,) = tables(model)
    put(table, made)
    return on_onnxruntime(model, {"ids": ids, "x": x.astype(np.float32)})


@pytest.mark.parametrize(
    ("ranks", "words"),
    [((3,), 40), ((2, 3), 40), ((0, 2, 1), 41), ((2, 0, 1, 0), 43), ((0, 0), 40), ((1,) * 40, 40), ((2, 1), 70_000)],
)
def test_lookups_and_scores_are_those_of_the_table(ranks: tuple[int, ...], words: int) -> None:
    parts = parts_of(*ranks, words=words)
    made = stored(parts, words)
    table = np.zeros((words, WIDTH))
    for part in parts:
        table[part.members] = part.dense()
    assert distance([made.dense()], [table]) < ROUNDED[np.float32]
    ids, x = np.random.default_rng(1).integers(-words, words, 60), normal(3, WIDTH)
    found = answers(made, words, ids, x)
    assert distance(found, [table[ids], x @ table.T]) < ROUNDED[np.float32]


@pytest.mark.parametrize("ranks", [(WIDTH, 3), (WIDTH, WIDTH), (0, WIDTH), (WIDTH,)])
def test_a_product_of_full_rank_is_no_block_that_stays(ranks: tuple[int, ...]) -> None:
    parts = parts_of(*ranks, words=40)
    made, table = stored(parts, 40), np.zeros((40, WIDTH))
    for part in parts:
        table[part.members] = part.dense()
    assert distance([made.dense()], [table]) < ROUNDED[np.float32]
    ids, x = np.arange(40), normal(3, WIDTH)
    assert distance(answers(made, 40, ids, x), [table[ids], x @ table.T]) < ROUNDED[np.float32]


def test_bytes_are_those_of_sides_and_places() -> None:
    made = stored(parts_of(2, 0, words=40), 40)
    floats = (20 + BESIDE) * 2 + (20 + BESIDE) * WIDTH + 2 * WIDTH
    assert made.bytes == 4 * floats + 2 * 40
    one = stored([whole(normal(40, WIDTH), np.ones(40), 3)], 40)
    assert one.place is None
    assert one.bytes == 4 * 3 * (40 + WIDTH)


def test_places_take_sixteen_bits_where_these_are_enough() -> None:
    assert [place_bytes(words, 4) for words in (40, 65_528, 65_529, 250_000)] == [2, 2, 4, 4]
    for words, kind in ((65_528, np.int16), (65_529, np.int32)):
        made = stored(parts_of(1, 1, 1, 1, words=words), words)
        assert made.place is not None and made.place.dtype == kind
        assert made.dense().shape == (words, WIDTH)


def test_a_method_with_room_for_all_is_the_table() -> None:
    table = normal(64, WIDTH)
    made = stored(blocks(table, np.ones(64), 2, (64 + 2 * BESIDE) * WIDTH, extra=BESIDE), 64)
    assert np.array_equal(made.dense(), table.astype(np.float32))
