"""Blocks of constant matrices, cut out by nodes or by where they are used; what is known of features and rows.

    Split(Transpose(W))[1]        the rows n:2n of W, read as [in, out]

Nothing is read: a block says which columns of which stored array it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir

from ....ir.content import content, dimensions
from ....ir.weight import Weight, resolve
from ...edit import Array, attribute, integers_of

Range = tuple[int, int]

#: Between a weight and its use: what only moves numbers. To undo a quantization is no business of a raise.
_MOVES = frozenset({"Identity", "Transpose", "Squeeze", "Unsqueeze", "Reshape"})


@dataclass(frozen=True)
class Matrix:
    """A block of a constant matrix as it is multiplied with: rows are inputs, columns outputs."""

    view: Weight
    flipped: bool
    rows: Range
    columns: Range

    def turned(self) -> Matrix:
        return Matrix(self.view, not self.flipped, self.columns, self.rows)

    def within(self, rows: Range | None = None, columns: Range | None = None) -> Matrix:
        """A part of the block, counted from its own start."""
        return replace(
            self,
            rows=self.rows if rows is None else shifted(rows, self.rows[0]),
            columns=self.columns if columns is None else shifted(columns, self.columns[0]),
        )

    def cut(self, whole: Array) -> Array:
        """The block as [in, out], of the whole constant."""
        whole = whole.reshape(self.view.shape[-2:])
        whole = whole.T if self.flipped else whole
        return whole[slice(*self.rows), slice(*self.columns)]


def width(value: ir.Value | None) -> int | None:
    """The size of the last axis where it is a number."""
    dims = dimensions(value)
    return dims[-1] if dims and isinstance(dims[-1], int) else None


def rows(value: ir.Value | None) -> list[int | str] | None:
    """The sizes of all axes but the last, leading ones aside; None where one is unknown."""
    dims = dimensions(value)
    if not dims:
        return None
    known = [dim for dim in dims[:-1] if dim is not None]
    if len(known) != len(dims) - 1:
        return None
    while known and known[0] == 1:
        known = known[1:]
    return known


def part(value: ir.Value) -> tuple[ir.Value, Range] | None:
    """(whole, columns) where `value` is a range of the features of `whole`, cut out by Split or Slice."""
    node = value.producer()
    if node is None or node.domain or node.op_type not in ("Split", "Slice"):
        return None
    whole, size = node.inputs[0], width(value)
    start = split_at(node, value) if node.op_type == "Split" else sliced_at(node)
    return None if whole is None or size is None or start is None else (whole, (start, start + size))


def constant(value: ir.Value | None) -> Weight | None:
    """The constant behind a value that nodes only move, unless the caller may override it."""
    view = None if value is None else resolve(value)
    if view is None or view.root.is_graph_input() or any(node.op_type not in _MOVES for node in view.path):
        return None
    return view if view.dtype.is_floating_point() else None


def matrix(value: ir.Value | None) -> Matrix | None:
    """The block of a constant matrix that `value` is."""
    view = constant(value)
    if view is not None:
        fits = len(view.shape) == 2 and 0 not in view.shape
        return Matrix(view, False, (0, view.shape[0]), (0, view.shape[1])) if fits else None
    node = None if value is None else value.producer()
    if value is None or node is None or node.domain or node.op_type not in ("Split", "Slice", "Transpose", "Identity"):
        return None
    whole = matrix(node.inputs[0])
    if whole is None or node.op_type == "Identity":
        return whole
    if node.op_type == "Transpose":
        return whole.turned()
    dims = dimensions(value)
    at = split_at(node, value, 0), split_at(node, value, 1)
    if node.op_type == "Slice":
        at = sliced_at(node, 0), sliced_at(node, 1)
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    rows, columns = (None if start is None else (start, start + int(dims[axis] or 0)) for axis, start in enumerate(at))
    return whole.within(rows, columns) if (rows is None) != (columns is None) else None


def split_at(node: ir.Node, value: ir.Value, axis: int = -1) -> int | None:
    """Where an output of a Split starts along an axis; None when it splits another one."""
    rank = rank_of(value)
    if rank is None or node.op_type != "Split" or axis_of(node, rank, 0) != axis % rank:
        return None
    start = 0
    for output in node.outputs:
        if output is value:
            return start
        dims = dimensions(output)
        size = None if dims is None else dims[axis]
        if not isinstance(size, int):
            return None
        start += size
    return None


def sliced_at(node: ir.Node, axis: int = -1) -> int | None:
    """Where a Slice along one axis, in steps of one, starts; None for any other Slice."""
    rank, dims = rank_of(node.inputs[0]), dimensions(node.inputs[0])
    axes = None if rank is None else slice_axes(node, rank)
    starts, steps = integers_of(node.inputs[1]), integers_of(node.inputs[4]) if len(node.inputs) > 4 else [1]
    if rank is None or dims is None or axes != [axis % rank] or starts is None or steps != [1]:
        return None
    size = dims[axis]
    if not isinstance(size, int):
        return None
    return max(0, starts[0] + size) if starts[0] < 0 else min(starts[0], size)


def slice_axes(node: ir.Node, rank: int) -> list[int] | None:
    """The axes that a Slice cuts, counted from the front."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = integers_of(node.inputs[3])
        return None if axes is None else [axis % rank for axis in axes]
    starts = content(node.inputs[1])
    return None if starts is None else list(range(len(starts)))


def axis_of(node: ir.Node, rank: int | None, default: int | None) -> int | None:
    """The attribute `axis`, counted from the front."""
    if rank is None or ("axis" not in node.attributes and default is None):
        return None
    return attribute(node, "axis", default or 0) % max(rank, 1)


def rank_of(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


def shifted(span: Range, by: int) -> Range:
    return span[0] + by, span[1] + by


def reader(view: Weight) -> Callable[[], Array]:
    """Reads a constant, also when the nodes on the way are gone: those only move numbers, which makes no copy."""
    if not view.path:
        return view.array
    array = view.array()
    return lambda: array
