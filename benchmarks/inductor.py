"""MiniLM on STS13 text as torch runs it: eager, torch.compile, the FX form, packages compiled ahead of time.

Rows are timed in turns on the same batches (32 sentences sorted by length; one by one); speed is the median of paired
ratios with a 95 % bootstrap interval. Every contestant has run every batch before, so that torch.compile is done.
Quality is read on all scored pairs; error is the largest relative L2 error of a batch's hidden states.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import tersor
import torch
from tersor.benchmarks._common import distance, options, publish
from tersor.benchmarks._sts import spearman, sts13
from tersor.driver.timing import paired
from tersor.examples import minilm
from tersor.examples.data import Feeds, Run

#: Packages by name: options of the target beside threads and device.
PACKAGES: Mapping[str, Sequence[str]] = {
    "package": (),
    "package for batch 32": ("sizes=[batch=32, sequence=24]",),
    "package, not frozen": ("freeze=false",),
    "package, not tuned": ("max_autotune=false",),
}

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
NOTE = "x eager: times as fast as the original module; x compiled: as torch.compile(module, dynamic=True)"


@dataclass(frozen=True)
class Contestant:
    """seconds: of compiling, 0 where there was nothing to do or it happens at the first calls."""

    run: Run
    seconds: float = 0.0


def main() -> None:
    parser = options(__doc__ or "", seconds=60.0)
    parser.add_argument("--batches", type=int, default=24, help="batches of 32; four times as many of one")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    shown = [name for name, options_ in PACKAGES.items() if not any("sizes" in option for option in options_)]
    parser.add_argument("--packages", nargs="*", default=shown, choices=list(PACKAGES))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="tersor-bench-") as folder:
        contestants = {**_peers(given.device), **_ours(Path(folder), given)}
        rows = _rows(contestants, given.batches, given.seconds)
        publish("inductor", f"all-MiniLM-L6-v2, STS13, torch on {given.device}", rows, given, NOTE)


def _peers(device: str) -> Mapping[str, Contestant]:
    eager, plain, frozen = (minilm.source().module.to(device) for _ in range(3))
    return {
        "torch eager": Contestant(_run(eager, device)),
        "torch.compile": Contestant(_run(torch.compile(plain, dynamic=True), device)),
        "torch.compile, frozen": Contestant(
            _run(torch.compile(frozen, dynamic=True, options={"freezing": True}), device)
        ),
    }


def _run(module: Callable[..., Mapping[str, torch.Tensor]], device: str) -> Run:
    @torch.inference_mode()
    def run(feeds: Feeds) -> Feeds:
        found = module(*(torch.from_numpy(feeds[name]).to(device) for name in INPUTS))
        return {name: tensor.cpu().numpy() for name, tensor in found.items()}

    return run


def _ours(folder: Path, given: argparse.Namespace) -> Mapping[str, Contestant]:
    shared = (f"threads={given.threads}", f"device={given.device}")
    targets = {"FX eager": f"torch{{{', '.join(shared)}}}"}
    targets |= {name: f"inductor{{{', '.join((*shared, *PACKAGES[name]))}}}" for name in given.packages}
    source = minilm.source()
    made: dict[str, Contestant] = {}
    for place, (name, target) in enumerate(targets.items()):
        start = time.perf_counter()
        artifact = tersor.compile(
            source.module, args=source.args, dynamic=source.dynamic, target=target, output=folder / str(place)
        )
        made[name] = Contestant(artifact.session.run_unchecked, time.perf_counter() - start)
    return made


def _rows(contestants: Mapping[str, Contestant], batches: int, seconds: float) -> list[dict[str, object]]:
    pairs = sts13()
    runs = {name: each.run for name, each in contestants.items()}
    large = [*minilm.batches(pairs.texts, 32)]
    large = large[:: max(1, len(large) // batches)]
    small = [*minilm.batches(pairs.texts[:: max(1, len(pairs.texts) // (4 * batches))], 1)]
    errors = {
        name: max(_error(runs["torch eager"], run, feeds) for feeds in large + small) for name, run in runs.items()
    }
    timed = {size: paired(runs, feeds, rounds=50, budget_seconds=seconds) for size, feeds in ((32, large), (1, small))}
    sizes = {32: [len(feeds["input_ids"]) for feeds in large], 1: [1] * len(small)}
    rows: list[dict[str, object]] = []
    for name, each in contestants.items():
        row: dict[str, object] = {"": name, "s to compile": round(each.seconds, 1) or None, "error": errors[name]}
        row["Spearman"] = round(spearman(each.run, pairs)[0], 2)
        for size, timings in timed.items():
            row[f"sent/s b{size}"] = round(timings.throughput(name, sizes[size]))
            row[f"x eager b{size}"] = str(timings.ratio("torch eager", name))
            row[f"x compiled b{size}"] = str(timings.ratio("torch.compile", name))
        rows.append(row)
    return rows


def _error(reference: Run, run: Run, feeds: Feeds) -> float:
    return distance(reference(feeds).values(), run(feeds).values())


if __name__ == "__main__":
    main()
