"""Does what transformers' models mean survive export? Architectures x exporters x attention, raised and counted.

    python benchmarks/raising.py                                   the whole table, and the peers' on the same files
    python benchmarks/raising.py --only '^(bert|t5)' --no-peers    the architectures whose names match, tersor alone
    python benchmarks/raising.py --exporters dynamo18,script17 --attention sdpa --folder FOLDER
    python benchmarks/raising.py --jobs 2 --write                  the whole table, and docs/architectures.md made anew

Models are seeded random small configurations (`_raising_architectures.py`), exported as users do, `torch.onnx.export`
with dynamic batch and sequence. `attention 2/2` is nodes in the raised graph against blocks that the torch module
executes; norms, GELUs and SiLUs likewise counted in torch, rotations known from the configuration. Answers are compared
with torch's, padding included, at two sizes that the exporter did not see (at the export's own where ONNX Runtime runs
the exported file at no others). Whatever is below 100 % is explained by the
misses of the passes that raise it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from tersor.benchmarks import _raising_cell, _raising_peers
from tersor.benchmarks._common import options, publish
from tersor.benchmarks._processes import isolated
from tersor.benchmarks._raising_architectures import architectures
from tersor.benchmarks._raising_cell import DEMAND, KINDS, Measured, general
from tersor.benchmarks._raising_export import ATTENTION, EXPORTERS, Cell, cells
from tersor.benchmarks._raising_page import PAGE, page
from tersor.benchmarks._raising_peers import PEERS, PeerMeasured

LIMIT = 600.0
"""Seconds that a cell may take, its export included."""
_ALIKE = 100
"""Characters in which two reasons agree that are the same."""


def main() -> None:
    parser = options(__doc__ or "", seconds=0.0)
    parser.add_argument("--only", default="", help="a regular expression that the names of architectures match")
    parser.add_argument("--exporters", default=",".join(EXPORTERS), help="all by default")
    parser.add_argument("--attention", default=",".join(ATTENTION), help="both by default")
    parser.add_argument("--folder", type=Path, default=None, help="keeps exported files; temporary by default")
    parser.add_argument("--no-peers", action="store_true", help="leave out the other optimizers")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--write", action="store_true", help=f"make docs/{PAGE.name} anew")
    given = parser.parse_args()
    chosen = list(cells(given.only, given.exporters.split(","), given.attention.split(",")))
    with _folder(given.folder) as folder:
        found = measured(chosen, folder, given.jobs)
        absent = [one.cell for one in found if one.absent]
        found = [one for one in found if not one.absent]
        files = [one.cell for one in found if one.cell.path(folder).exists()]
        peers = [] if given.no_peers else peers_measured(files, folder, given.jobs)
    details: dict[str, object] = {
        "summary": list(summary(found, peers)),
        "cells": [dataclasses.asdict(one) for one in found],
        "peers": [dataclasses.asdict(one) for one in peers],
    }
    publish("raising", "Raised / present", [_row(one) for one in found], given, _note(absent), details)
    if given.write:
        PAGE.write_text(page(found, peers, summary(found, peers), explained(found), right), encoding="utf-8")
    console = Console(width=200, highlight=False, markup=False)
    for line in explained(found):
        console.print(line)
    given.json = None
    if peers:
        publish("raising_peers", "The same files by others", list(_peer_rows(peers, found)), given)
    publish("raising_summary", "Share raised", list(summary(found, peers)), given)


def measured(chosen: Sequence[Cell], folder: Path, jobs: int = 1) -> list[Measured]:
    """Every cell, each in a process of its own; a crash is a row that says so."""
    tasks = [(cell, folder) for cell in chosen]
    made: dict[Cell, Measured] = {}
    for answer in isolated(_raising_cell.measure, tasks, jobs=jobs, limit=LIMIT):
        cell = answer.task[0]
        _say(f"{len(made) + 1} of {len(tasks)}: {cell}")
        made[cell] = answer.result or Measured(cell, error=answer.error)
    return [made[cell] for cell in chosen]


def peers_measured(chosen: Sequence[Cell], folder: Path, jobs: int = 1) -> list[PeerMeasured]:
    """Every peer on the files of the cells, likewise."""
    tasks = [(cell, peer, folder) for cell in chosen for peer in PEERS]
    made: dict[tuple[Cell, str], PeerMeasured] = {}
    for answer in isolated(_raising_peers.measure, tasks, jobs=jobs, limit=LIMIT):
        cell, peer, _ = answer.task
        _say(f"{len(made) + 1} of {len(tasks)}: {cell} by {peer}")
        made[cell, peer] = answer.result or PeerMeasured(cell, peer, error=answer.error)
    return [made[cell, peer] for cell, peer, _ in tasks]


def _say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def summary(found: Sequence[Measured], peers: Sequence[PeerMeasured]) -> Iterator[dict[str, object]]:
    """The share of each kind that is raised, of the standard attention apart, by contestant; and how often it failed.

    The share is over all exported files: a file that a contestant fails on counts as nothing raised, and so does one
    that answers otherwise afterwards.
    """
    exported = {one.cell: one for one in found if one.truth and not one.error.startswith("export")}
    contestants: dict[str, Sequence[Measured | PeerMeasured]] = {"tersor": list(exported.values())}
    for peer in PEERS if peers else ():
        contestants[peer] = [one for one in peers if one.peer == peer and one.cell in exported]
    for name, ones in contestants.items():
        good = {one.cell: one for one in ones if right(exported[one.cell], one)}

        def share(
            kind: str,
            good: dict[Cell, Measured | PeerMeasured] = good,
            only: Callable[[str], bool] = lambda name: True,
        ) -> str:
            truths = {cell: one.truth[kind] for cell, one in exported.items() if only(cell.architecture)}
            raised = sum(min(good[cell].found[kind], truth) for cell, truth in truths.items() if cell in good)
            total = sum(truths.values())
            return f"{raised}/{total} ({raised / total:.1%})" if total else ""

        yield {
            "by": name,
            "standard attention": share("attention", only=lambda name: architectures()[name].standard),
            "other attention": share("attention", only=lambda name: not architectures()[name].standard),
            **{kind: share(kind) for kind in KINDS if kind != "attention"},
            "files": len(exported),
            "failed": sum(not one.found for one in ones),
            "other answers": sum(bool(one.found) and one.cell not in good for one in ones),
            "nodes": sum(one.after for one in ones),
        }


def explained(found: Sequence[Measured]) -> Iterator[str]:
    """One line for each distinct reason to be below 100 %, with the architectures and the cells that it holds for."""
    reasons: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    first: dict[tuple[str, str], str] = {}
    for one in found:
        told = [(kind, miss) for kind, misses in one.misses.items() for miss in misses]
        if one.error:
            told.append(("error", one.error))
        told += [("remark", remark) for remark in one.remarks]
        if one.found and not one.loss <= DEMAND:
            told.append(("answers", f"{one.loss:.2g} from torch; the exported file {one.loss_export:.2g}"))
        for kind, text in told:
            key = (kind, general(text)[:_ALIKE])
            first.setdefault(key, text)
            reasons[key].append(one)
    for (kind, text), ones in reasons.items():
        names = ", ".join(dict.fromkeys(one.cell.architecture for one in ones))
        where = ", ".join(dict.fromkeys(f"{one.cell.exporter} {one.cell.attention}" for one in ones))
        yield f"{names}; {kind} ({where}): {first[kind, text]}"


def right(exported: Measured, made: Measured | PeerMeasured) -> bool:
    """Whether a contestant's file answers as torch does, or as the export where that changed the model already."""
    changed = 1.01 * exported.loss_export if math.isfinite(exported.loss_export) else 0.0
    return bool(made.found) and made.loss <= max(DEMAND, changed)


