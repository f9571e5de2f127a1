"""Low-rank correction against the formulas of LQER and QERA, and against other factors of its rank."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.numerics.gram import level
from tersor.passes.numerics.grid import Scheme, nearest
from tersor.passes.quantize.methods.lqer import lqer
from tersor.passes.weights import Corrected

RNG = np.random.default_rng(0)
ROWS, COLUMNS = 14, 9
WEIGHT = RNG.standard_normal((ROWS, COLUMNS)).astype(np.float32)
QUANTIZED = nearest(WEIGHT, Scheme(bits=3, group=4))
LOST = WEIGHT.astype(np.float64) - QUANTIZED.dense()
INPUTS = RNG.standard_normal((60, ROWS)) @ RNG.standard_normal((ROWS, ROWS)) * np.exp(RNG.standard_normal(ROWS))
GRAM = INPUTS.T @ INPUTS
MAGNITUDES = np.abs(INPUTS).mean(0)
RANKS = [1, 2, 5, COLUMNS]
#: Factors in float32, products of numbers below 8, sums of 9, on matrices whose condition number is below 1e3.
CLOSE = 8 * COLUMNS * np.finfo(np.float32).eps


def _product(found: Corrected) -> np.ndarray:
    assert isinstance(found.left, np.ndarray)
    assert isinstance(found.right, np.ndarray)
    return found.left.astype(np.float64) @ found.right.astype(np.float64)


def _truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    left, values, right = np.linalg.svd(matrix)
    return sum(np.outer(left[:, k], right[k]) * values[k] for k in range(rank))


def _root(gram: np.ndarray) -> np.ndarray:
    """The symmetric square root."""
    values, vectors = np.linalg.eigh(gram)
    return vectors @ np.diag(np.sqrt(np.maximum(values, 0))) @ vectors.T


def _output_error(gram: np.ndarray, product: np.ndarray) -> float:
    return float(np.trace((LOST - product).T @ gram @ (LOST - product)))


@pytest.mark.parametrize("rank", RANKS)
def test_without_statistics_it_is_the_truncated_error(rank: int) -> None:
    np.testing.assert_allclose(_product(lqer(WEIGHT, QUANTIZED, rank)), _truncated(LOST, rank), rtol=0, atol=CLOSE)


@pytest.mark.parametrize("rank", RANKS)
def test_with_magnitudes_it_is_the_truncated_scaled_error(rank: int) -> None:
    scale = np.diag(MAGNITUDES / np.sqrt(MAGNITUDES.min() * MAGNITUDES.max()))
    wanted = np.linalg.inv(scale) @ _truncated(scale @ LOST, rank)
    found = _product(lqer(WEIGHT, QUANTIZED, rank, magnitudes=MAGNITUDES))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=CLOSE * np.ptp(np.log2(MAGNITUDES)))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_with_a_gram_matrix_it_is_the_truncated_error_under_its_square_root(rank: int, damping: float) -> None:
    gram = GRAM + damping * level(GRAM) * np.eye(ROWS)
    wanted = np.linalg.inv(_root(gram)) @ _truncated(_root(gram) @ LOST, rank)
    found = _product(lqer(WEIGHT, QUANTIZED, rank, gram=GRAM, damping=damping))
    allowed = CLOSE * np.abs(wanted).max() * np.sqrt(np.linalg.cond(gram))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=allowed)


@pytest.mark.parametrize("rank", RANKS[:-1])
def test_with_a_gram_matrix_no_other_factors_lose_less(rank: int) -> None:
    """The least error is the sum of the squares of the other singular values (Eckart and Young)."""
    values = np.linalg.svd(INPUTS @ LOST, compute_uv=False)
    least = (values[rank:] ** 2).sum()
    found = _product(lqer(WEIGHT, QUANTIZED, rank, gram=GRAM, damping=0.0))
    np.testing.assert_allclose(_output_error(GRAM, found), least, rtol=1e-4)
    for options in ({}, {"magnitudes": MAGNITUDES}):
        assert _output_error(GRAM, _product(lqer(WEIGHT, QUANTIZED, rank, **options))) > least  # type: ignore[arg-type]
    for _ in range(50):
        other = found + 1e-2 * _truncated(RNG.standard_normal(LOST.shape), rank)
        assert _output_error(GRAM, _truncated(other, rank)) > least


def test_a_higher_rank_loses_less_and_the_full_one_nothing() -> None:
    for options in ({}, {"magnitudes": MAGNITUDES}, {"gram": GRAM}):
        found = [lqer(WEIGHT, QUANTIZED, rank, **options) for rank in range(COLUMNS + 1)]  # type: ignore[arg-type]
        gram = options.get("gram", np.diag(options.get("magnitudes", np.ones(ROWS)) ** 2))
        gram = gram + (0.01 * level(GRAM) * np.eye(ROWS) if "gram" in options else 0)
        errors = [_output_error(gram, _product(one)) for one in found]
        assert errors == sorted(errors, reverse=True)
        np.testing.assert_allclose(found[-1].dense(), WEIGHT, rtol=0, atol=CLOSE * np.sqrt(np.linalg.cond(gram)))


def test_columns_of_the_left_are_as_long_as_rows_of_the_right() -> None:
    for options in ({}, {"magnitudes": MAGNITUDES}, {"gram": GRAM}):
        found = lqer(WEIGHT, QUANTIZED, 4, **options)  # type: ignore[arg-type]
        lengths = np.linalg.norm(found.left, axis=0), np.linalg.norm(found.right, axis=1)  # type: ignore[arg-type]
        np.testing.assert_allclose(*lengths, rtol=ROWS * np.finfo(np.float32).eps)


def test_the_unit_of_the_statistics_does_not_matter() -> None:
    for name, statistics in (("magnitudes", MAGNITUDES), ("gram", GRAM)):
        found, other = (
            _product(lqer(WEIGHT, QUANTIZED, 3, **{name: statistics * factor}))  # type: ignore[arg-type]
            for factor in (1.0, 2.0**20)
        )
        np.testing.assert_allclose(other, found, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_few_samples_are_enough(tokens: int) -> None:
    few = INPUTS[:tokens]
    found = _product(lqer(WEIGHT, QUANTIZED, 5, gram=few.T @ few, damping=0.0))
    assert np.isfinite(found).all()
    # five samples span what a correction of rank five can mend; the damping is the root of eps
    assert np.abs(few @ (LOST - found)).max(initial=0.0) <= 1e-3 * np.abs(few @ LOST).max(initial=0.0)


def test_inputs_that_are_always_zero_count_little_but_do_count() -> None:
    magnitudes = MAGNITUDES.copy()
    magnitudes[3] = 0.0
    least = np.where(magnitudes > 0, magnitudes, magnitudes[magnitudes > 0].min())
    found, wanted = (_product(lqer(WEIGHT, QUANTIZED, 3, magnitudes=one)) for one in (magnitudes, least))
    np.testing.assert_array_equal(found, wanted)
    silent = _product(lqer(WEIGHT, QUANTIZED, 3, magnitudes=np.zeros(ROWS)))
    np.testing.assert_array_equal(silent, _product(lqer(WEIGHT, QUANTIZED, 3)))


def test_a_weight_that_lost_nothing_is_not_changed() -> None:
    exact = QUANTIZED.dense()
    for options in ({}, {"magnitudes": MAGNITUDES}, {"gram": GRAM}):
        np.testing.assert_array_equal(lqer(exact, QUANTIZED, 2, **options).dense(), exact)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (5, 2)])
def test_no_more_factors_are_made_than_there_are_rows_and_columns(shape: tuple[int, int]) -> None:
    weight = np.full(shape, 0.3, np.float32)
    for options in ({}, {"magnitudes": np.ones(shape[0])}, {"gram": np.eye(shape[0])}):
        found = lqer(weight, nearest(weight, Scheme(bits=2)), 8, **options)  # type: ignore[arg-type]
        assert found.rank == min(shape)
        assert found.dense().shape == shape


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_factors_are_of_the_weights_dtype(dtype: type) -> None:
    found = lqer(WEIGHT.astype(dtype), QUANTIZED, 2, gram=GRAM)
    assert isinstance(found.left, np.ndarray)
    assert isinstance(found.right, np.ndarray)
    assert found.left.dtype == found.right.dtype == dtype


def test_what_does_not_fit_is_refused() -> None:
    for match, weight, rank, options in [
        (r"quantized weight \(13, 9\) as the weight is, found \(14, 9\)", WEIGHT[1:], 2, {}),
        ("the weight holds NaN", WEIGHT * np.nan, 2, {}),
        ("rank of at least 0, found -1", WEIGHT, -1, {}),
        ("found both", WEIGHT, 2, {"gram": GRAM, "magnitudes": MAGNITUDES}),
        ("magnitudes of the inputs as 14 numbers", WEIGHT, 2, {"magnitudes": MAGNITUDES[1:]}),
        ("importance of at least 0, found -", WEIGHT, 2, {"magnitudes": -MAGNITUDES}),
        ("not symmetric", WEIGHT, 2, {"gram": np.triu(GRAM)}),
    ]:
        with pytest.raises(ValueError, match=match):
            lqer(weight, QUANTIZED, rank, **options)  # type: ignore[arg-type]
