"""Fold a constant row that is added to a lookup into the table.

    before   Add(Gather(table, ids), row)                                   table: [rows, hidden], row: [hidden]
    after    Gather(table + row, ids)
    before   Add(Add(Gather(words, ids), row), Gather(places, positions))   of several tables the smallest
    after    Add(Gather(words, ids), Gather(places + row, positions))

Exact: sums are associated anew. Left alone: tables that something else reads (a tied output layer), tables of more than
`limit` numbers, which may be mapped files, sums that something else reads on the way, and types below float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.constants import is_constant, tensor_of
from ...ir.content import dimensions
from ..base import Match, Miss, Rewrite
from ..edit import Array, Tape, attribute, is_op, only_reader, replace, stand_in
from .dense import PRECISE, cast, numbers, sizes

#: Sums that are followed in each direction.
_REACH = 6


@dataclass(frozen=True, kw_only=True)
class Biased(Match):
    """The lookup whose table takes the row in, and what the row was added to."""

    lookup: ir.Node
    x: ir.Value
    row: ir.Value


@dataclass(frozen=True, kw_only=True)
class FoldEmbeddingBias(Rewrite):
    """Gather(table, ids) + row -> Gather(table + row, ids)"""

    name: ClassVar[str] = "fold-embedding-bias"
    anchors: ClassVar[tuple[str, ...]] = ("Add",)
    limit: int = 1 << 22

    def match(self, node: ir.Node) -> Match | Miss:
        left, right = node.inputs
        x, row = (right, left) if is_constant(left) else (left, right)
        if x is None or row is None or tensor_of(row) is None or is_constant(x):
            return Miss("row", node.outputs[0].name or "", "a computed value plus a constant", far=True)
        if row.const_value is None or row.dtype not in PRECISE or sizes(row)[:-1] != (1,) * len(sizes(row)[:-1]):
            return Miss("row", f"{row.name}", "one row of float32 or float64", far=True)
        lookups = [found for found in _lookups(node, x) if found.inputs[0] is not None]
        if not lookups:
            return Miss("lookup", x.name or "", "a lookup in the sum, which alone reads it and its table", far=True)
        fitting = [found for found in lookups if _fits(row, x, found)]
        if not fitting:
            return Miss("width", f"{row.name}: {list(sizes(row))}", "a row as wide as the table and all of the sum")
        lookup = min(fitting, key=lambda found: _numbers(found.inputs[0]))
        if _numbers(lookup.inputs[0]) > self.limit:
            return Miss("limit", f"{_numbers(lookup.inputs[0]):,} numbers", f"a table of at most {self.limit:,}")
        if not np.isfinite(numbers(row)).all():
            return Miss("row", row.name or "", "finite numbers")
        return Biased(node=node, lookup=lookup, x=x, row=row)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Biased)
        table, ids = found.lookup.inputs
        assert table is not None and table.dtype is not None
        row, dtype = numbers(found.row).reshape(-1), table.dtype

        def compute() -> Array:
            return cast(numbers(table) + row, dtype)

        tape = Tape()
        folded = tape.derived(table.name or "table", sizes(table), dtype, compute)
        lookup = tape("Gather", folded, ids, axis=0)
        result, x = found.node.outputs[0], found.x
        last = x is found.lookup.outputs[0]
        replace(tape, found.lookup.outputs, [lookup], matched=[found.lookup, found.node])
        x = lookup if last else x
        if result.is_graph_output():
            stand_in(result, x)
        replace(Tape(), [result], [x])


def _lookups(node: ir.Node, x: ir.Value) -> Iterator[ir.Node]:
    """The lookups that are summed with a row by `node`, each read by nothing but the sum."""
    yield from _summed(x, node)
    for _ in range(_REACH):
        reader = only_reader(node.outputs[0])
        if not is_op(reader, "Add") or reader.graph is not node.graph:
            return
        for value in reader.inputs:
            if value is not node.outputs[0]:
                yield from _summed(value, reader)
        node = reader


def _summed(value: ir.Value | None, reader: ir.Node) -> Iterator[ir.Node]:
    """The lookups in a sum."""
    waiting = [value]
    for _ in range(_REACH):
        part = waiting.pop() if waiting else None
        node = None if part is None else part.producer()
        if part is None or node is None or only_reader(part) is None or node.graph is not reader.graph:
            continue
        if is_op(node, "Add"):
            waiting += node.inputs
        elif is_op(node, "Gather") and attribute(node, "axis", 0) in (0, -2) and _is_table(node.inputs[0]):
            yield node


def _is_table(value: ir.Value | None) -> bool:
    if value is None or value.const_value is None or not is_constant(value) or len(sizes(value)) != 2:
        return False
    return len(value.uses()) == 1 and not value.is_graph_output()


def _numbers(table: ir.Value | None) -> int:
    tensor = tensor_of(table)
    return 0 if tensor is None else tensor.size


def _fits(row: ir.Value, x: ir.Value, lookup: ir.Node) -> bool:
    """Whether the sums have the same shapes with the row as without."""
    table, length = lookup.inputs[0], sizes(row)
    dims, found = dimensions(x), dimensions(lookup.outputs[0])
    if table is None or dims is None or found is None or table.dtype is not row.dtype:
        return False
    width = sizes(table)[1]
    return dims[-1:] == [width] and len(length) <= min(len(dims), len(found)) and length[-1:] in ((), (1,), (width,))
