"""AWQ against equations 4 and 5 written out on activations, and against rounding to nearest."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tersor.passes.numerics.grid import Scheme, nearest
from tersor.passes.quantize.methods.awq import Scaling, awq, clipping, scaled

SCHEMES = [Scheme(bits=4, group=8, symmetric=False), Scheme(bits=3, group=0), Scheme(bits=2, group=7, symmetric=False)]


def layer(
    rows: int = 24, columns: int = 6, seed: int = 0, dtype: type = np.float32
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """A weight, and activations whose channels are of very different loudness and not independent."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((64, rows)) @ (np.eye(rows) + 0.3 * rng.standard_normal((rows, rows)))
    return (rng.standard_t(5, (rows, columns)) * 0.1).astype(dtype), mixed * np.exp(1.5 * rng.standard_normal(rows))


def error(
    weight: NDArray[np.floating],
    inputs: NDArray[np.float64],
    stands_in: NDArray[np.floating],
    scales: NDArray[np.floating],
) -> float:
    """|x W - (x / s) W'|^2 from the activations."""
    wide = np.asarray(stands_in, np.float64)
    missed = inputs @ weight.astype(np.float64) - (inputs / scales.astype(np.float64)) @ wide
    return float((missed**2).sum())


def found_for(weight: NDArray[np.floating], inputs: NDArray[np.float64], scheme: Scheme, clip: bool = False) -> Scaling:
    return awq([weight], np.abs(inputs).mean(0), inputs.T @ inputs, scheme, clip=clip)


def naive(weight: NDArray[np.floating], inputs: NDArray[np.float64], scheme: Scheme, steps: int) -> list[float]:
    """Equation 4's loss at each alpha of equation 5, from activations."""
    magnitude = np.abs(inputs).mean(0)
    losses = []
    for step in range(steps + 1):
        scales = magnitude ** (step / steps)
        scales = (scales / np.sqrt(scales.max() * scales.min())).astype(np.float32)
        rounded = nearest((scales[:, None].astype(np.float64) * weight).astype(np.float32), scheme)
        losses.append(error(weight, inputs, rounded.dense(), scales))
    return losses


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_alpha_is_the_best_of_the_grid(scheme: Scheme, seed: int) -> None:
    weight, inputs = layer(seed=seed)
    found = found_for(weight, inputs, scheme)
    losses = naive(weight, inputs, scheme, 20)
    assert found.alpha == np.argmin(losses) / 20
    # both sum products of 24 in float64, of numbers in float32
    np.testing.assert_allclose(found.error, min(losses), rtol=1e-5)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_error_told_is_the_error_made(scheme: Scheme, clip: bool) -> None:
    weight, inputs = layer()
    found = found_for(weight, inputs, scheme, clip)
    (stands_in,) = found.quantized([weight], scheme)
    np.testing.assert_allclose(found.error, error(weight, inputs, stands_in.dense(), found.scales), rtol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(5))
def test_never_worse_than_rounding_to_nearest(scheme: Scheme, seed: int) -> None:
    weight, inputs = layer(seed=seed)
    plain = error(weight, inputs, nearest(weight, scheme).dense(), np.ones(len(weight)))
    scaling, both = found_for(weight, inputs, scheme), found_for(weight, inputs, scheme, clip=True)
    assert both.error <= scaling.error * (1 + 1e-6)
    assert scaling.error <= plain * (1 + 1e-6)
    assert both.error < 0.9 * plain


def test_equal_channels_are_not_scaled() -> None:
    weight, inputs = layer()
    found = awq([weight], np.full(len(weight), 3.0), inputs.T @ inputs, SCHEMES[0])
    np.testing.assert_array_equal(found.scales, np.ones(len(weight), np.float32))


def test_the_unit_of_the_activations_does_not_matter() -> None:
    weight, inputs = layer()
    one, other = found_for(weight, inputs, SCHEMES[0], True), found_for(weight, inputs * 1024, SCHEMES[0], True)
    np.testing.assert_array_equal(one.scales, other.scales)
    np.testing.assert_array_equal(one.ratios[0], other.ratios[0])


