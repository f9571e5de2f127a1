"""Random spellings and corruptions of what the raising passes look for, before and after raising.

    python benchmarks/raising_fuzz.py                          ten minutes of it
    python benchmarks/raising_fuzz.py --minutes 1 --seed 7     other graphs, for a minute
    python benchmarks/raising_fuzz.py --corrupt build/models   these .onnx files corrupted, as well as the corpus

Each graph is raised by every pass alone and by all in a row, and run on several kinds of feeds before and after. Prints
each disagreement, and each exception of a pass, with the graph that shows it.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from tersor.backends.onnxruntime.rules.lift_mask_floor import LiftMaskFloor
from tersor.benchmarks._common import options, publish
from tersor.benchmarks._raising_fuzz_attention import attention
from tersor.benchmarks._raising_fuzz_layers import activation, dense, norm
from tersor.benchmarks._raising_fuzz_mutate import mutated
from tersor.benchmarks._raising_fuzz_oracle import judged, understood
from tersor.benchmarks._raising_fuzz_tokens import rotary, tail
from tersor.ir.errors import TersorError
from tersor.passes.base import Pass
from tersor.passes.fuse.fold_bias import FoldBias
from tersor.passes.fuse.fold_scale import FoldScale
from tersor.passes.fuse.merge_matmuls import MergeMatMuls
from tersor.passes.presets import RAISING
from tersor.tests.passes.corpus import CORPUS

PASSES: tuple[Pass, ...] = (*RAISING.flat(), FoldScale(), FoldBias(), MergeMatMuls(), LiftMaskFloor())

Rng = np.random.Generator
SPELLED: tuple[Callable[[Rng], ir.Model], ...] = (attention, attention, norm, activation, rotary, tail, dense)
#: Nodes of a graph that is corrupted, at most.
_LARGE = 150


def corrupted(rng: Rng, files: Sequence[Path]) -> ir.Model:
    """A graph of the tests' corpus, or one of the files, with up to three small changes."""
    at = int(rng.integers(len(CORPUS) + len(files)))
    model = list(CORPUS.values())[at]() if at < len(CORPUS) else ir.load(files[at - len(CORPUS)])
    mutated(model, rng, int(rng.integers(4)))
    # as a file would say it: nothing of what was known stays
    return ir.from_proto(ir.to_proto(model))


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--corrupt", type=Path, default=None, help="a folder of .onnx files")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    files = sorted(given.corrupt.glob("*.onnx")) if given.corrupt else []
    counts: Counter[str] = Counter()
    end, number = time.monotonic() + 60 * given.minutes, 1_000_000 * given.seed
    while time.monotonic() < end:
        number += 1
        rng = np.random.default_rng(number)
        spelled = number % 2 == 0
        try:
            model = SPELLED[number // 2 % len(SPELLED)](rng) if spelled else corrupted(rng, files)
            if sum(1 for _ in model.graph.all_nodes()) > _LARGE:
                continue
            fed = understood(model, rng)
        except TersorError:
            counts["graphs that are none"] += 1
            continue
        except Exception as error:
            # what a corruption made is refused by whoever reads it first
            counts[f"{type(error).__name__} in the reading of a corrupted graph"] += 1
            continue
        if not fed:
            counts["graphs that run on nothing"] += 1
            continue
        wrong, fired = judged(model, PASSES, fed, runtime=spelled and number % 20 == 0)
        counts["graphs"] += 1
        counts["raised"] += fired
        counts["wrong"] += len(wrong)
        for found in wrong:
            print(f"\n--- graph {number}: {found}", flush=True)
    rows: list[dict[str, object]] = [{"outcome": name, "count": n} for name, n in sorted(counts.items())]
    publish("raising_fuzz", "Random graphs, raised", rows, given)
    raise SystemExit(1 if counts["wrong"] else 0)


if __name__ == "__main__":
    main()
