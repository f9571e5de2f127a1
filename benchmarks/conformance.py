"""ONNX's own backend tests through torch.fx, each in a process of its own, and ONNX Runtime beside it.

    python benchmarks/conformance.py                           every case; prints the table and the failures
    python benchmarks/conformance.py --only 'resize|upsample'  the cases whose names match
    python benchmarks/conformance.py --write                   every case, and docs/conformance.md made anew

Outputs are held to the tolerances the tests come with. A case that kills its process or takes too long has failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tersor.benchmarks._common import options, publish
from tersor.benchmarks._conformance_page import PAGE, page
from tersor.benchmarks._isolation import ENGINES, Outcome, run
from tersor.benchmarks._onnx_cases import KINDS


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--kind", choices=KINDS, action="append", help="of test; all by default")
    parser.add_argument("--only", type=re.compile, default=None, help="a regular expression for the cases' names")
    parser.add_argument("--engine", choices=list(ENGINES), action="append", help="fx by default; all with --write")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--write", action="store_true", help=f"make {PAGE.name} anew")
    given = parser.parse_args()
    engines = list(ENGINES) if given.write else given.engine or ["fx"]
    kinds = KINDS if given.write else given.kind or KINDS
    outcomes = {engine: run(engine, kinds, only=given.only, jobs=given.jobs) for engine in engines}
    for outcome in outcomes.get("fx", ()):
        if not outcome.passed:
            print(f"{outcome.kind} {outcome.name}: {outcome.error}")
    rows = list(summary(outcomes, kinds))
    publish("conformance", "ONNX's backend tests", rows, given)
    if given.write:
        PAGE.write_text(page(rows, _failures(outcomes["fx"])), encoding="utf-8")


def summary(outcomes: dict[str, list[Outcome]], kinds: Sequence[str]) -> Iterator[dict[str, object]]:
    """One row a kind: the cases there are, and how many each engine passes."""
    for kind in kinds:
        row: dict[str, object] = {"kind": kind}
        for engine, found in outcomes.items():
            of_kind = [outcome for outcome in found if outcome.kind == kind]
            row["cases"] = len(of_kind)
            row[engine] = sum(outcome.passed for outcome in of_kind)
        yield row


def _failures(outcomes: Sequence[Outcome]) -> list[tuple[str, str, str]]:
    return [(outcome.kind, outcome.name, outcome.error) for outcome in outcomes if not outcome.passed]


if __name__ == "__main__":
    main()
