"""Powers of two against the paper's function."""

from __future__ import annotations

import math
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from tersor.passes.quantize.methods.log2 import log2

RNG = np.random.default_rng(0)
W = (RNG.standard_normal((7, 9)) * 0.3).astype(np.float32)


def naive(part: np.ndarray, bits: int, lowered: int = 0) -> np.ndarray:
    """round(log2 |w|) cut off at the full scale, and zero below the least of the 2^(bits-1) - 1 powers."""
    count = 2 ** (bits - 1) - 1
    found = np.zeros(part.shape)
    largest = max(abs(float(w)) for w in part.flat)
    if not largest:
        return found
    full = round(math.log2(largest)) - lowered
    for at, w in np.ndenumerate(part.astype(np.float64)):
        exponent = min(round(math.log2(abs(w))), full) if w else full - count
        found[at] = math.copysign(2.0**exponent, w) if exponent > full - count else 0.0
    return found


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_tensor_has_the_powers_nearest_by_logarithm(bits: int) -> None:
    found = log2(W, bits=bits)
    np.testing.assert_array_equal(found.dense(), naive(W, bits))
    assert found.books.size == 2**bits - 1


@pytest.mark.parametrize("bits", range(2, 9))
def test_rows_have_full_scales_of_their_own(bits: int) -> None:
    loud = W * np.exp2(np.arange(-3, 4, dtype=np.float32))[:, None] * 0.9
    loud[2] = 0
    np.testing.assert_array_equal(log2(loud, bits=bits, rows=True).dense(), [naive(row, bits) for row in loud])


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_the_search_finds_the_full_scale_of_least_error(bits: int, rows: bool) -> None:
    weight = W.astype(np.float64)
    weight[0, 0] = 40.0
    count = 2 ** (bits - 1) - 1
    found = log2(weight, bits=bits, rows=rows, search=True).dense()
    for got, part in zip(found if rows else [found], weight if rows else [weight], strict=True):
        errors = [np.square(naive(part, bits, lowered) - part).sum() for lowered in range(count + 1)]
        assert math.isclose(float(np.square(got - part).sum()), min(errors), rel_tol=part.size * np.finfo(float).eps)


def test_every_number_is_a_power_of_two_or_zero() -> None:
    found = log2(W, rows=True).dense()
    mantissa, _ = np.frexp(found[found != 0])
    assert set(np.abs(mantissa)) == {0.5}


def test_scaling_by_a_power_of_two_commutes_and_signs_are_symmetric() -> None:
    for options in ({}, {"rows": True}, {"search": True}):
        np.testing.assert_array_equal(log2(W * 8, **options).dense(), log2(W, **options).dense() * 8)
        np.testing.assert_array_equal(log2(-W, **options).dense(), -log2(W, **options).dense())


def test_more_bits_and_more_freedom_have_no_larger_error() -> None:
    def error(bits: int, **options: bool) -> float:
        return float(np.square(log2(W, bits=bits, **options).dense() - W).sum())

    assert all(more <= less for less, more in pairwise(error(bits) for bits in range(2, 9)))
    assert all(error(bits, search=True) <= error(bits) for bits in range(2, 9))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_the_largest_and_smallest_floats(dtype: type) -> None:
    """The power above the largest float is infinite, so its own is the one below."""
    for rows in (False, True):
        largest = np.nextafter(dtype(np.inf), dtype(0))
        found = log2(np.full((1, 2), largest, dtype), rows=rows).dense().astype(np.float64)
        assert found.tolist() == [[2.0 ** (math.frexp(float(largest))[1] - 1)] * 2]
        smallest = np.full((1, 2), np.nextafter(dtype(0), dtype(1)), dtype)
        assert np.isfinite(log2(smallest, rows=rows).dense().astype(np.float64)).all()


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), (3, 4)])
def test_small_shapes_and_zeros(shape: tuple[int, int], search: bool, rows: bool) -> None:
    for number in (0.0, -0.25):
        weight = np.full(shape, number, np.float32)
        np.testing.assert_array_equal(log2(weight, rows=rows, search=search).dense(), weight)


@pytest.mark.parametrize(
    ("weight", "bits", "message"),
    [
        (np.array([[1.0, np.nan]]), 4, "the weight holds NaN or infinity"),
        (np.ones(3), 4, "found 1 axes"),
        (W, 1, "expected 2 to 8 bits, found 1"),
        (W, 9, "expected 2 to 8 bits, found 9"),
    ],
)
def test_bad_input(weight: np.ndarray, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        log2(weight, bits=bits)
