"""Scores of units, each against its formula written out."""

from __future__ import annotations

import math

import numpy as np
from tersor.passes.prune.methods import scores

RNG = np.random.default_rng(5)
UNITS = np.array([0, 1, 1, -1, 2, 0])


def test_norms_add_up_the_rows_of_a_unit() -> None:
    weight = RNG.standard_normal((6, 4))
    squares = [sum(float(w) ** 2 for row in np.flatnonzero(unit == UNITS) for w in weight[row]) for unit in range(3)]
    wanted = [math.sqrt(square) for square in squares]
    np.testing.assert_allclose(scores.norms(weight, UNITS, 3), wanted, rtol=1e-12)


def test_activity_is_the_size_of_the_part_in_the_outputs() -> None:
    x, weight = RNG.standard_normal((50, 6)), RNG.standard_normal((6, 4))
    wanted = []
    for unit in range(3):
        rows = np.flatnonzero(unit == UNITS)
        wanted.append(math.sqrt(float(((x[:, rows] @ weight[rows]) ** 2).sum(1).mean())))
    np.testing.assert_allclose(scores.activity(weight, x.T @ x / 50, UNITS, 3), wanted, rtol=1e-9)


def test_entropy_in_bits() -> None:
    wanted = [-(p * math.log2(p) + (1 - p) * math.log2(1 - p)) for p in (0.1, 0.4)]
    np.testing.assert_allclose(scores.entropy(np.array([0.1, 0.4])), wanted, rtol=1e-12)
    assert scores.entropy(np.array([0.0, 1.0])).tolist() == [0.0, 0.0]


def test_taylor_and_fisher_average_over_draws() -> None:
    products = np.array([[1.0, -2.0], [-3.0, 2.0]])
    assert scores.taylor(products).tolist() == [2.0, 2.0]
    assert scores.fisher(products).tolist() == [5.0, 4.0]
