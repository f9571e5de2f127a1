"""What the benchmarks share: options, a table on the screen, JSON with host, versions and seed beside it."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table
from tersor.driver.host import host, versions
from tersor.examples.data import Feeds, Run
from tersor.ir.compare import Tally

SEED = 0


def options(description: str, *, seconds: float) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=None, help="where the JSON goes; build/benchmarks by default")
    parser.add_argument("--seconds", type=float, default=seconds, help="of timing, for each table")
    parser.add_argument("--threads", type=int, default=2, help="for every contestant")
    return parser


def publish(
    name: str,
    title: str,
    rows: Sequence[Mapping[str, object]],
    given: argparse.Namespace,
    note: str = "",
    details: Mapping[str, object] | None = None,
) -> None:
    """Print the rows as one table and write them as JSON; numbers are shown as they are rounded by the caller.

    `details` is written, not printed.
    """
    table = Table(title=title, caption=note or None)
    heads = list(dict.fromkeys(key for row in rows for key in row))
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*(_cell(row.get(head)) for head in heads))
    Console(width=200).print(table)
    path = given.json or Path("build/benchmarks") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {key: str(value) for key, value in vars(given).items()}
    whole = {
        "name": name,
        "rows": list(rows),
        **(details or {}),
        "settings": settings,
        "seed": SEED,
        "host": host(),
        "versions": versions(),
    }
    path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def markdown(rows: Sequence[Mapping[str, object]]) -> str:
    """A table of Markdown, a line for each row; the first one's keys are its heads."""
    heads = list(rows[0])
    table = [heads, ["---"] * len(heads), *([row[head] for head in heads] for row in rows)]
    return "".join(f"| {' | '.join(map(str, cells))} |\n" for cells in table)


def plain_session(path: Path, threads: int) -> Run:
    """ONNX Runtime as anyone starts it, but that its idle threads do not spin while others have their turn."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Feeds) -> Feeds:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


def distance(expected: Iterable[np.ndarray], found: Iterable[np.ndarray]) -> float:
    """The largest relative L2 error of an output; infinite where type, shape, or a number that is exact differs."""
    worst = 0.0
    for wanted, got in zip(expected, map(np.asarray, found), strict=True):
        tally = Tally.of(wanted, got)
        wrong = wanted.dtype != got.dtype or (tally.exact and tally.difference)
        worst = max(worst, math.inf if wrong else tally.relative_l2)
    return worst


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
