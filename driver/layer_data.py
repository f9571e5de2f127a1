"""What `manifest.json` says of layers: the error of each rewritten site's own output, or the whole ranking."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir

from ..ir.errors import TersorError
from ..ir.feeds import Feeds
from ..passes.base import Context, Pass
from .layers import Layers, Subject, rank, spread
from .manifest import LayerData, LayersData
from .rewritten import Part, rewritten
from .sweep import local_errors

#: Batches on which the errors of single outputs are measured at every compile.
BATCHES = 2


def measured(
    before: onnx_ir.Model,
    after: onnx_ir.Model,
    passes: Sequence[Pass],
    context: Context,
    batches: Sequence[Feeds],
    note: str,
    *,
    full: bool,
) -> LayersData:
    """What a compile records: with `full` the whole ranking, else what two runs of the model tell.

    Where the interpreter cannot run the model, `full` raises what it says; without it there is nothing to record, and
    a compile does not end for that.
    """
    if full:
        return _ranked(rank(Subject(before, after, passes, context, spread(batches), note), advise=False))
    try:
        return _local(before, after, spread(batches, BATCHES), note)
    except TersorError:
        return {"feeds": note, "batches": 0, "whole": None, "rows": []}


def _local(before: onnx_ir.Model, after: onnx_ir.Model, batches: Sequence[Feeds], note: str) -> LayersData:
    found = rewritten(before, after)
    errors = local_errors(found, batches)
    rows = [_row(part, errors[part].loss.relative_l2) for part in found.parts]
    return {"feeds": note, "batches": len(batches), "whole": None, "rows": rows}


def _row(part: Part, local: float) -> LayerData:
    return {
        "name": part.name,
        "module": part.module,
        "kind": part.sites[0].kind.value,
        "block": part.sites[0].block,
        "bytes": list(part.bytes),
        "local": _finite(local),
        "in_place": None,
        "alone": None,
        "share": None,
        "prefix": None,
        "added": None,
    }


def _ranked(found: Layers) -> LayersData:
    rows: list[LayerData] = [
        {
            "name": row.name,
            "module": row.module,
            "kind": row.kind,
            "block": row.block,
            "bytes": list(row.bytes),
            "local": _finite(row.local),
            "in_place": _finite(row.in_place),
            "alone": _finite(row.alone.relative_l2),
            "share": _finite(row.share),
            "prefix": _finite(row.prefix.relative_l2),
            "added": _finite(row.added),
        }
        for row in sorted(found.rows, key=lambda row: row.index)
    ]
    whole = _finite(found.whole.relative_l2)
    return {"feeds": found.feeds, "batches": found.batches, "whole": whole, "rows": rows}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
