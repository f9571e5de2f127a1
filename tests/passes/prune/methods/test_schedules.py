"""Schedules against the formulas of Zhu and Gupta 2017 and Narang et al. 2017."""

from __future__ import annotations

import pytest
from tersor.passes.prune.methods.schedules import cubic, gradual


def test_cubic_is_the_polynomial_of_the_paper() -> None:
    """s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3"""
    initial, final, start, steps, each = 0.1, 0.9, 100, 20, 5
    for number in range(steps + 1):
        time = start + number * each
        wanted = final + (initial - final) * (1 - (time - start) / (steps * each)) ** 3
        found = cubic(time, start=start, end=start + steps * each, final=final, initial=initial)
        assert found == pytest.approx(wanted, abs=1e-15)


def test_cubic_stays_before_and_behind() -> None:
    assert cubic(3, start=5, end=9, final=0.5, initial=0.2) == 0.2
    assert cubic(5, start=5, end=9, final=0.5, initial=0.2) == pytest.approx(0.2)
    assert cubic(9, start=5, end=9, final=0.5) == cubic(99, start=5, end=9, final=0.5) == 0.5


@pytest.mark.parametrize(("every", "steepen"), [(1, 1.5), (10, 2.0)])
def test_gradual_is_the_algorithm_of_the_paper(every: int, steepen: float) -> None:
    start, ramp, end, reach = 10, 60, 200, 0.3
    theta = (2 * reach * every) / (2 * (ramp - start) + 3 * (end - ramp))
    phi = steepen * theta
    threshold = 0.0
    for step in range(end):
        if start < step < end:
            if step < ramp:
                threshold = theta * (step - start + 1) / every
            else:
                threshold = (theta * (ramp - start + 1) + phi * (step - ramp + 1)) / every
        found = gradual(step, start=start, ramp=ramp, end=end, reach=reach, every=every, steepen=steepen)
        assert found == pytest.approx(threshold, abs=1e-15)
    assert gradual(10 * end, start=start, ramp=ramp, end=end, reach=reach, every=every, steepen=steepen) == found


def test_gradual_reaches_what_is_asked_for() -> None:
    """q, but for the step that both ramps count twice."""
    assert gradual(10_000, start=0, ramp=2_500, end=10_000, reach=0.3) == pytest.approx(0.3, rel=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"start": 5, "end": 5, "final": 0.5},
        {"start": 0, "end": 5, "final": 1.5},
        {"start": 0, "end": 5, "final": 0.5, "initial": -1},
    ],
)
def test_cubic_with_bad_input(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        cubic(1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("start", "ramp", "end", "every"), [(5, 4, 9, 1), (5, 10, 9, 1), (5, 5, 5, 1), (0, 5, 9, 0)])
def test_gradual_with_bad_input(start: int, ramp: int, end: int, every: int) -> None:
    with pytest.raises(ValueError, match="expected start <= ramp <= end"):
        gradual(6, start=start, ramp=ramp, end=end, reach=0.1, every=every)
