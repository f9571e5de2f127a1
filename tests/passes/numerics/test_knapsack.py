"""The knapsack against all combinations of options, sizes that are rounded, and what cannot be met."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from tersor.passes.numerics.knapsack import knapsack

Items = list[list[int]]
Costs = list[list[float]]


def _case(seed: int, items: int, unit: int = 1) -> tuple[Items, Costs]:
    """Options in no order, some of them beaten by others."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, items)
    return (
        [[int(size) * unit for size in rng.integers(0, 12, count)] for count in counts],
        [[float(cost) for cost in rng.integers(0, 40, count) / 8] for count in counts],
    )


def _every(sizes: Items, costs: Costs) -> list[tuple[int, float]]:
    """Size and cost of every combination; eighths add up exactly."""
    options = [list(zip(size, cost, strict=True)) for size, cost in zip(sizes, costs, strict=True)]
    return [(sum(s for s, _ in chosen), sum(c for _, c in chosen)) for chosen in itertools.product(*options)]


def _sum(sizes: Items, costs: Costs, chosen: list[int]) -> tuple[int, float]:
    return (
        sum(each[index] for each, index in zip(sizes, chosen, strict=True)),
        sum(each[index] for each, index in zip(costs, chosen, strict=True)),
    )


@pytest.mark.parametrize("unit", [1, 384])
@pytest.mark.parametrize("seed", range(8))
def test_every_budget_gets_the_least_cost_of_all_combinations(seed: int, unit: int) -> None:
    sizes, costs = _case(seed, 5, unit)
    found, every = knapsack(sizes, costs), _every(sizes, costs)
    least = min(size for size, _ in every)
    assert found.least == least
    for budget in range(least, max(size for size, _ in every) + unit, unit):
        size, cost = _sum(sizes, costs, found.within(budget))
        assert size <= budget
        assert cost == min(cost for size, cost in every if size <= budget)


@pytest.mark.parametrize("seed", range(8))
def test_every_cost_gets_the_least_size_of_all_combinations(seed: int) -> None:
    sizes, costs = _case(seed, 5)
    found, every = knapsack(sizes, costs), _every(sizes, costs)
    for limit in sorted({cost for _, cost in every}):
        size, cost = _sum(sizes, costs, found.costing(limit))
        assert cost <= limit
        assert size == min(size for size, cost in every if cost <= limit)


@pytest.mark.parametrize("seed", range(4))
def test_the_frontier_holds_what_no_combination_beats(seed: int) -> None:
    sizes, costs = _case(seed, 5)
    found, every = knapsack(sizes, costs), _every(sizes, costs)
    wanted = sorted({(s, c) for s, c in every if not any((a < s and b <= c) or (a <= s and b < c) for a, b in every)})
    points = [(found.least + int(column) * found.unit, float(found.best[column])) for column in found.columns]
    assert points == wanted
    assert [_sum(sizes, costs, found.options(int(column))) for column in found.columns] == wanted
    assert found.greatest == wanted[-1][0]


@pytest.mark.parametrize("cells", [60, 200, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_a_small_table_rounds_to_the_safe_side(seed: int, cells: int) -> None:
    sizes, costs = _case(seed, 5)
    # sizes without a common divisor, of which a whole table would have thousands of columns
    sizes = [[size * 997 + index for index, size in enumerate(each)] for each in sizes]
    found, every = knapsack(sizes, costs, cells=cells), _every(sizes, costs)
    assert found.choices.size <= cells
    for budget in range(found.least, found.greatest + 1, 499):
        size, cost = _sum(sizes, costs, found.within(budget))
        assert size <= budget
        slack = budget - len(sizes) * found.unit
        assert cost <= min((cost for size, cost in every if size <= slack), default=math.inf)


def test_sizes_of_a_model_fit_into_a_table() -> None:
    rng = np.random.default_rng(0)
    counts = [int(count) for count in rng.integers(1 << 16, 1 << 24, 300)]
    sizes = [[bits * count for bits in range(2, 9)] for count in counts]
    costs = [[float(rng.random()) * 4.0**-bits for bits in range(2, 9)] for _ in counts]
    found = knapsack(sizes, costs, cells=1 << 22)
    assert found.choices.size <= 1 << 22
    budget = 4 * sum(counts)
    size, _ = _sum(sizes, costs, found.within(budget))
    # at most a unit is lost for each item
    assert 0 <= budget - size <= len(sizes) * found.unit


def test_what_cannot_be_met_is_an_error() -> None:
    found = knapsack([[3, 5], [2, 4]], [[2.0, 1.0], [1.0, 0.5]])
    with pytest.raises(ValueError, match="a budget of at least 5, found 4"):
        found.within(4)
    with pytest.raises(ValueError, match=r"a cost of at least 1\.5, found 1"):
        found.costing(1.0)
    assert found.within(10**12) == [1, 1]


def test_no_items_and_single_options() -> None:
    assert knapsack([], []).within(0) == []
    assert knapsack([[7]], [[3.0]]).within(7) == [0]


@pytest.mark.parametrize(
    ("sizes", "costs"),
    [
        ([[]], [[]]),
        ([[1, 2]], [[1.0]]),
        ([[1.5]], [[1.0]]),
        ([[1]], [[math.nan]]),
        ([[1]], [[-1.0]]),
        ([list(range(257))], [[0.0] * 257]),
    ],
)
def test_bad_options_are_refused(sizes: Items, costs: Costs) -> None:
    with pytest.raises(ValueError, match="expected"):
        knapsack(sizes, costs)


def test_items_and_costs_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="shorter"):
        knapsack([[1], [2]], [[1.0]])
