"""Which units go: against every way of leaving inputs out, each answered by least squares."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.prune.methods.eliminate import eliminate

RNG = np.random.default_rng(3)


def error(x: np.ndarray, weight: np.ndarray, kept: np.ndarray) -> float:
    """|X W - X' W'|^2 with the best W' of the inputs that are kept."""
    answer, *_ = np.linalg.lstsq(x[:, kept], x @ weight, rcond=None)
    return float(((x @ weight - x[:, kept] @ answer) ** 2).sum())


def data(inputs: int = 8, outputs: int = 3, tokens: int = 60) -> tuple[np.ndarray, np.ndarray]:
    mixed = RNG.standard_normal((tokens, inputs)) @ RNG.standard_normal((inputs, inputs))
    return mixed, RNG.standard_normal((inputs, outputs))


def test_each_step_removes_what_the_rest_makes_up_for_best() -> None:
    x, weight = data()
    found = eliminate(weight, x.T @ x, np.arange(8), step=1, damping=0)
    left = list(range(8))
    for unit, after in zip(found.order[:-1], found.errors[1:], strict=False):
        costs = {each: error(x, weight, np.array([other for other in left if other != each])) for each in left}
        assert unit == min(costs, key=lambda each: costs[each])
        assert after == pytest.approx(costs[unit], rel=1e-6)
        left.remove(unit)


def test_units_of_several_inputs_go_together() -> None:
    x, weight = data()
    units = np.array([0, 1, 2, 3, 0, 1, 2, 3])
    found = eliminate(weight, x.T @ x, units, step=1, damping=0)
    costs = [error(x, weight, np.flatnonzero(units != unit)) for unit in range(4)]
    assert found.order[0] == int(np.argmin(costs))
    assert found.errors[1] == pytest.approx(min(costs), rel=1e-6)


def test_inputs_of_no_unit_stay_and_make_up_for_others() -> None:
    x, weight = data()
    units = np.array([0, 1, 2, 3, -1, -1, -1, -1])
    found = eliminate(weight, x.T @ x, units, step=1, damping=0)
    assert sorted(found.order) == [0, 1, 2, 3]
    assert found.errors[-1] == pytest.approx(error(x, weight, np.arange(4, 8)), rel=1e-6)


def test_several_at_a_time_end_where_one_by_one_ends() -> None:
    x, weight = data()
    found = eliminate(weight, x.T @ x, np.arange(8), step=3, damping=0)
    for gone in (3, 6):
        kept = np.setdiff1d(np.arange(8), found.order[:gone])
        assert found.errors[gone] == pytest.approx(error(x, weight, kept), rel=1e-6)


def test_all_gone_loses_everything() -> None:
    x, weight = data()
    found = eliminate(weight, x.T @ x, np.arange(8), damping=0)
    assert found.errors[-1] == pytest.approx(float(((x @ weight) ** 2).sum()), rel=1e-6)


@pytest.mark.parametrize(("units", "step"), [(np.arange(7), 1), (np.arange(8), 0)])
def test_what_does_not_fit_is_refused(units: np.ndarray, step: int) -> None:
    x, weight = data()
    with pytest.raises(ValueError, match="expected the unit of each"):
        eliminate(weight, x.T @ x, units, step=step)
