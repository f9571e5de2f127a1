"""A codebook stands for lookups, sums, scales and outliers, and its nodes compute them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from tersor.passes.edit import Tape
from tersor.passes.weights import Codebook, Quantized
from tersor.tests.passes.weights.emitted import is_computed, is_counted, model_of

RNG = np.random.default_rng(0)


def made(
    rows: int = 5,
    columns: int = 11,
    bits: int = 3,
    *,
    books: int = 1,
    width: int = 1,
    tables: int = 1,
    dtype: type = np.float32,
) -> Codebook:
    runs = -(-columns // width)
    indices = RNG.integers(0, 1 << bits, (books, rows, runs), dtype=np.uint8)
    numbers = RNG.standard_normal((books, tables << bits, width)).astype(dtype)
    return Codebook(indices, numbers, (rows, columns), bits)


def scale(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return RNG.uniform(0.5, 2.0, shape).astype(dtype)


def coarse(count: int, block: int = 256) -> Quantized:
    """Scales in a line, of 8 bits."""
    return Quantized(RNG.integers(1, 256, count, dtype=np.uint8), scale(-(-count // block)), 0, None, block)


CASES = {
    "numbers": made(),
    "bytes": made(bits=8),
    "half bytes": made(bits=4),
    "one bit": made(bits=1),
    "float16": made(dtype=np.float16),
    "float64": made(dtype=np.float64),
    "vectors": made(columns=12, width=4),
    "padded vectors": made(columns=11, width=4),
    "sums": made(books=3),
    "sums of vectors": made(columns=12, books=2, width=3),
    "rows scaled": replace(made(), scale=scale(5, 1)),
    "float16 rows scaled": replace(made(dtype=np.float16), scale=scale(5, 1, dtype=np.float16)),
    "blocks scaled": replace(made(columns=12), scale=scale(5, 3), block=4),
    "a short last block": replace(made(columns=11), scale=scale(5, 3), block=4),
    "padded vectors in blocks": replace(made(columns=11, width=2), scale=scale(5, 2), block=8),
    "quantized scales of rows": replace(made(), scale=coarse(5)),
    "quantized scales of blocks": replace(made(columns=12), scale=coarse(15), block=4),
    "short blocks of scales": replace(made(columns=11), scale=coarse(15, 4), block=4),
    "even blocks of scales": replace(made(columns=11), scale=coarse(15, 5), block=4),
    "tables by rows": replace(made(tables=3), tile=(2, 0)),
    "tables by runs": replace(made(tables=3, columns=12, width=2), tile=(0, 2)),
    "a table for each run": replace(made(tables=6, columns=12, width=2), tile=(0, 1)),
    "tables by rows and runs": replace(made(tables=6, columns=11, books=2), tile=(3, 4)),
    "outliers": replace(made(), outliers=(np.array([0, 7, 54]), np.array([9, -8, 7], np.float32))),
    "outliers over scales": replace(
        made(columns=12), scale=scale(5, 3), block=4, outliers=(np.array([59]), np.array([9.5], np.float32))
    ),
    "no outliers": replace(made(), outliers=(np.zeros(0, np.int64), np.zeros(0, np.float32))),
}  # fmt: skip


def naive(weight: Codebook) -> np.ndarray:
    """The formula of the class, number by number, in float64."""
    (rows, columns), (tall, wide) = weight.shape, weight.tile
    books, length, width = weight.books.shape
    runs = weight.indices.shape[2]
    down, across = -(-rows // (tall or rows)), -(-runs // (wide or runs))
    entries = length // (down * across)
    scales = weight.scale.dense() if isinstance(weight.scale, Quantized) else weight.scale
    found = np.zeros(weight.shape)
    for row, column in product(range(rows), range(columns)):
        run, inside = divmod(column, width)
        table = row // (tall or rows) * across + run // (wide or runs)
        for book in range(books):
            index = int(weight.indices[book, row, run])
            found[row, column] += weight.books[book].reshape(-1, entries, width)[table, index, inside]
        if scales is not None:
            blocks = -(-columns // weight.block) if weight.block else 1
            found[row, column] *= scales.reshape(rows, blocks)[row, column // (weight.block or columns)]
    if weight.outliers is not None:
        for where, number in zip(*weight.outliers, strict=True):
            found[divmod(int(where), columns)] = number
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_weight_is_scaled_sums_of_entries(name: str) -> None:
    """As many roundings as books and a scale, each of a number no larger than the largest entries and scale give."""
    weight = CASES[name]
    factor = 2.0 * 255 if isinstance(weight.scale, Quantized) else 2.0
    largest = np.abs(weight.books.astype(np.float64)).max(axis=(1, 2)).sum() * factor
    slack = float(np.finfo(weight.books.dtype).eps) * (len(weight.books) + 1) * largest
    assert weight.dense().shape == weight.shape
    assert weight.dense().dtype == weight.books.dtype
    np.testing.assert_allclose(weight.dense().astype(np.float64), naive(weight), rtol=0, atol=slack)


@pytest.mark.parametrize("name", CASES)
def test_the_nodes_compute_what_the_weight_stands_for(name: str) -> None:
    is_computed(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_that_are_stored(name: str) -> None:
    is_counted(CASES[name])


def test_nothing_is_left_that_a_runtime_does_not_fold() -> None:
    """ONNX Runtime leaves DequantizeLinear of constants to its kernels."""
    assert all("DequantizeLinear" not in [node.op_type for node in model_of(one).graph] for one in CASES.values())


def test_parts_are_named_after_the_weight() -> None:
    tape = Tape()
    CASES["outliers over scales"].emit(tape, "w")
    names = ["w_indices_bits", "w_codebook", "w_scale", "w_outlier_positions", "w_outliers"]
    assert [value.name for value in tape.weights] == names


def test_dense_leaves_the_codebook_alone() -> None:
    weight = CASES["outliers"]
    before = weight.books.copy()
    assert np.array_equal(weight.dense(), weight.dense())
    np.testing.assert_array_equal(weight.books, before)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (1, 1)])
def test_small_shapes(shape: tuple[int, int]) -> None:
    rows, columns = shape
    for block in (0, 2):
        blocks = -(-columns // block) if block else 1
        weight = replace(made(rows, columns), scale=scale(rows, blocks), block=block)
        assert weight.dense().shape == shape
        assert weight.bytes >= weight.books.nbytes
