"""Scales that a product undoes: what they are checked for, and the error that a Gram matrix tells."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tersor.passes.quantize.methods.scaling import check_shared, held, output_error, times

RNG = np.random.default_rng(0)


def test_the_error_is_that_of_the_product() -> None:
    """sum over tokens of |x d|^2 for each output, element by element."""
    inputs, difference = RNG.standard_normal((11, 5)), RNG.standard_normal((5, 3))
    wanted = [0.0] * 3
    for token in inputs:
        for out in range(3):
            wanted[out] += sum(token[row] * difference[row, out] for row in range(5)) ** 2
    # a few hundred products in either order
    np.testing.assert_allclose(output_error(difference, inputs.T @ inputs), wanted, rtol=1000 * np.finfo(float).eps)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scales_and_their_reciprocals_are_normal_numbers(dtype: type) -> None:
    found = held(np.array([0.0, 1e-300, 1.0, 1e300, np.inf]), np.dtype(dtype)).astype(dtype)
    tiny, largest = np.finfo(dtype).tiny, np.finfo(dtype).max
    for number in (found, dtype(1) / found):
        assert np.all(number >= tiny)
        assert np.all(number <= largest)
    assert found[2] == 1


def test_a_product_too_large_for_its_dtype_is_infinite_without_a_warning() -> None:
    found = times(np.array([1.0, 4.0]), np.array([[3.0], [60000.0]], np.float16))
    assert found.dtype == np.float16
    assert found.tolist() == [[3.0], [np.inf]]


@pytest.mark.parametrize(
    ("weights", "channels", "message"),
    [
        ([], np.ones(2), "expected at least one weight, found none"),
        ([np.ones(2)], np.ones(2), "expected a weight [in, out], found 1 axes"),
        ([np.ones((2, 3)), np.ones((3, 3))], np.ones(2), "found [(2, 3), (3, 3)] and (2,)"),
        ([np.ones((2, 3))], np.ones((2, 1)), "found [(2, 3)] and (2, 1)"),
        ([np.ones((2, 3)), np.ones((2, 3), np.float32)], np.ones(2), "one dtype, found ['float32', 'float64']"),
        ([np.ones((2, 3))], np.array([1.0, -1.0]), "found NaN, infinity or negative numbers"),
        ([np.ones((2, 3))], np.array([1.0, np.nan]), "found NaN, infinity or negative numbers"),
        ([np.full((2, 3), np.inf)], np.ones(2), "the weight holds NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_refused(weights: list[np.ndarray], channels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check_shared(weights, channels)
