"""Lottery tickets in a Transformer that sorts questions (TREC) and in an LSTM language model (WikiText-2's text).

Six rounds that prune 36 % of what is left each: 36, 59, 74, 83, 89 and 93 % pruned. Three seeds; beside each ticket as
many weights of each layer at random, and the ticket's mask on other initial weights. `metric` is accuracy x 100 on
TREC's test questions, and perplexity on the half of the text that nobody trained on. A run that is stopped goes on
where it was (`--folder`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import tersor
import torch
from tersor.benchmarks import _lottery_models as models
from tersor.benchmarks._common import options, publish

Search = Callable[[Path, int, tuple[int, ...]], tersor.Lottery]

RATE = 0.36


def _transformer(rewind: int | str) -> Search:
    def search(folder: Path, rounds: int, seeds: tuple[int, ...]) -> tersor.Lottery:
        return tersor.lottery(
            models.train_classifier, models.Classifier, rounds,
            rewind=rewind, rate=RATE, seeds=seeds, folder=folder,
        )  # fmt: skip

    return search


def _lstm(folder: Path, rounds: int, seeds: tuple[int, ...]) -> tersor.Lottery:
    return tersor.lottery(
        models.train_words, models.WordModel, rounds, rewind=31, rate=RATE, seeds=seeds, better="lower", folder=folder
    )


#: Rewound to a tenth of the training, or to the initial weights.
SEARCHES: dict[str, Search] = {
    "transformer, rewound to step 34": _transformer(34),
    "lstm, rewound to step 31": _lstm,
    "transformer, rewound to the start": _transformer("init"),
}


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--folder", type=Path, default=Path("build/benchmarks/lottery"), help="of what is done already")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--searches", nargs="*", default=list(SEARCHES), choices=list(SEARCHES))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows: list[dict[str, object]] = []
    curves: dict[str, object] = {}
    for name in given.searches:
        start = time.perf_counter()
        found = SEARCHES[name](
            given.folder / name.replace(", ", "-").replace(" ", "-"), given.rounds, tuple(range(given.seeds))
        )
        print(f"{name}: {time.perf_counter() - start:.0f} s\n{found}\n", flush=True)
        rows += [{"search": name, **row} for row in found.table()]
        curves[name] = [{"pruned": point.sparsity, "metrics": point.metrics} for point in found.curve]
        publish("lottery", "Lottery tickets", rows, given, NOTE, {"curves": curves})


NOTE = "mean ± half of the 95 % interval over seeds; gain: by how much the ticket is better, paired by seed"


if __name__ == "__main__":
    main()
