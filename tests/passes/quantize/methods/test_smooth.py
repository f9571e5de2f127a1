"""SmoothQuant against equation 4, and its expected error against int8 products of real activations."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tersor.passes.numerics.grid import Scheme, nearest
from tersor.passes.quantize.methods.smooth import Smoothing, search, smooth

EPS = float(np.finfo(np.float32).eps)


def layer(loud: float = 30.0, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """A weight, and activations of which a few channels are much louder than the rest."""
    rng = np.random.default_rng(seed)
    factors = np.ones(32)
    factors[[3, 17]] = loud
    inputs = rng.standard_normal((512, 32)) * factors + 0.2
    return (rng.standard_normal((32, 12)) * 0.1).astype(np.float32), inputs


def searched(weights: list[NDArray[np.float32]], inputs: NDArray[np.float64]) -> Smoothing:
    return search(weights, inputs.min(0), inputs.max(0), inputs.T @ inputs, len(inputs))


def integers(weight: NDArray[np.float32], inputs: NDArray[np.float64], scales: NDArray[np.float32]) -> float:
    """The squared error of the product with the activations in 256 steps of one range and int8 weights."""
    smoothed = inputs / scales.astype(np.float64)
    low, high = min(smoothed.min(), 0.0), max(smoothed.max(), 0.0)
    step = (high - low) / 255
    zero = np.rint(-low / step)
    rounded = (np.clip(np.rint(smoothed / step) + zero, 0, 255) - zero) * step
    product = nearest(scales[:, None] * weight, Scheme(bits=8)).dense().astype(np.float64)
    return float(((rounded @ product - inputs @ weight.astype(np.float64)) ** 2).sum())


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_scales_are_those_of_the_paper(alpha: float) -> None:
    first, inputs = layer()
    second = layer(seed=1)[0][:, :5] * np.float32(3)
    reach = np.abs(inputs).max(0)
    found = smooth([first, second], reach, alpha=alpha)
    for channel in range(32):
        weights = max(float(np.abs(first[channel]).max()), float(np.abs(second[channel]).max()))
        wanted = reach[channel] ** alpha / weights ** (1 - alpha)
        assert abs(found[channel] - wanted) <= EPS * wanted
    assert found.dtype == np.float32


def test_the_product_stays() -> None:
    """(x / s)(s W) == x W, but for a rounding of each product's factors."""
    weight, inputs = layer()
    scales = smooth([weight], np.abs(inputs).max(0))
    moved = (inputs / scales.astype(np.float64)) @ (scales[:, None] * weight).astype(np.float64)
    magnitude = np.abs(inputs) @ np.abs(weight).astype(np.float64)
    assert np.all(np.abs(moved - inputs @ weight) <= EPS * magnitude)


def test_half_and_half_reach_equally_far() -> None:
    weight, inputs = layer()
    reach = np.abs(inputs).max(0)
    scales = smooth([weight], reach, alpha=0.5).astype(np.float64)
    np.testing.assert_allclose(reach / scales, np.abs(weight).max(1) * scales, rtol=4 * EPS)


def test_the_ends_level_one_side() -> None:
    weight, inputs = layer()
    reach = np.abs(inputs).max(0)
    np.testing.assert_allclose(reach / smooth([weight], reach, alpha=1.0), np.ones(32), rtol=2 * EPS)
    np.testing.assert_allclose(np.abs(weight).max(1) * smooth([weight], reach, alpha=0.0), np.ones(32), rtol=2 * EPS)