def test_weights_that_share_an_input_share_scales() -> None:
    """The sum of their errors decides: its best alpha is the best of the sums, not of either."""
    first, inputs = layer()
    second = layer(columns=4, seed=9)[0]
    found = awq([first, second], np.abs(inputs).mean(0), inputs.T @ inputs, SCHEMES[0], clip=False)
    totals = np.add(naive(first, inputs, SCHEMES[0], 20), naive(second, inputs, SCHEMES[0], 20))
    assert found.alpha == np.argmin(totals) / 20
    assert [ratios.shape for ratios in found.ratios] == [(3, 6), (3, 4)]
    assert [made.values.shape for made in found.quantized([first, second], SCHEMES[0])] == [(24, 6), (24, 4)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_sweep_of_clipping_lowers_the_error_of_the_product(scheme: Scheme) -> None:
    weight, inputs = layer()
    ones = np.ones(len(weight))
    totals = []
    for sweeps in (0, 1, 2, 3):
        ratios = clipping(weight, inputs.T @ inputs, scheme, sweeps=sweeps)
        totals.append(error(weight, inputs, scaled(weight, ones, ratios, scheme).dense(), ones))
    np.testing.assert_allclose(totals[0], error(weight, inputs, nearest(weight, scheme).dense(), ones), rtol=1e-6)
    assert totals[1] < totals[0]
    assert all(more <= fewer * (1 + 1e-6) for more, fewer in zip(totals[1:], totals, strict=False))


def test_a_single_group_gets_its_best_ratio() -> None:
    """With one group the search is exhaustive: no ratio of the grid does better for any column."""
    weight, inputs = layer()
    scheme, ratios = Scheme(bits=3), [1.0, 0.9, 0.8, 0.7, 0.6]
    found = clipping(weight, inputs.T @ inputs, scheme, ratios=ratios)
    for out in range(weight.shape[1]):
        column = weight[:, out : out + 1]
        losses = [
            error(column, inputs, scaled(column, np.ones(24), np.full((1, 1), ratio), scheme).dense(), np.ones(24))
            for ratio in ratios
        ]
        assert found[0, out] == ratios[int(np.argmin(losses))]


@pytest.mark.parametrize("clip", [False, True])
def test_dead_channels(clip: bool) -> None:
    weight, inputs = layer()
    inputs[:, [0, 5]] = 0
    found = found_for(weight, inputs, SCHEMES[0], clip)
    assert np.isfinite(found.scales).all()
    assert (found.scales > 0).all()
    assert found.error <= error(weight, inputs, nearest(weight, SCHEMES[0]).dense(), np.ones(24)) * (1 + 1e-6)
    silent = awq([weight], np.zeros(24), np.zeros((24, 24)), SCHEMES[0], clip=clip)
    np.testing.assert_array_equal(silent.scales, np.ones(24, np.float32))
    assert silent.error == 0


def test_one_token_makes_a_singular_gram_matrix() -> None:
    weight, inputs = layer()
    found = found_for(weight, inputs[:1], SCHEMES[0], clip=True)
    assert found.error <= error(weight, inputs[:1], nearest(weight, SCHEMES[0]).dense(), np.ones(24)) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_answers_come_in_the_dtype_of_the_weight(dtype: type) -> None:
    weight, inputs = layer(dtype=dtype)
    found = found_for(weight, inputs, SCHEMES[0], clip=True)
    assert found.scales.dtype == dtype
    assert found.quantized([weight], SCHEMES[0])[0].dense().dtype == dtype


def test_scales_that_would_overflow_are_not_taken() -> None:
    weight, inputs = layer(dtype=np.float16)
    weight[0] = 60000
    inputs[:, 0] *= 1e4
    found = found_for(weight, inputs, SCHEMES[0])
    assert np.isfinite(found.quantized([weight], SCHEMES[0])[0].dense()).all()


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (1, 1), (3, 0), (1, 5)])
def test_small_shapes(rows: int, columns: int) -> None:
    weight, inputs = layer(rows, columns)
    found = found_for(weight, inputs, SCHEMES[0], clip=True)
    assert found.scales.shape == (rows,)
    assert found.quantized([weight], SCHEMES[0])[0].dense().shape == (rows, columns)


@pytest.mark.parametrize("filled", [0.0, 0.5])
def test_constant_weights(filled: float) -> None:
    weight, (_, inputs) = np.full((24, 6), filled, np.float32), layer()
    found = found_for(weight, inputs, SCHEMES[0], clip=True)
    assert np.isfinite(found.error)
    assert np.isfinite(found.quantized([weight], SCHEMES[0])[0].dense()).all()


def test_bad_input_is_refused() -> None:
    weight, inputs = layer()
    magnitude, gram = np.abs(inputs).mean(0), inputs.T @ inputs
    with pytest.raises(ValueError, match="at least one step"):
        awq([weight], magnitude, gram, SCHEMES[0], steps=0)
    with pytest.raises(ValueError, match="Gram matrix"):
        awq([weight], magnitude, gram[:3, :3], SCHEMES[0])
    with pytest.raises(ValueError, match="Gram matrix"):
        awq([weight], magnitude, -gram, SCHEMES[0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        awq([weight * np.float32(np.nan)], magnitude, gram, SCHEMES[0])
    for ratios in ([], [0.0], [1.1]):
        with pytest.raises(ValueError, match="expected ratios"):
            clipping(weight, gram, SCHEMES[0], ratios=ratios)
