"""Product and residual quantization against their definitions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from tersor.passes.numerics.product import product, residual
from tersor.passes.weights import Codebook

RNG = np.random.default_rng(0)
W = RNG.standard_normal((40, 12))


def error(found: Codebook, weight: np.ndarray = W) -> float:
    return float(np.square(found.dense().astype(np.float64) - weight).sum())


def runs_of(weight: np.ndarray, width: int) -> np.ndarray:
    """[rows, runs, width], filled up with zeros."""
    rows, columns = weight.shape
    return np.pad(weight, ((0, 0), (0, -columns % width))).reshape(rows, -1, width)


@pytest.mark.parametrize("width", [1, 3, 4, 5, 12])
@pytest.mark.parametrize("shared", [False, True])
def test_each_run_is_the_nearest_vector_of_its_table(width: int, shared: bool) -> None:
    found = product(W, bits=3, width=width, shared=shared)
    runs = runs_of(W, width)
    tables = found.books[0].reshape(1 if shared else runs.shape[1], -1, width)
    wanted = np.zeros(runs.shape)
    for row, run in np.ndindex(*runs.shape[:2]):
        table = tables[0 if shared else run]
        wanted[row, run] = table[np.square(table - runs[row, run]).sum(1).argmin()]
    np.testing.assert_array_equal(found.dense(), wanted.reshape(40, -1)[:, :12])


@pytest.mark.parametrize("width", [1, 3, 4, 12])
def test_centers_are_means_of_their_runs(width: int) -> None:
    """Where Lloyd's iteration ends, as k-means of section 3.3 does."""
    found = product(W, bits=2, width=width, iterations=200)
    runs, labels = runs_of(W, width).reshape(-1, width), found.indices[0].reshape(-1)
    for number in np.unique(labels):
        slack = 480 * np.finfo(float).eps
        np.testing.assert_allclose(found.books[0, number], runs[labels == number].mean(0), rtol=0, atol=slack)


def test_separate_tables_are_those_of_each_block() -> None:
    found = product(W, bits=3, width=4, shared=False, seed=5)
    parts = [product(W[:, start : start + 4], bits=3, width=4, seed=5 + start // 4) for start in (0, 4, 8)]
    np.testing.assert_array_equal(found.dense(), np.concatenate([part.dense() for part in parts], 1))
    assert found.books.shape == (1, 3 * 8, 4)
    assert found.tile == (0, 1)


@pytest.mark.parametrize("width", [0, 3, 5])
def test_each_stage_quantizes_what_the_ones_before_leave(width: int) -> None:
    found = residual(W, bits=3, stages=3, width=width)
    size = width or 12
    left = runs_of(W, size)
    assert len(found.books) == 3
    for book, index in zip(found.books, found.indices, strict=True):
        distances = np.square(left[:, :, None] - book).sum(3)
        np.testing.assert_array_equal(index, distances.argmin(2))
        left = left - book[index]
    # three sums and their differences
    slack = 8 * np.finfo(float).eps * np.abs(W).max() * 3
    np.testing.assert_allclose(found.dense(), (runs_of(W, size) - left).reshape(40, -1)[:, :12], rtol=0, atol=slack)


def test_one_stage_is_product_quantization() -> None:
    np.testing.assert_array_equal(residual(W, bits=3, stages=1, width=4).dense(), product(W, bits=3, width=4).dense())


@pytest.mark.parametrize("make", [
    lambda bits: product(W, bits=bits, width=2),
    lambda bits: product(W, bits=bits, width=3, shared=False),
    lambda bits: residual(W, bits=bits),
    lambda bits: residual(W, bits=3, stages=bits),
])  # fmt: skip
def test_more_bits_or_stages_have_a_smaller_error(make: Callable[[int], Codebook]) -> None:
    errors = [error(make(bits)) for bits in range(1, 6)]
    assert all(more < less for less, more in pairwise(errors))


def test_tables_of_their_own_err_less_than_a_shared_one() -> None:
    uneven = W * np.repeat([1.0, 3.0, 0.2], 4)
    assert error(product(uneven, bits=3, width=4, shared=False), uneven) < error(product(uneven, bits=3), uneven)


def test_vectors_that_repeat_are_exact() -> None:
    weight = np.tile(RNG.standard_normal((4, 8)), (10, 1)).astype(np.float32)
    for found in (product(weight, bits=3), residual(weight, bits=2, stages=1), product(weight, bits=2, shared=False)):
        np.testing.assert_allclose(found.dense(), weight, rtol=4 * np.finfo(np.float32).eps)


def test_tables_have_no_more_entries_than_there_are_vectors() -> None:
    found = residual(W[:5], bits=8, stages=1)
    assert found.books.shape == (1, 5, 12)
    assert found.bits == 3
    np.testing.assert_array_equal(found.dense(), W[:5])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("factor", [1e-6, 1e4])
def test_scale_and_dtype(factor: float, dtype: type) -> None:
    weight = (W * factor).astype(dtype)
    found = product(weight, bits=4, width=2).dense()
    assert found.dtype == dtype
    wide, base = weight.astype(np.float64), error(product(W, bits=4, width=2)) / np.square(W).sum()
    assert np.square(found.astype(np.float64) - wide).sum() / np.square(wide).sum() < 1.5 * base


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), (3, 5)])
@pytest.mark.parametrize("make", [product, residual, lambda weight: product(weight, shared=False)])
def test_small_shapes_and_constants(make: Callable[[np.ndarray], Codebook], shape: tuple[int, int]) -> None:
    for number in (0.0, 0.5, -1e30):
        weight = np.full(shape, number, np.float32)
        np.testing.assert_array_equal(make(weight).dense(), weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: product(np.array([[np.nan]])), "the weight holds NaN or infinity"),
        (lambda: product(np.ones(3)), "found 1 axes"),
        (lambda: residual(np.ones(3)), "found 1 axes"),
        (lambda: product(W, bits=9), "expected 1 to 8 bits, found 9"),
        (lambda: product(W, width=0), "expected at least one column and zero iterations, found 0 and 20"),
        (lambda: product(W, iterations=-1), "expected at least one column and zero iterations, found 4 and -1"),
        (lambda: residual(W, stages=0), "expected at least one stage, found 0"),
        (lambda: residual(W, width=-1), "expected at least one column in a vector, or 0 for whole rows, found -1"),
    ],
)
def test_bad_input(make: Callable[[], Codebook], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
