"""Permutations that make the units of layers agree best."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from tersor.passes.share.methods.rebasin import match, together


def spread(layers: list[np.ndarray], orders: list[np.ndarray]) -> float:
    """The sum of squares around the mean."""
    moved = np.array([layer[order] for layer, order in zip(layers, orders, strict=True)])
    return float(((moved - moved.mean(0)) ** 2).sum())


@pytest.mark.parametrize("seed", range(4))
def test_finds_the_permutation_that_was_applied(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units, order = rng.standard_normal((40, 12)), rng.permutation(40)
    assert (units[order][match(units, units[order])] == units).all()


def test_is_as_near_as_any_order() -> None:
    rng = np.random.default_rng(7)
    one, other = rng.standard_normal((2, 5, 3))
    best = min(float(((one - other[list(order)]) ** 2).sum()) for order in permutations(range(5)))
    assert float(((one - other[match(one, other)]) ** 2).sum()) == pytest.approx(best)


def test_copies_in_other_orders_become_one() -> None:
    rng = np.random.default_rng(3)
    units = rng.standard_normal((30, 8))
    layers = [units, *(units[rng.permutation(30)] for _ in range(4))]
    orders = together(layers)
    assert spread(layers, orders) == pytest.approx(0.0, abs=1e-12)
    assert orders[0].tolist() == list(range(30))


@pytest.mark.parametrize("seed", range(6))
def test_never_farther_apart_than_in_the_order_of_the_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = list(rng.standard_normal((4, 20, 6)))
    assert spread(layers, together(layers)) <= spread(layers, [np.arange(20)] * 4)


def test_three_layers_come_near_the_best_of_all_orders() -> None:
    rng = np.random.default_rng(2)
    layers = list(rng.standard_normal((3, 4, 3)))
    every = [np.array(order) for order in permutations(range(4))]
    best = min(spread(layers, [np.arange(4), *pair]) for pair in product(every, every))
    assert best - 1e-12 <= spread(layers, together(layers)) <= 1.15 * best


def test_two_layers_are_at_their_best() -> None:
    rng = np.random.default_rng(4)
    one, other = rng.standard_normal((2, 6, 3))
    assert (together([one, other])[1] == match(one, other)).all()


@pytest.mark.parametrize(("one", "other"), [((3, 2), (2, 2)), ((3,), (3,)), ((3, 2), (3, 4))])
def test_refuses(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        match(np.zeros(one), np.zeros(other))
