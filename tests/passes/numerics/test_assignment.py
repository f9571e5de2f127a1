"""Linear assignment against scipy's, and against every permutation."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from tersor.passes.numerics.assignment import least_assignment, near_assignments


def total(cost: np.ndarray, order: np.ndarray) -> float:
    return float(cost[np.arange(len(cost)), order].sum())


@pytest.mark.parametrize("size", [1, 2, 3, 17, 60])
@pytest.mark.parametrize("seed", range(5))
def test_costs_least(size: int, seed: int) -> None:
    cost = np.random.default_rng([size, seed]).standard_normal((size, size))
    order = least_assignment(cost)
    assert sorted(order) == list(range(size))
    assert total(cost, order) == pytest.approx(total(cost, linear_sum_assignment(cost)[1]), abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_equal_costs_and_rows(seed: int) -> None:
    cost = np.random.default_rng(seed).integers(0, 3, (5, 5)).astype(float)
    assert total(cost, least_assignment(cost)) == min(total(cost, np.array(order)) for order in permutations(range(5)))


def test_units_of_very_different_lengths() -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.standard_normal((120, 30)) * rng.lognormal(0, 2, (120, 1)) for _ in range(2))
    cost = -(one @ other.T)
    assert total(cost, least_assignment(cost)) == pytest.approx(total(cost, linear_sum_assignment(cost)[1]))


def test_the_costs_stay_as_they_were() -> None:
    cost = np.random.default_rng(1).standard_normal((9, 9))
    before = cost.copy()
    least_assignment(cost)
    assert (cost == before).all()


def test_nothing_to_assign() -> None:
    assert least_assignment(np.zeros((0, 0))).tolist() == []


@pytest.mark.parametrize("cost", [np.zeros((2, 3)), np.full((2, 2), np.nan), np.zeros(4)])
def test_refuses(cost: np.ndarray) -> None:
    with pytest.raises(ValueError):
        least_assignment(cost)


@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_many_at_once_cost_hardly_more_than_the_least(count: int) -> None:
    costs = np.random.default_rng(count).standard_normal((6, count, count))
    found = near_assignments(costs, slack=1e-4)
    for each, got in zip(costs, found, strict=True):
        assert sorted(got) == list(range(count))
        least = each[linear_sum_assignment(each)].sum()
        spread = each.max() - each.min()
        assert least - 1e-9 <= each[np.arange(count), got].sum() <= least + count * 1e-4 * spread + 1e-9


def test_many_at_once_where_costs_are_equal() -> None:
    assert sorted(near_assignments(np.zeros((1, 9, 9)))[0]) == list(range(9))


@pytest.mark.parametrize(
    ("costs", "slack", "why"),
    [
        (np.zeros((2, 3, 4)), 1e-3, "expected costs"),
        (np.full((1, 2, 2), np.nan), 1e-3, "NaN"),
        (np.zeros((1, 2, 2)), 0.0, "slack"),
    ],
)
def test_refuses_many(costs: np.ndarray, slack: float, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        near_assignments(costs, slack=slack)
