"""Wanda against equation 1 of Sun et al. 2024, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.prune.methods.patterns import Pattern, choose
from tersor.passes.prune.methods.wanda import wanda

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 16)) * np.exp(RNG.standard_normal(16))
W = RNG.standard_normal((16, 8))
#: S_ij = |W_ij| * |X_j|_2
SCORES = np.abs(W) * np.sqrt((X**2).sum(0))[:, None]


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.8])
def test_each_output_loses_its_least(sparsity: float) -> None:
    mask = wanda(W, X.T @ X, sparsity, Pattern())
    for column in range(8):
        gone = np.argsort(SCORES[:, column])[: round(sparsity * 16)]
        np.testing.assert_array_equal(np.flatnonzero(~mask[:, column]), np.sort(gone))


@pytest.mark.parametrize("pattern", ["2:4", "bank:8"])
def test_patterns_within_an_output(pattern: str) -> None:
    mask = wanda(W, X.T @ X, 0.5, Pattern.of(pattern))
    np.testing.assert_array_equal(mask, choose(SCORES, 0.5, Pattern.of(pattern)))


def test_tiles_by_the_sum_of_squares() -> None:
    mask = wanda(W, X.T @ X, 0.5, Pattern(tile=(4, 4)))
    np.testing.assert_array_equal(mask, choose(SCORES**2, 0.5, Pattern(tile=(4, 4)), pool="sum"))


def test_inputs_of_one_size_leave_magnitude_within_outputs() -> None:
    mask = wanda(W, 3 * np.eye(16), 0.5, Pattern())
    np.testing.assert_array_equal(mask, choose(np.abs(W), 0.5, Pattern(), among="output"))