def _row(one: Measured) -> dict[str, object]:
    row: dict[str, object] = {
        "architecture": one.cell.architecture,
        "exporter": one.cell.exporter,
        "kind": one.cell.attention,
    }
    for kind in KINDS:
        present = one.truth.get(kind, 0)
        row[kind] = f"{one.found.get(kind, 0)}/{present}" if present or one.found.get(kind) else ""
    if one.error:
        return {**row, "remark": one.error[:60]}
    sizes = "sizes of the export" if one.seen else ""
    remark = "; ".join(filter(None, (architectures()[one.cell.architecture].note, sizes, *one.remarks)))[:60]
    times = {"seconds": round(one.seconds, 2)}
    return {**row, "nodes": f"{one.before} > {one.after}", "error": one.loss, **times, "remark": remark}


def _peer_rows(peers: Sequence[PeerMeasured], found: Sequence[Measured]) -> Iterator[dict[str, object]]:
    truths = {one.cell: one.truth for one in found}
    for one in peers:
        present = truths[one.cell]
        yield {
            "architecture": one.cell.architecture,
            "exporter": one.cell.exporter,
            "kind": one.cell.attention,
            "by": one.peer,
            **{kind: f"{one.found.get(kind, 0)}/{present[kind]}" if present.get(kind) else "" for kind in KINDS},
            "nodes": one.after or None,
            "error": one.loss if one.found else None,
            "setting": one.setting,
            "remark": "; ".join(filter(None, (one.error, *one.remarks)))[:50],
        }


def _note(absent: Sequence[Cell]) -> str:
    names = ", ".join(dict.fromkeys(f"{cell.architecture} {cell.attention}" for cell in absent))
    note = f"error: relative L2 to torch, unseen sizes, padded; at most {DEMAND:g}. nodes: without constants"
    return f"{note}. transformers has no {names}" if names else note


@contextlib.contextmanager
def _folder(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        chosen.mkdir(parents=True, exist_ok=True)
        yield chosen
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


if __name__ == "__main__":
    main()
