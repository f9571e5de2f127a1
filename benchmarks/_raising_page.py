"""docs/architectures.md: what is raised of transformers' models, by architecture, beside other optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import transformers
from tersor.benchmarks._common import markdown
from tersor.benchmarks._raising_architectures import architectures
from tersor.benchmarks._raising_cell import DEMAND, KINDS, Measured
from tersor.benchmarks._raising_export import Cell
from tersor.benchmarks._raising_peers import PEERS, PeerMeasured

PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"

_HEAD = """# Architectures: what is raised of transformers' models

Made by `python benchmarks/raising.py --write`. Seeded random small configurations (transformers {version}), exported
by torch's dynamo exporter at opset 18 and 23 and by its TorchScript exporter at opset 14 and 17, with eager and with
sdpa attention: up to eight files an architecture. `attention 16/16` is blocks raised over blocks present in them;
a file that a contestant fails on, or that answers otherwise afterwards, counts as nothing raised. Norms, GELUs, SiLUs
and rotations are counted alike. Nodes are the range over the files. The error is the largest relative L2 distance to
the torch module, with padding, at sizes that the exporter did not see (`seen`: files that ONNX Runtime runs at the
export's own sizes only, which are compared there); at most {demand:g} is asked.

"""


def page(
    found: Sequence[Measured],
    peers: Sequence[PeerMeasured],
    totals: Iterable[Mapping[str, object]],
    reasons: Iterable[str],
    right: Callable[[Measured, Measured | PeerMeasured], bool],
) -> str:
    """The page's text; `right` says whether what a contestant made of a cell answers as the cell's file does."""
    text = _HEAD.format(version=transformers.__version__, demand=DEMAND)
    text += markdown(list(totals)) + "\n## By architecture\n\n"
    text += markdown(list(_rows(found, peers, right)))
    return text + "\n## Below 100 %, failed, or worth a remark\n\n" + "".join(f"- {reason}\n" for reason in reasons)


def _rows(
    found: Sequence[Measured],
    peers: Sequence[PeerMeasured],
    right: Callable[[Measured, Measured | PeerMeasured], bool],
) -> Iterator[dict[str, object]]:
    theirs: Mapping[tuple[Cell, str], PeerMeasured] = {(one.cell, one.peer): one for one in peers}
    for name, group in groupby(found, key=lambda one: one.cell.architecture):
        files = [one for one in group if one.truth and not one.error.startswith("export")]
        row: dict[str, object] = {
            "architecture": name,
            "files": len(files),
            "seen": sum(one.seen for one in files) or "",
        }
        for kind in KINDS:
            row[kind] = _share(kind, files, [one if right(one, one) else None for one in files])
        row["nodes"] = f"{_range(one.before for one in files)} → {_range(one.after for one in files)}"
        row["error"] = f"{max((one.loss for one in files), default=0.0):.1e}"
        for peer in PEERS if peers else ():
            made = [theirs.get((one.cell, peer)) for one in files]
            good = [other if other and right(one, other) else None for one, other in zip(files, made, strict=True)]
            row[f"attention, {peer}"] = _share("attention", files, good)
        row["note"] = architectures()[name].note
        yield row


def _share(kind: str, files: Sequence[Measured], made: Sequence[Measured | PeerMeasured | None]) -> str:
    total = sum(one.truth[kind] for one in files)
    pairs = zip(files, made, strict=True)
    raised = sum(min(other.found.get(kind, 0), one.truth[kind]) for one, other in pairs if other is not None)
    return f"{raised}/{total}" if total else ""


def _range(numbers: Iterable[int]) -> str:
    least, *more = sorted(set(numbers)) or [0]
    return f"{least}..{more[-1]}" if more else f"{least}"
