"""Least-squares repair against numpy's least squares on the samples themselves."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.numerics.gram import level
from tersor.passes.numerics.least_squares import Means, repair

RNG = np.random.default_rng(0)
TOKENS, IN, OUT = 60, 8, 5
WEIGHT = RNG.standard_normal((IN, OUT))
BIAS = RNG.standard_normal(OUT)
INPUTS = RNG.standard_normal((TOKENS, IN)) + 1
NOW = INPUTS @ (np.eye(IN) + 0.2 * RNG.standard_normal((IN, IN))) + 0.3 * RNG.standard_normal((TOKENS, IN)) - 0.5
MEANS = Means(INPUTS.mean(0), NOW.mean(0), TOKENS)
GRAM, CROSS = NOW.T @ NOW, NOW.T @ INPUTS
#: Of a solve in float64, times the condition number of the Gram matrix.
CLOSE = IN * np.finfo(float).eps * np.linalg.cond(GRAM)


def _error(weight: np.ndarray, bias: np.ndarray | None = None, given: np.ndarray | None = None) -> float:
    bias = np.zeros(OUT) if bias is None else bias
    given = np.zeros(OUT) if given is None else given
    return float(((INPUTS @ WEIGHT + given - NOW @ weight - bias) ** 2).sum())


def _least_squares(inputs: np.ndarray, outputs: np.ndarray, ridge: float, target: np.ndarray) -> np.ndarray:
    """The ridge as further samples."""
    extra = np.sqrt(ridge) * np.eye(inputs.shape[1])
    samples, wanted = np.vstack([inputs, extra]), np.vstack([outputs, extra @ target])
    return np.linalg.lstsq(samples, wanted, rcond=None)[0]


@pytest.mark.parametrize("ridge", [0.0, 0.01, 1.0])
def test_the_weight_is_that_of_least_squares(ridge: float) -> None:
    found = repair(WEIGHT, GRAM, CROSS, ridge=ridge)
    wanted = _least_squares(NOW, INPUTS @ WEIGHT, ridge * level(GRAM), WEIGHT)
    np.testing.assert_allclose(found.weight, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())
    assert found.bias is None


@pytest.mark.parametrize("ridge", [0.0, 0.01])
@pytest.mark.parametrize("bias", [None, BIAS])
def test_weight_and_bias_are_those_of_least_squares_with_an_intercept(ridge: float, bias: np.ndarray | None) -> None:
    found = repair(WEIGHT, GRAM, CROSS, bias=bias, means=MEANS, ridge=ridge)
    centred = NOW - NOW.mean(0)
    outputs = INPUTS @ WEIGHT + (0 if bias is None else bias)
    wanted = _least_squares(centred, outputs - outputs.mean(0), ridge * level(centred.T @ centred), WEIGHT)
    assert found.bias is not None
    np.testing.assert_allclose(found.weight, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())
    np.testing.assert_allclose(found.bias, outputs.mean(0) - NOW.mean(0) @ wanted, rtol=0, atol=CLOSE * IN)


def test_means_of_matrices_that_are_means_count_as_one_sample() -> None:
    summed = repair(WEIGHT, GRAM, CROSS, bias=BIAS, means=MEANS)
    means = repair(WEIGHT, GRAM / TOKENS, CROSS / TOKENS, bias=BIAS, means=MEANS._replace(samples=1))
    np.testing.assert_allclose(means.weight, summed.weight, rtol=0, atol=CLOSE * np.abs(summed.weight).max())


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.1, 10.0])
def test_the_error_is_at_most_that_of_keeping_the_weight(ridge: float) -> None:
    found = repair(WEIGHT, GRAM, CROSS, ridge=ridge)
    assert _error(found.weight) <= _error(WEIGHT)
    both = repair(WEIGHT, GRAM, CROSS, bias=BIAS, means=MEANS, ridge=ridge)
    assert _error(both.weight, both.bias, BIAS) <= _error(WEIGHT, BIAS, BIAS)


def test_a_smaller_ridge_leaves_less_error_and_a_fitted_bias_less_still() -> None:
    errors = [_error(repair(WEIGHT, GRAM, CROSS, ridge=ridge).weight) for ridge in (1.0, 0.1, 0.01, 0.0)]
    assert errors == sorted(errors, reverse=True)
    both = repair(WEIGHT, GRAM, CROSS, means=MEANS, ridge=0.0)
    assert _error(both.weight, both.bias) < errors[-1]


def test_inputs_that_did_not_change_leave_the_weight_as_it_was() -> None:
    gram = INPUTS.T @ INPUTS
    found = repair(WEIGHT, gram, gram, bias=BIAS, means=Means(INPUTS.mean(0), INPUTS.mean(0), TOKENS))
    np.testing.assert_allclose(found.weight, WEIGHT, rtol=0, atol=CLOSE)
    assert found.bias is not None
    np.testing.assert_allclose(found.bias, BIAS, rtol=0, atol=CLOSE * IN)


def test_an_invertible_map_of_the_inputs_is_undone() -> None:
    mixing = RNG.standard_normal((IN, IN)) + 3 * np.eye(IN)
    mixed = INPUTS @ mixing
    found = repair(WEIGHT, mixed.T @ mixed, mixed.T @ INPUTS, ridge=0.0)
    allowed = IN * np.finfo(float).eps * np.linalg.cond(mixed.T @ mixed) * np.abs(WEIGHT).max()
    np.testing.assert_allclose(mixing @ found.weight, WEIGHT, rtol=0, atol=allowed * np.abs(mixing).sum(1).max())


def test_features_that_were_pruned_are_made_up_for_by_those_that_are_left() -> None:
    kept = [0, 2, 3, 5]
    gram = INPUTS.T @ INPUTS
    found = repair(WEIGHT, gram[np.ix_(kept, kept)], gram[kept], ridge=0.0)
    wanted = np.linalg.lstsq(INPUTS[:, kept], INPUTS @ WEIGHT, rcond=None)[0]
    assert found.weight.shape == (4, OUT)
    np.testing.assert_allclose(found.weight, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())


def test_what_the_inputs_do_not_say_is_what_the_weight_is_drawn_to() -> None:
    dead = NOW.copy()
    dead[:, 3] = 0.0
    target = RNG.standard_normal(WEIGHT.shape)
    for toward, wanted in ((None, WEIGHT), (target, target)):
        found = repair(WEIGHT, dead.T @ dead, dead.T @ INPUTS, ridge=0.0, toward=toward).weight
        np.testing.assert_array_equal(found[3], wanted[3])


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_fewer_samples_than_features_are_fitted_without_leaving_the_weight_behind(tokens: int) -> None:
    few, given = NOW[:tokens], INPUTS[:tokens]
    found = repair(WEIGHT, few.T @ few, few.T @ given, ridge=0.0).weight
    kept, left = ((given @ WEIGHT - few @ weight) for weight in (WEIGHT, found))
    # the damping is the root of eps: that much of the whole is what it leaves, and what rounding, divided by it, adds
    allowed = IN * OUT * np.sqrt(np.finfo(float).eps)
    assert np.abs(left).max(initial=0.0) <= allowed * np.abs(kept).max(initial=0.0)
    aside = np.eye(IN) - np.linalg.pinv(few) @ few
    np.testing.assert_allclose(aside @ found, aside @ WEIGHT, rtol=0, atol=allowed * np.abs(WEIGHT).max())


def test_without_means_the_bias_stays() -> None:
    found = repair(WEIGHT, GRAM, CROSS, bias=BIAS)
    np.testing.assert_array_equal(found.bias, BIAS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_answers_are_of_the_weights_dtype(dtype: type) -> None:
    found = repair(WEIGHT.astype(dtype), GRAM, CROSS, means=MEANS)
    assert found.weight.dtype == dtype
    assert found.bias is not None
    assert found.bias.dtype == dtype


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (1, 1)])
def test_any_size_is_allowed(rows: int, columns: int) -> None:
    found = repair(np.ones((rows, columns)), np.ones((rows, rows)), np.ones((rows, rows)))
    np.testing.assert_allclose(found.weight, np.ones((rows, columns)), rtol=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    for match, arguments, options in [
        (r"\[8, 8\] for a weight of 8 rows, found \(7, 7\)", (WEIGHT, GRAM[1:, 1:], CROSS), {}),
        (r"cross matrix \[in now, 8\], found \(8, 7\)", (WEIGHT, GRAM, CROSS[:, 1:]), {}),
        ("cross matrix holds NaN", (WEIGHT, GRAM, CROSS * np.nan), {}),
        ("the weight holds NaN", (WEIGHT * np.nan, GRAM, CROSS), {}),
        (r"shape \(8, 5\), found \(8, 4\)", (WEIGHT, GRAM, CROSS), {"toward": WEIGHT[:, 1:]}),
        ("at least one sample, found 0", (WEIGHT, GRAM, CROSS), {"means": MEANS._replace(samples=0)}),
        ("inputs now as 8 numbers", (WEIGHT, GRAM, CROSS), {"means": MEANS._replace(now=MEANS.now[1:])}),
        ("bias as 5 numbers", (WEIGHT, GRAM, CROSS), {"bias": BIAS[1:]}),
        ("damping of at least 0, found -1", (WEIGHT, GRAM, CROSS), {"ridge": -1}),
    ]:
        with pytest.raises(ValueError, match=match):
            repair(*arguments, **options)  # type: ignore[arg-type]
