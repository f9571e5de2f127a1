"""Paired timing: order, bounds, and the statistics against their formulas."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from tersor.driver.timing import Timings, bootstrap, paired
from tersor.ir.errors import OptionError

FEEDS = [{"x": np.zeros(1, np.float32)}, {"x": np.ones(1, np.float32)}]


def _timings(items: list[int], **seconds: list[float]) -> Timings:
    return Timings(np.array(items), {name: np.array(taken) for name, taken in seconds.items()})


def test_contestants_take_turns_on_every_item() -> None:
    calls: list[str] = []
    contestants = {name: lambda feeds, name=name: calls.append(f"{name}{int(feeds['x'][0])}") for name in "AB"}
    timings = paired(contestants, FEEDS, rounds=2, warmup=1, settle=0.0)
    warm, timed = ["A0", "B0", "A1", "B1"], ["A0", "A0", "B0", "B0", "A1", "A1", "B1", "B1"]
    assert calls == warm + timed * 2
    assert timings.items.tolist() == [0, 1, 0, 1]
    assert {name: len(taken) for name, taken in timings.seconds.items()} == {"A": 4, "B": 4}


def test_a_spent_budget_still_times_one_pair() -> None:
    calls: list[str] = []
    contestants = {name: lambda feeds, name=name: calls.append(name) for name in "AB"}
    timings = paired(contestants, FEEDS, rounds=50, warmup=3, budget_seconds=0.0, settle=0.0)
    assert calls == ["A", "B", "A", "A", "B", "B"]
    assert timings.pairs == 1


def test_a_turn_settles_before_it_is_timed() -> None:
    calls: list[str] = []
    contestants = {name: lambda feeds, name=name: calls.append(name) for name in "AB"}
    timings = paired(contestants, FEEDS[:1], rounds=1, warmup=0, settle=0.005)
    assert timings.pairs == 1
    assert calls.count("A") > 2
    assert calls == sorted(calls)


def test_garbage_collection_is_as_it_was() -> None:
    seen: list[bool] = []
    paired({"a": lambda feeds: seen.append(gc.isenabled())}, FEEDS[:1], rounds=1, warmup=0)
    assert seen == [False, False]
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("contestants", "feeds", "rounds"), [({}, FEEDS, 1), ({"a": id}, [], 1), ({"a": id}, FEEDS, 0)]
)
def test_nothing_to_time_is_refused(contestants: dict[str, object], feeds: list[object], rounds: int) -> None:
    with pytest.raises(OptionError, match="nothing to time"):
        paired(contestants, feeds, rounds=rounds)  # type: ignore[arg-type]


def test_the_ratio_pairs_calls_of_the_same_turn() -> None:
    # The machine slows down tenfold half way; each pair still says that b is twice as fast.
    timings = _timings([0, 0, 0, 0], a=[2.0, 2.0, 20.0, 20.0], b=[1.0, 1.0, 10.0, 10.0])
    ratio = timings.ratio("a", "b")
    assert (ratio.median, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
    assert timings.ratio("b", "a").median == 0.5


def test_latency_and_throughput_follow_their_formulas() -> None:
    timings = _timings([0, 1, 0, 1, 0, 1], a=[1.0, 4.0, 2.0, 4.0, 9.0, 4.0])
    assert timings.medians("a").tolist() == [2.0, 4.0]
    assert timings.throughput("a", [8, 16]) == (8 + 16) / (2.0 + 4.0)
    assert timings.latency("a").p50 == 4.0
    assert timings.latency("a").p99 == pytest.approx(np.percentile([1, 2, 4, 4, 4, 9], 99))


def test_the_interval_is_seeded_and_holds_the_median_of_the_law() -> None:
    # 95 % intervals of the median of 60 draws from a law whose median is 1: about 95 of 100 hold it.
    draws = [np.random.default_rng(seed).lognormal(0.0, 0.3, 60) for seed in range(100)]
    intervals = [bootstrap(values) for values in draws]
    assert 88 <= sum(interval.low <= 1.0 <= interval.high for interval in intervals) <= 100
    assert bootstrap(draws[0]) == intervals[0]
    assert np.mean([interval.high - interval.low for interval in intervals]) < 0.4
