"""Rows of tables about MiniLM in fewer bits: bytes, seconds, Spearman on STS13, fidelity, speed."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from tersor.benchmarks._common import options
from tersor.benchmarks._quantized import Quantized
from tersor.benchmarks._sts import difference, spearman, sts13
from tersor.driver.timing import Timings, paired
from tersor.examples import minilm
from tersor.examples.data import Feeds

NOTE = "change: of Spearman, 95 % interval; cosine: mean, of sentences to fp32's; x: times as fast as"


def arguments(description: str, names: Iterable[str], **choices: Sequence[str]) -> argparse.Namespace:
    """What such a program is told: which rows, how many batches, whether to time; one of each of the choices."""
    parser = parser_of(description, names)
    for name, values in choices.items():
        parser.add_argument(f"--{name}", choices=values, default=values[0])
    return parser.parse_args()


def parser_of(description: str, names: Iterable[str]) -> argparse.ArgumentParser:
    """A parser for which rows, how many batches, whether to time."""
    parser = options(description, seconds=60.0)
    parser.add_argument("--rows", nargs="*", default=list(names), choices=list(names))
    parser.add_argument("--batches", type=int, default=24, help="batches of 32; four times as many of one")
    parser.add_argument("--quality", action="store_true", help="leave the timing out")
    return parser


def sts_rows(
    contestants: Mapping[str, Quantized],
    beside: Mapping[str, str],
    given: argparse.Namespace,
    *,
    peers: Collection[str] = (),
) -> list[dict[str, object]]:
    """One row for each contestant, the first being the original.

    beside: contestants that the others are timed against, by what their columns are called. All are timed in turns on
    the same batches of STS13, 32 sentences sorted by length and one by one. peers: contestants of which the fastest at
    each size is one more that all are timed against, and whose sentences a second are told with everyone's.
    """
    pairs = sts13()
    texts, first = pairs.texts, next(iter(contestants))
    scores = {name: spearman(each.run, pairs) for name, each in contestants.items()}
    embedded = {name: minilm.encode(each.run, texts[::4]) for name, each in contestants.items()}
    large = [*minilm.batches(texts, 32)]
    large = large[:: max(1, len(large) // given.batches)]
    small = [*minilm.batches(texts[:: max(1, len(texts) // (4 * given.batches))], 1)]
    items = {} if given.quality else {32: large, 1: small}
    runs = {name: each.run for name, each in contestants.items()}
    timed = {size: paired(runs, feeds, rounds=50, budget_seconds=given.seconds) for size, feeds in items.items()}
    rates = {size: _rates(timed[size], feeds) for size, feeds in items.items() if peers}
    fastest = {size: max(peers, key=rates[size].__getitem__) for size in rates}
    made: list[dict[str, object]] = []
    for name, each in contestants.items():
        low, high = difference(scores[first][1], scores[name][1], pairs.gold)
        row: dict[str, object] = {
            "": name,
            "MB": round(each.bytes / 1e6, 2),
            "made in s": round(each.seconds, 1),
            "Spearman": round(scores[name][0], 2),
            "change": f"[{low:+.2f}, {high:+.2f}]",
            "cosine": round(float(np.sum(embedded[first] * embedded[name], axis=1).mean()), 4),
        }
        for size, timings in timed.items():
            if size in rates:
                row[f"a second b{size}"] = round(rates[size][name])
            others = {**beside, **({"peer": fastest[size]} if size in fastest else {})}
            row |= {f"x {called} b{size}": str(timings.ratio(other, name)) for called, other in others.items()}
        made.append(row)
    return made


def _rates(timings: Timings, items: Sequence[Feeds]) -> dict[str, float]:
    """Sentences a second of each contestant."""
    sizes = [len(feeds["input_ids"]) for feeds in items]
    return {name: timings.throughput(name, sizes) for name in timings.seconds}
