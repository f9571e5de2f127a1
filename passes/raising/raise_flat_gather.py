"""Read a Gather of every element of a flattened table, in order, as the unsqueeze it is.

    before   i = Range(0, batch)[:, 0, 0, 0]    j = Range(0, sequence)[0, 0, 0, :]
             Gather(Flatten(mask), i * sequence + j)                                 mask: [batch, sequence]
    after    Unsqueeze(mask, [1, 2])

Exact. Exporters write broadcast mask indexing this way where they have no GatherND. Left alone where an index is not
provably the place of its element, or the axes are permuted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.content import Element, content, dimensions
from ...ir.level import Level
from ..base import Match, Miss, Rewrite
from ..edit import Tape, attribute, integers_of, is_op, replace


@dataclass(frozen=True, kw_only=True)
class Flat(Match):
    """The table and the axes at which new dimensions of size one appear."""

    table: ir.Value
    axes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RaiseFlatGather(Rewrite):
    """Gather(Flatten(x), all places) -> Unsqueeze(x)"""

    name: ClassVar[str] = "raise-flat-gather"
    level: ClassVar[Level] = Level.IMPORTED
    anchors: ClassVar[tuple[str, ...]] = ("Gather",)

    def match(self, node: ir.Node) -> Match | Miss:
        data, indices = node.inputs
        assert data is not None and indices is not None
        flat, grid = dimensions(data), dimensions(indices)
        source = data.producer()
        table = source.inputs[0] if is_op(source, "Flatten", "Reshape") else None
        sizes = dimensions(table)
        if table is None or flat is None or sizes is None or len(sizes) != 2 or None in sizes:
            return Miss("table", data.name or "", "a flattened table of known sizes", far=table is None)
        if not flat or any(dim != 1 for dim in flat[1:]) or attribute(node, "axis", 0) not in (0, -len(flat)):
            return Miss("flat", f"{data.name}: {flat}", "all places of the table along the first axis")
        add = indices.producer()
        if grid is None or not is_op(add, "Add"):
            return Miss("indices", indices.name or "", "row * columns + column")
        places = _places(add, sizes, len(grid))
        if places is None:
            return Miss("indices", indices.name or "", f"rows and columns that count to {sizes}, row by row")
        ones = [axis for axis in range(len(grid)) if axis not in places]
        return Flat(node=node, table=table, axes=(*ones, *range(len(grid), len(grid) + len(flat) - 1)))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Flat)
        tape = Tape()
        wide = tape("Unsqueeze", found.table, tape.constant(found.axes, "axes")) if found.axes else found.table
        if not found.axes and found.node.outputs[0].is_graph_output():
            wide = tape("Identity", wide)
        replace(tape, found.node.outputs, [wide])


def _places(add: ir.Node, sizes: list[Element], rank: int) -> tuple[int, int] | None:
    """The axes along which rows and columns count in row * columns + column, in this order."""
    for column, scaled in (add.inputs, add.inputs[::-1]):
        product = None if scaled is None else scaled.producer()
        if not is_op(product, "Mul"):
            continue
        for row, factor in (product.inputs, product.inputs[::-1]):
            if content(factor) == [sizes[1]]:
                first, second = _counts(row, sizes[0], rank), _counts(column, sizes[1], rank)
                if first is not None and second is not None and first < second:
                    return first, second
    return None


def _counts(value: ir.Value | None, size: Element, rank: int) -> int | None:
    """The axis, of `rank`, along which a value counts 0, 1, .. size - 1; None where that is not known."""
    dims = dimensions(value)
    node = None if value is None else value.producer()
    while is_op(node, "Unsqueeze", "Reshape") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if dims is None or not is_op(node, "Range") or len(node.inputs) != 3:
        return None
    if integers_of(node.inputs[0]) != [0] or integers_of(node.inputs[2]) != [1] or content(node.inputs[1]) != [size]:
        return None
    counting = [axis for axis, dim in enumerate(dims) if dim != 1]
    return counting[0] + rank - len(dims) if len(counting) == 1 else None