@pytest.mark.parametrize("loud", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_alpha_found_is_near_the_best_for_real_activations(loud: float, seed: int) -> None:
    """Its int8 product misses by at most a tenth more than that of the best alpha, tried one by one."""
    weight, inputs = layer(loud, seed)
    found = searched([weight], inputs)
    reach = np.abs(inputs).max(0)
    every = [integers(weight, inputs, smooth([weight], reach, alpha=step / 20)) for step in range(21)]
    best = min(*every, integers(weight, inputs, np.ones(32, np.float32)))
    assert integers(weight, inputs, found.scales) <= 1.1 * best


@pytest.mark.parametrize("loud", [10.0, 100.0])
def test_the_error_expected_is_about_the_error_made(loud: float) -> None:
    weight, inputs = layer(loud)
    found = searched([weight], inputs)
    assert 0.8 < found.error / integers(weight, inputs, found.scales) < 1.25


def test_loud_channels_are_worth_smoothing() -> None:
    weight, inputs = layer(100.0)
    found = searched([weight], inputs)
    assert found.alpha is not None
    assert integers(weight, inputs, found.scales) < 0.2 * integers(weight, inputs, np.ones(32, np.float32))


def test_where_no_alpha_helps_nothing_is_smoothed() -> None:
    """All channels and all rows of W reach equally far: so do all scales, whatever alpha is."""
    rng = np.random.default_rng(0)
    inputs = np.clip(rng.standard_normal((256, 8)), -1, 1)
    inputs[:2] = [[1.0] * 8, [-1.0] * 8]
    weight = rng.choice([-127.0, 127.0, 64.0, 1.0], (8, 4)).astype(np.float32)
    weight[:, 0] = [127.0, 3, 5, 1, 7, 2, 9, 11]
    weight[0] = 127.0
    found = searched([weight], inputs)
    assert found.alpha is None
    np.testing.assert_array_equal(found.scales, np.ones(8, np.float32))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_dead_channels_and_dead_rows_have_scales(alpha: float) -> None:
    weight, inputs = layer()
    inputs[:, [0, 1]] = 0
    weight[[1, 2]] = 0
    scales = smooth([weight], np.abs(inputs).max(0), alpha=alpha)
    assert np.isfinite(scales).all()
    assert (scales > 0).all()
    # a dead channel stretches nobody's range
    assert np.abs(scales[0] * weight[0]).max() <= np.abs(scales[:, None] * weight).max() * (1 + EPS)
    assert np.isfinite(searched([weight], inputs).error)


def test_nothing_but_zeros() -> None:
    zeros = np.zeros((4, 3), np.float32)
    np.testing.assert_array_equal(smooth([zeros], np.zeros(4)), np.ones(4, np.float32))
    found = search([zeros], np.zeros(4), np.zeros(4), np.zeros((4, 4)), 1)
    assert found.error == 0
    assert found.alpha is None


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scales_and_reciprocals_are_finite_in_the_dtype(dtype: type) -> None:
    weight = np.array([[1e-7], [6e4], [1.0]], dtype)
    for alpha in (0.0, 0.5, 1.0):
        scales = smooth([weight], np.array([6e4, 1e-7, 1.0]), alpha=alpha)
        assert scales.dtype == dtype
        assert np.isfinite(1 / scales).all()
        assert np.isfinite(scales * weight[:, 0]).all()


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (3, 0)])
def test_small_shapes(shape: tuple[int, int]) -> None:
    found = search([np.ones(shape, np.float32)], -np.ones(shape[0]), np.ones(shape[0]), np.eye(shape[0]), 1)
    assert found.scales.shape == shape[:1]


def test_bad_input_is_refused() -> None:
    weight, inputs = layer()
    low, high, gram = inputs.min(0), inputs.max(0), inputs.T @ inputs
    for alpha in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="expected an alpha from 0 to 1"):
            smooth([weight], high, alpha=alpha)
    with pytest.raises(ValueError, match="expected tokens"):
        search([weight], low, high, gram, 0)
    with pytest.raises(ValueError, match="expected ranges"):
        search([weight], high, low, gram, 1)
    with pytest.raises(ValueError, match="expected ranges"):
        search([weight], low[:3], high, gram, 1)
    with pytest.raises(ValueError, match="expected ranges"):
        search([weight], low * np.nan, high, gram, 1)
    with pytest.raises(ValueError, match="Gram matrix"):
        search([weight], low, high, gram[:3], 1)
    with pytest.raises(ValueError, match="in magnitudes"):
        smooth([weight], high[:3])
