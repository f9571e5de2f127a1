"""Read a lookup that always finds one row as that row.

    before   ids = Expand(GatherElements(zeros [1, 512], positions), [batch, sequence])     types that nobody passed
             Add(Gather(words, input_ids), Gather(types, ids))      types: [2, 384]
    after    Add(Gather(words, input_ids), row)                     row: [384]

Exact: that all indices are one number is read from what computes them (`uniform`). Indices into those indices that are
out of range stop the first and not the second; what a model gives where it runs is the same. (The positions of the
example look up the table of positions too, which stops as it did.) The readers broadcast the row: elementwise ops,
another operand of which is known to have the axes that the row has not. Left alone: outputs, other readers, tables that
are computed, rows that are not in the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.content import dimensions
from ....ir.mapped import released
from ...base import Match, Miss, Rewrite
from ...broadcast import narrowed, restate_shapes
from ...edit import Tape, replace
from .intervals import uniform
from .tables import rows_of, stored_table, table_of


@dataclass(frozen=True, kw_only=True)
class Found(Match):
    """The row of a table that is always looked up, and the results that lose axes with it."""

    table: ir.Value
    row: int
    narrower: tuple[ir.Value, ...]


@dataclass(frozen=True, kw_only=True)
class RaiseConstantLookup(Rewrite):
    """Gather(table, always one index) -> its row"""

    name: ClassVar[str] = "raise-constant-lookup"
    anchors: ClassVar[tuple[str, ...]] = ("Gather",)

    def match(self, node: ir.Node) -> Match | Miss:
        result, table = node.outputs[0], table_of(node)
        if table is None:
            need = "a lookup along the first axis of a constant table of floats"
            return Miss("table", result.name or "", need, far=True)
        index = uniform(node.inputs[1])
        if index is None:
            name = node.inputs[1].name or "" if node.inputs[1] else ""
            return Miss("index", name, "one number everywhere", far=True)
        rows = rows_of(table)
        if not -rows <= index < rows:
            return Miss("row", str(index), f"one of the {rows} rows of {table.name}")
        dims = dimensions(result)
        if dims is None:
            return Miss("shape", result.name or "", "a result of known rank")
        narrower = narrowed(result, range(-len(dims), -1))
        if narrower is None:
            return Miss("broadcast", f"{result.name}: {dims}", "readers that broadcast a row to all of it")
        return Found(node=node, table=table, row=index % rows, narrower=narrower)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Found)
        tape = Tape()
        tensor = stored_table(found.table)
        assert tensor is not None
        table = tensor.numpy()
        with released(table[found.row : found.row + 1]):
            row = tape.constant(np.array(table[found.row]), f"row_{found.row}")
        replace(tape, found.node.outputs, [row])
        restate_shapes(found.narrower)
