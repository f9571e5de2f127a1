"""Random small graphs through torch.fx and through ONNX Runtime or ONNX's reference evaluator.

    python benchmarks/fuzz.py                          ten minutes of it
    python benchmarks/fuzz.py --minutes 1 --seed 7     other graphs, for a minute

Prints every disagreement that no entry of `_fuzz_known.py` explains with the smallest graph that shows it.
"""

from __future__ import annotations

import itertools
import time

from hypothesis import strategies as st
from tersor.benchmarks._common import options, publish
from tersor.benchmarks._fuzz_broken import broken
from tersor.benchmarks._fuzz_flow import FLOW
from tersor.benchmarks._fuzz_graph import Example, examples
from tersor.benchmarks._fuzz_images import IMAGES
from tersor.benchmarks._fuzz_kinds import KINDS
from tersor.benchmarks._fuzz_layers import LAYERS
from tersor.benchmarks._fuzz_ops import ANY_SHAPE
from tersor.benchmarks._fuzz_run import Report, batch
from tersor.benchmarks._fuzz_tokens import TOKENS

#: Examples in one child.
_BATCH = 100

_EVERY = (*ANY_SHAPE, *FLOW, *LAYERS, *IMAGES, *TOKENS, *KINDS)

#: Batches take turns with these.
STRATEGIES: tuple[st.SearchStrategy[Example], ...] = (
    examples(_EVERY),
    examples((*ANY_SHAPE, *FLOW, *KINDS), nodes=3),
    examples((*LAYERS, *IMAGES, *TOKENS), nodes=2),
    broken(examples(_EVERY, nodes=4)),
)


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-shrink", action="store_true", help="show findings as they were met")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    report = Report()
    for number in itertools.count():
        if time.monotonic() >= end:
            break
        found = batch(
            STRATEGIES[number % len(STRATEGIES)], 100_000 * given.seed + number, _BATCH, shrink=not given.no_shrink
        )
        for text in found.findings:
            print(f"\n--- batch {number}: {text}", flush=True)
        for text in found.crashes:
            print(f"\n--- batch {number}, not FX: {text}", flush=True)
        report.add(found)
    rows: list[dict[str, object]] = [{"outcome": name, "count": n} for name, n in sorted(report.counts.items())]
    rows += [{"outcome": f"explained: {name}", "count": n} for name, n in report.explained.most_common()]
    rows += [{"outcome": f"two against one, {name}", "count": n} for name, n in report.settled.most_common()]
    rows += [{"outcome": f"FX alone ran {name}", "count": n} for name, n in report.alone.most_common()]
    rows += [{"outcome": "not explained", "count": len(report.findings)}]
    rows += [{"outcome": "oracle crashed", "count": len(report.crashes)}]
    publish("fuzz", "Random graphs", rows, given)
    raise SystemExit(1 if report.findings else 0)


if __name__ == "__main__":
    main()
