"""Magnitude thresholds against See et al. 2016, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.prune.methods.magnitude import magnitude
from tersor.passes.prune.methods.patterns import Pattern, choose

RNG = np.random.default_rng(0)
#: Layers of deviations that differ.
LAYERS = [RNG.standard_normal((8, 6)) * 3, RNG.standard_normal((20, 10)) / 5 + 0.1, RNG.standard_normal((5, 4))]
TOTAL = sum(layer.size for layer in LAYERS)


def test_class_uniform_takes_the_share_of_each_layer() -> None:
    for layer, mask in zip(LAYERS, magnitude(LAYERS, 0.4, "uniform", Pattern()), strict=True):
        count = round(0.4 * layer.size)
        threshold = np.sort(np.abs(layer), axis=None)[count]
        np.testing.assert_array_equal(mask, np.abs(layer) >= threshold)


def test_of_each_output() -> None:
    for layer, mask in zip(LAYERS, magnitude(LAYERS, 0.4, "output", Pattern()), strict=True):
        threshold = np.sort(np.abs(layer), axis=0)[round(0.4 * len(layer))]
        np.testing.assert_array_equal(mask, np.abs(layer) >= threshold)


def test_class_blind_has_one_threshold() -> None:
    masks = magnitude(LAYERS, 0.4, "global", Pattern())
    threshold = np.sort(np.concatenate([np.abs(layer).reshape(-1) for layer in LAYERS]))[round(0.4 * TOTAL)]
    for layer, mask in zip(LAYERS, masks, strict=True):
        np.testing.assert_array_equal(mask, np.abs(layer) >= threshold)


def test_class_distribution_has_a_multiple_of_each_deviation_as_threshold() -> None:
    masks = magnitude(LAYERS, 0.4, "distribution", Pattern())
    assert sum(int((~mask).sum()) for mask in masks) == round(0.4 * TOTAL)
    # there is one lambda between the largest that went and the least that stayed
    parts = [(np.abs(layer) / layer.std(), mask) for layer, mask in zip(LAYERS, masks, strict=True)]
    assert max(scores[~mask].max() for scores, mask in parts) <= min(scores[mask].min() for scores, mask in parts)
    blind = magnitude(LAYERS, 0.4, "global", Pattern())
    assert any((one != other).any() for one, other in zip(masks, blind, strict=True))


def test_tiles_are_compared_by_their_largest_weights() -> None:
    layers = [np.array([[1.0, 0.0], [0.0, 0.0]]), np.full((2, 2), 0.9)]
    tile = Pattern(tile=(2, 2))
    assert [mask.all() for mask in magnitude(layers, 0.5, "global", tile)] == [True, False]


@pytest.mark.parametrize("pattern", ["2:4", "bank:4", "4x2"])
def test_patterns_within_each_layer(pattern: str) -> None:
    (mask,) = magnitude([LAYERS[0]], 0.5, "uniform", Pattern.of(pattern))
    np.testing.assert_array_equal(mask, choose(np.abs(LAYERS[0]), 0.5, Pattern.of(pattern)))


@pytest.mark.parametrize("pattern", ["2:4", "bank:4"])
@pytest.mark.parametrize("scope", ["global", "distribution"])
def test_patterns_that_fix_the_share(scope: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=f"expected the scope uniform with N:M and banks.*found {scope}"):
        magnitude(LAYERS, 0.5, scope, Pattern.of(pattern))  # type: ignore[arg-type]


def test_a_layer_of_equal_weights() -> None:
    first, second = magnitude([np.zeros((2, 2)), np.array([[1.0, 2.0]])], 0.5, "distribution", Pattern())
    assert (not first[0].all(), second.all()) == (True, True)
