"""The best runs of layers against all of them."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from tersor.passes.share.methods.partition import even, partition, spread


def squares(seed: int, size: int) -> np.ndarray:
    points = np.random.default_rng(seed).standard_normal((size, 3))
    return ((points[:, None] - points[None]) ** 2).sum(-1)


def cost_of(cost: np.ndarray, runs: list[range]) -> float:
    return sum(cost[run[0], run[-1]] for run in runs)


@pytest.mark.parametrize("groups", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("seed", range(4))
def test_costs_least(seed: int, groups: int) -> None:
    cost = spread(squares(seed, 7))
    ends = [(0, *cuts, 7) for cuts in combinations(range(1, 7), groups - 1)]
    best = min(cost_of(cost, [range(a, b) for a, b in pairwise(cuts)]) for cuts in ends)
    found = partition(cost, groups)
    assert [at for run in found for at in run] == list(range(7))
    assert len(found) == groups
    assert cost_of(cost, found) == pytest.approx(best)


def test_a_run_costs_its_squares_around_the_mean() -> None:
    points = np.random.default_rng(1).standard_normal((5, 3))
    cost = spread(((points[:, None] - points[None]) ** 2).sum(-1))
    part = points[1:4]
    assert cost[1, 3] == pytest.approx(((part - part.mean(0)) ** 2).sum())


def test_more_groups_never_cost_more() -> None:
    cost = spread(squares(9, 8))
    costs = [cost_of(cost, partition(cost, groups)) for groups in range(1, 9)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == 0.0


def test_runs_of_equal_length() -> None:
    assert even(6, 3) == [range(2), range(2, 4), range(4, 6)]
    assert even(5, 5) == [range(at, at + 1) for at in range(5)]


@pytest.mark.parametrize("groups", [0, 4])
def test_refuses(groups: int) -> None:
    with pytest.raises(ValueError, match="groups"):
        partition(np.zeros((3, 3)), groups)
    with pytest.raises(ValueError, match="groups"):
        even(3, groups)
