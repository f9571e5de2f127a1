"""Read a GatherND over the full grid of its input's indices as the unsqueeze it is.

    before   i = Range(0, batch)[:, 0, 0, 0]    j = Range(0, sequence)[0, 0, 0, :]
             GatherND(mask, stack(i, j))                                             mask: [batch, sequence]
    after    Unsqueeze(mask, [1, 2])

Exact. Exporters write broadcast mask indexing this way. Left alone where an index is not provably 0, 1, .. up to the
size of its axis, or the axes are permuted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.content import content, dimensions
from ...ir.level import Level
from ..base import Match, Miss, Rewrite
from ..edit import Tape, attribute, integers_of, is_op, replace


@dataclass(frozen=True, kw_only=True)
class Grid(Match):
    """The data and the axes at which new dimensions of size one appear."""

    data: ir.Value
    axes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RaiseGridGather(Rewrite):
    """GatherND(x, all indices) -> Unsqueeze(x)"""

    name: ClassVar[str] = "raise-grid-gather"
    level: ClassVar[Level] = Level.IMPORTED
    anchors: ClassVar[tuple[str, ...]] = ("GatherND",)

    def match(self, node: ir.Node) -> Match | Miss:
        data, indices = node.inputs
        dims = dimensions(data)
        stack = indices.producer() if indices is not None else None
        if data is None or dims is None or attribute(node, "batch_dims", 0):
            return Miss("data", data.name or "" if data else "", "known sizes and no batch_dims")
        if not is_op(stack, "Concat") or len(stack.inputs) != len(dims) or not _is_last(stack, indices):
            return Miss("indices", indices.name or "" if indices else "", "one index tensor for each axis, stacked")
        places: list[int] = []
        rank = None
        for part, size in zip(stack.inputs, dims, strict=True):
            counted = _counter(part, size)
            if isinstance(counted, Miss):
                return counted
            axis, rank = counted
            places.append(axis)
        if rank is None or places != sorted(set(places)):
            return Miss("order", str(places), "axes in their own order")
        grid = dimensions(node.outputs[0]) or _grid(stack)
        ones = tuple(axis for axis in range(rank) if axis not in places)
        if grid is None or any(grid[axis] != 1 for axis in ones):
            return Miss("grid", str(grid), "size one at every axis that no index runs over")
        return Grid(node=node, data=data, axes=ones)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Grid)
        tape = Tape()
        wide = tape("Unsqueeze", found.data, tape.constant(found.axes, "axes"))
        replace(tape, found.node.outputs, [wide])


def _counter(part: ir.Value | None, size: int | str | None) -> tuple[int, int] | Miss:
    """The axis along which an index tensor counts 0, 1, .. size - 1, and its rank."""
    last = None if part is None else part.producer()
    if not is_op(last, "Unsqueeze") or last.inputs[0] is None:
        return Miss("stacking", part.name or "" if part else "", "Unsqueeze at the last axis")
    value = last.inputs[0]
    rank = None if value.shape is None else len(value.shape)
    if integers_of(last.inputs[1]) not in ([-1], [rank]):
        return Miss("stacking", part.name or "" if part else "", "Unsqueeze at the last axis")
    node = value.producer()
    while is_op(node, "Expand", "Cast") and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    shape: Sequence[int | str | None] | None = dimensions(value)
    while is_op(node, "Unsqueeze") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if not is_op(node, "Range") or shape is None:
        return Miss("index", value.name or "", "a Range with new axes around it")
    if integers_of(node.inputs[0]) != [0] or integers_of(node.inputs[2]) != [1]:
        return Miss("index", value.name or "", "a Range from 0 in steps of 1")
    if size is None or content(node.inputs[1]) != [size]:
        return Miss("extent", f"{content(node.inputs[1])} for an axis of size {size}", "the size of the axis")
    counting = [axis for axis, dim in enumerate(shape) if dim != 1]
    return (counting[0], len(shape)) if len(counting) == 1 else Miss("index", str(shape), "one counting axis")


def _is_last(stack: ir.Node, indices: ir.Value | None) -> bool:
    """Whether the index tensors are joined along the last axis, which GatherND reads as one place."""
    rank = None if indices is None or indices.shape is None else len(indices.shape)
    return attribute(stack, "axis", 0) in (-1, None if rank is None else rank - 1)


def _grid(stack: ir.Node) -> list[int | str | None] | None:
    """The shape that the index tensors were expanded to."""
    part = stack.inputs[0].producer() if stack.inputs[0] is not None else None
    expand = part.inputs[0].producer() if part is not None and part.inputs[0] is not None else None
    return content(expand.inputs[1]) if is_op(expand, "Expand") else None
