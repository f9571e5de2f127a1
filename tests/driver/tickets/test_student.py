"""Intervals by Student's t."""

from __future__ import annotations

import math

import pytest
from scipy import stats
from tersor.driver.tickets.student import Mean, deviation, quantile, within


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 8, 9, 30, 101])
def test_quantiles_are_students(freedom: int) -> None:
    assert quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)
    assert quantile(freedom, 0.5) == pytest.approx(stats.t.ppf(0.75, freedom), rel=1e-9)
    assert within(1.5, freedom) == pytest.approx(1 - 2 * stats.t.sf(1.5, freedom), rel=1e-9)


def test_a_mean_with_its_interval() -> None:
    values = [0.81, 0.84, 0.79]
    found = Mean.of(values)
    low, high = stats.t.interval(0.95, 2, loc=found.mean, scale=stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert deviation(values) == pytest.approx(stats.tstd(values))
    assert str(found) == "0.8133 ± 0.063"


def test_one_run_says_nothing_of_its_spread() -> None:
    found = Mean.of([0.5])
    assert (found.low, found.high) == (-math.inf, math.inf)
    assert str(found) == "0.5"
    assert math.isnan(deviation([0.5]))
