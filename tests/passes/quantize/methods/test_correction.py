"""Bias correction against means taken over the samples themselves."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.numerics.grid import Scheme, nearest
from tersor.passes.quantize.methods.correction import correct_bias

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((12, 5)).astype(np.float32)
COARSE = nearest(WEIGHT, Scheme(bits=3)).dense()
INPUTS = np.abs(RNG.standard_normal((50, 12)))
BIAS = RNG.standard_normal(5).astype(np.float32)
#: The answer is a float32; sums of 12 products of numbers below 8.
CLOSE = 12 * 8 * np.finfo(np.float32).eps


def test_the_mean_output_is_what_it_was() -> None:
    found = correct_bias(WEIGHT, COARSE, INPUTS.mean(0), BIAS)
    before, after = INPUTS @ WEIGHT + BIAS, INPUTS @ COARSE + found
    assert found.dtype == np.float32
    np.testing.assert_allclose(after.mean(0), before.mean(0), rtol=0, atol=CLOSE)
    assert np.abs((INPUTS @ COARSE + BIAS).mean(0) - before.mean(0)).max() > 100 * CLOSE


def test_the_mean_output_is_what_it_was_when_the_inputs_have_changed_too() -> None:
    moved = INPUTS + RNG.standard_normal((50, 12)) + 0.5
    found = correct_bias(WEIGHT, COARSE, INPUTS.mean(0), BIAS, mean_now=moved.mean(0))
    wanted = (INPUTS @ WEIGHT + BIAS).mean(0)
    np.testing.assert_allclose((moved @ COARSE + found).mean(0), wanted, rtol=0, atol=CLOSE)


def test_the_square_error_falls_by_the_square_of_the_mean_error() -> None:
    found = correct_bias(WEIGHT, COARSE, INPUTS.mean(0), BIAS)
    plain = INPUTS @ COARSE - INPUTS @ WEIGHT
    corrected = plain + found - BIAS
    np.testing.assert_allclose((plain**2).mean(0) - (corrected**2).mean(0), plain.mean(0) ** 2, rtol=0, atol=CLOSE)


def test_a_layer_without_a_bias_gets_one() -> None:
    found = correct_bias(WEIGHT, COARSE, INPUTS.mean(0))
    np.testing.assert_allclose(found, correct_bias(WEIGHT, COARSE, INPUTS.mean(0), BIAS) - BIAS, rtol=0, atol=CLOSE)


def test_what_was_not_approximated_keeps_its_bias() -> None:
    np.testing.assert_array_equal(correct_bias(WEIGHT, WEIGHT, INPUTS.mean(0), BIAS), BIAS)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1)])
def test_any_size_is_allowed(shape: tuple[int, int]) -> None:
    weight = np.zeros(shape, np.float32)
    np.testing.assert_array_equal(correct_bias(weight, weight, np.ones(shape[0])), np.zeros(shape[1]))


def test_what_does_not_fit_is_refused() -> None:
    mean = INPUTS.mean(0)
    with pytest.raises(ValueError, match=r"approximation \(12, 5\) as the weight is, found \(11, 5\)"):
        correct_bias(WEIGHT, COARSE[1:], mean)
    with pytest.raises(ValueError, match=r"mean of the inputs as 12 numbers, found \(11,\)"):
        correct_bias(WEIGHT, COARSE, mean[1:])
    with pytest.raises(ValueError, match=r"bias as 5 numbers, found \(1, 5\)"):
        correct_bias(WEIGHT, COARSE, mean, BIAS[None])
    with pytest.raises(ValueError, match="mean of the inputs now holds NaN"):
        correct_bias(WEIGHT, COARSE, mean, mean_now=mean * np.nan)
    with pytest.raises(ValueError, match="the weight holds NaN"):
        correct_bias(WEIGHT, np.full_like(COARSE, np.inf), mean)
