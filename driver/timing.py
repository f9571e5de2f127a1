"""Timing contestants against each other: interleaved, paired, with an interval.

Contestants take turns on every item (A B A B ...), so that drift of the machine falls on both alike; what is reported
is the median of the paired ratios with a 95 % bootstrap interval.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.errors import OptionError
from ..ir.feeds import Feeds

Seconds = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Contestant = Callable[[Feeds], object]

#: Seconds of untimed calls at the start of a turn.
SETTLE = 0.025

#: Resamples of a bootstrap.
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A median and the ends of its 95 % bootstrap interval."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Latency:
    """Percentiles of the time of one call, in seconds."""

    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Timings:
    """What `paired` measured.

    items: [pairs], the index of the feed of each pair. seconds: by contestant, [pairs], the time of one call.
    """

    items: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    seconds: Mapping[str, Seconds]

    @property
    def pairs(self) -> int:
        return len(self.items)

    def ratio(self, a: str, b: str) -> Interval:
        """Seconds of `a` over seconds of `b`, paired: how many times faster `b` is than `a`."""
        return bootstrap(self.seconds[a] / self.seconds[b])

    def latency(self, name: str) -> Latency:
        """Percentiles over all calls of one contestant."""
        p50, p90, p99 = np.percentile(self.seconds[name], [50, 90, 99])
        return Latency(float(p50), float(p90), float(p99))

    def medians(self, name: str) -> Seconds:
        """[items timed] The median seconds of one contestant on each item, in the items' order."""
        return np.array([np.median(self.seconds[name][self.items == item]) for item in np.unique(self.items)])

    def throughput(self, name: str, samples: Sequence[int]) -> float:
        """Samples a second over one visit of every timed item at its median; `samples` counts those of each item."""
        timed = np.unique(self.items)
        return float(sum(samples[item] for item in timed) / self.medians(name).sum())


def paired(
    contestants: Mapping[str, Contestant],
    feeds: Sequence[Feeds],
    *,
    rounds: int = 10,
    warmup: int = 1,
    budget_seconds: float | None = None,
    least: int = 1,
    settle: float = SETTLE,
) -> Timings:
    """Time every contestant on every item, taking turns.

    Each turn begins with untimed calls, one at least and for `settle` seconds: the threads of whoever came before may
    spin for milliseconds after their work is done (OpenMP's do), and the caches are theirs. What is timed is a
    contestant's steady state, whoever its neighbour is.
    After `warmup` untimed visits of each item, `rounds` timed ones follow. `budget_seconds` bounds warm-up and timing
    together, checked between turns: one item is warmed up and `least` pairs are timed however long they take. Raises
    OptionError where there is nothing to time.
    """
    if not contestants or not feeds or rounds < 1:
        raise OptionError("there is nothing to time: at least one contestant, one feed and one round are needed")
    deadline = float("inf") if budget_seconds is None else time.perf_counter() + budget_seconds
    half = float("inf") if budget_seconds is None else time.perf_counter() + budget_seconds / 2
    ready = _warm_up(contestants, feeds, warmup, half)
    items: list[int] = []
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds * ready):
            if turn >= least and time.perf_counter() > deadline:
                break
            items.append(turn % ready)
            for name, run in contestants.items():
                _settle(run, feeds[items[-1]], settle if len(contestants) > 1 else 0.0)
                start = time.perf_counter()
                run(feeds[items[-1]])
                seconds[name].append(time.perf_counter() - start)
    finally:
        if collecting:
            gc.enable()
    return Timings(np.array(items), {name: np.array(taken) for name, taken in seconds.items()})


def _settle(run: Contestant, feed: Feeds, seconds: float) -> None:
    """Call untimed, once at least, until the seconds are over."""
    end = time.perf_counter() + seconds
    run(feed)
    while time.perf_counter() < end:
        run(feed)


def bootstrap(values: Seconds, *, seed: int = 0) -> Interval:
    """The median of `values` and its 95 % percentile bootstrap interval, seeded."""
    rng = np.random.default_rng(seed)
    medians = [np.median(values[rng.integers(0, len(values), len(values))]) for _ in range(RESAMPLES)]
    low, high = np.percentile(medians, [2.5, 97.5])
    return Interval(float(np.median(values)), float(low), float(high))


def _warm_up(contestants: Mapping[str, Contestant], feeds: Sequence[Feeds], visits: int, deadline: float) -> int:
    """Visit items in turn until all had their visits or time is up; how many items, from the first on, are warm."""
    for turn in range(visits * len(feeds)):
        if turn and time.perf_counter() > deadline:
            return min(turn, len(feeds))
        for run in contestants.values():
            run(feeds[turn % len(feeds)])
    return len(feeds)
