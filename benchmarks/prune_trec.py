"""MiniLM trained for TREC, then pruned without any training: accuracy, fidelity, FLOPs, bytes, seconds, speed.

    python benchmarks/prune_trec.py --quality                 no timing
    python benchmarks/prune_trec.py --rows budget             one row beside the original

The recipe of Kwon et al., A Fast Post-Training Pruning Framework for Transformers, 2022: a trained classifier and 2,048
of its training questions without their labels. All rows but the first have half of the original's FLOPs in layers with
weights; those called Fisher choose by it, as Kwon et al. do, of the divergence of the classes' probabilities. The
classifier is trained on TREC's training questions where that is not done yet. Accuracy is on the 500 test questions,
and so is what it loses, as a share, with a 95 % bootstrap interval over questions; `same`: of the questions that get
the original's answer; `kl`: the mean divergence of the probabilities from the original's. All rows are timed in turns
on the test questions, 32 sorted by length and one by one; ratios are medians of pairs with a 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tersor.benchmarks._common import options, publish
from tersor.benchmarks._pruned import flops, prune, raised
from tersor.benchmarks._quantized import Quantized, quantized
from tersor.benchmarks._questions import questions
from tersor.benchmarks._trec import Training, logits, source
from tersor.driver.timing import paired
from tersor.examples import minilm
from tersor.examples.data import Feeds
from tersor.passes.drop import kl


def _fisher(options: str) -> str:
    return ", ".join(f"prune-{units}{{ratio=0.5, score=fisher, {options}}}" for units in ("heads", "neurons"))


ROWS = {
    "budget": 'prune-budget{budget="0.5 flops"}',
    "budget, kl": 'prune-budget{budget="0.5 flops", drop=kl}',
    "heads, FFN -50 %": "prune-heads{ratio=0.5}, prune-neurons{ratio=0.5}",
    "Fisher": _fisher("drop=kl"),
    "Fisher, cosine": _fisher("drop=cosine"),
    "Fisher, global": _fisher("drop=kl, scope=global"),
    "Fisher, global, no repair": _fisher("drop=kl, scope=global, repair=false"),
    "FFN -75 %": "prune-neurons{ratio=0.75}",
    "layers -1, FFN -60 %": "drop-layers{count=1}, prune-neurons{ratio=0.6}",
    "layers -3": "drop-layers{count=3}",
}
ORIGINAL = "original"
NOTE = "lost: of the accuracy, as a share, in %; x: times as fast as the original on the same runtime"
BATCH = 32


@dataclass(frozen=True)
class Made:
    """A pruned model on each target, and what it took."""

    targets: Mapping[str, Quantized]
    seconds: float
    share: float
    answers: np.ndarray


def main() -> None:
    parser = options(__doc__ or "", seconds=60.0)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--passes", nargs="*", default=[], help="of more rows, each row's in one argument")
    parser.add_argument("--targets", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--sentences", type=int, default=2048, help="of the training questions, to choose and fit on")
    parser.add_argument("--training", type=int, default=0, help="seed of the classifier's training")
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks/trec"), help="of trained classifiers")
    parser.add_argument("--batches", type=int, default=16, help="batches of 32; four times as many of one")
    parser.add_argument("--quality", action="store_true", help="leave the timing out")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with TemporaryDirectory(prefix="tersor-bench-") as name:
        rows = _rows(_made(Path(name), given), given)
    publish("prune_trec", "MiniLM trained for TREC, at half of the FLOPs", rows, given, NOTE)


def _made(folder: Path, given: argparse.Namespace) -> Mapping[str, Made]:
    model = raised(source(Training(seed=given.training), given.folder))
    data = list(minilm.batches(_spread(questions("train_5500").by_length(), given.sentences), BATCH))
    whole, test = flops(model), questions("TREC_10").texts
    more = {f"given {number}": passes for number, passes in enumerate(given.passes, 1)}
    wanted = {ORIGINAL: "", **{row: ROWS[row] for row in given.rows}, **more}
    made: dict[str, Made] = {}
    for number, (called, passes) in enumerate(wanted.items()):
        pruned, seconds = prune(model, passes, data, backend=given.targets[0], threads=given.threads)
        targets = {
            target: quantized(pruned, "", folder / f"{number}-{target}", threads=given.threads, backend=target)
            for target in given.targets
        }
        answers = logits(next(iter(targets.values())).run, test)
        made[called] = Made(targets, seconds, flops(pruned) / whole, answers)
        print(f"{called}: {seconds:.0f} s, {made[called].share:.3f} of the FLOPs", flush=True)
    return made


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """So many of them, evenly from all."""
    return [texts[row] for row in np.linspace(0, len(texts) - 1, min(count, len(texts))).round().astype(int)]


def _rows(made: Mapping[str, Made], given: argparse.Namespace) -> list[dict[str, object]]:
    test = questions("TREC_10")
    timed = _timed(made, given) if not given.quality else {}
    first = made[ORIGINAL].answers
    before = first.argmax(1) == test.kinds
    rows: list[dict[str, object]] = []
    for name, each in made.items():
        after = each.answers.argmax(1) == test.kinds
        low, high = _interval(before, after)
        row: dict[str, object] = {
            "": name,
            "FLOPs": round(each.share, 3),
            "MB": round(next(iter(each.targets.values())).bytes / 1e6, 2),
            "pruned in s": round(each.seconds, 1),
            "accuracy": round(100 * float(after.mean()), 1),
            "lost": f"{_lost(before, after):+.2f} [{low:+.2f}, {high:+.2f}]",
            "same": round(100 * float((each.answers.argmax(1) == first.argmax(1)).mean()), 1),
            "kl": round(float(kl(first.astype(np.float64), each.answers.astype(np.float64)).mean()), 4),
        }
        rows.append(row | {head: ratios[name] for head, ratios in timed.items()})
    return rows


def _lost(before: np.ndarray, after: np.ndarray) -> float:
    """Of the accuracy, as a share, in %."""
    return 100 * (1 - float(after.mean() / before.mean()))


def _interval(before: np.ndarray, after: np.ndarray, *, draws: int = 2000) -> tuple[float, float]:
    """95 % of the loss, by bootstrap over questions."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(before), (draws, len(before)))
    low, high = np.percentile([_lost(before[rows], after[rows]) for rows in chosen], [2.5, 97.5])
    return float(low), float(high)


def _timed(made: Mapping[str, Made], given: argparse.Namespace) -> Mapping[str, Mapping[str, str]]:
    """Times as fast as the original: by the head of a column, then by contestant."""
    texts = questions("TREC_10").by_length()
    large = list(minilm.batches(texts, BATCH))
    feeds: dict[int, list[Feeds]] = {
        BATCH: large[:: max(1, len(large) // given.batches)],
        1: list(minilm.batches(_spread(texts, 4 * given.batches), 1)),
    }
    found: dict[str, Mapping[str, str]] = {}
    for target in given.targets:
        runs = {name: each.targets[target].run for name, each in made.items()}
        for size, items in feeds.items():
            timings = paired(runs, items, rounds=50, budget_seconds=given.seconds)
            found[f"x {target} b{size}"] = {name: str(timings.ratio(ORIGINAL, name)) for name in made}
    return found


if __name__ == "__main__":
    main()
