"""What a value is in terms of the last axis of another: signed picks of its elements, times tables.

    y = x * cos + Concat(-x[8:16], x[0:8]) * sin          y[0] = x[0] cos[0] - x[8] sin[0], ...

Every element of y is a sum of products of one element of x and one of a table. Slices, splits, gathers, reshapes and
concatenations of the last axis only say which, so all spellings of one rotation have the same elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ....ir.content import content, dimensions
from ...edit import attribute, constant_of

#: Nodes visited for one rotation.
_REACH = 64

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Plane:
    """A product for each element: sign * x[pick] * table[at].

    Shapes of the arrays: the axes that the last axis of x became. sign: zero where the element has no such product.
    table: None for one.
    """

    sign: Index
    pick: Index
    table: ir.Value | None
    at: Index

    def each(self, move: Callable[[Index], Index]) -> Plane:
        """The plane with its elements moved."""
        return Plane(move(self.sign), move(self.pick), self.table, move(self.at))


Planes = tuple[Plane, ...]


@dataclass(frozen=True)
class Term:
    """sign * x[pick] * table[at]"""

    sign: int
    pick: int
    table: ir.Value | None
    at: int


class Reader:
    """Reads values in terms of the last axis of x, whose size is known.

    nodes: those read on the way.
    """

    def __init__(self, x: ir.Value) -> None:
        dims = dimensions(x)
        assert dims is not None and isinstance(dims[-1], int)
        self.x = x
        self.leading = dims[:-1]
        self.size = dims[-1]
        self.nodes: dict[ir.Node, None] = {}
        self._known: dict[ir.Value, Planes | None] = {}

    def read(self, value: ir.Value | None) -> Planes | None:
        """None where `value` is no sum of products of elements of x and of tables."""
        if value is None:
            return None
        if value is self.x:
            every = np.arange(self.size, dtype=np.int64)
            return (Plane(np.ones_like(every), every, None, np.zeros_like(every)),)
        if value not in self._known:
            self._known[value] = None
            node = value.producer()
            if node is not None and not node.domain and len(self._known) <= _REACH:
                rule = _RULES.get(node.op_type)
                self._known[value] = None if rule is None else rule(self, node, value)
                if self._known[value] is not None:
                    self.nodes[node] = None
        return self._known[value]

    def terms(self, value: ir.Value) -> list[list[Term]] | None:
        """The products that each element of the last axis of `value` is a sum of; None where it is anything else."""
        planes = self.read(value)
        if not planes or any(plane.sign.ndim != 1 for plane in planes):
            return None
        return [
            [
                Term(int(plane.sign[index]), int(plane.pick[index]), plane.table, int(plane.at[index]))
                for plane in planes
                if plane.sign[index]
            ]
            for index in range(len(planes[0].sign))
        ]

    @property
    def rank(self) -> int:
        """Leading axes, which stay as they are."""
        return len(self.leading)


def _move(planes: Planes | None, move: Callable[[Index], Index]) -> Planes | None:
    return None if planes is None else tuple(plane.each(move) for plane in planes)


def _negative(planes: Planes) -> Planes:
    return tuple(replace(plane, sign=-plane.sign) for plane in planes)


def _neg(reader: Reader, node: ir.Node, value: ir.Value) -> Planes | None:
    planes = reader.read(node.inputs[0])
    return None if planes is None else _negative(planes)


def _same(reader: Reader, node: ir.Node, value: ir.Value) -> Planes | None:
    return reader.read(node.inputs[0])


def _sum(reader: Reader, node: ir.Node, value: ir.Value) -> Planes | None:
    left, right = (reader.read(item) for item in node.inputs)
    if left is None or right is None or left[0].sign.shape != right[0].sign.shape:
        return None
    return (*left, *(_negative(right) if node.op_type == "Sub" else right))


def _product(reader: Reader, node: ir.Node, value: ir.Value) -> Planes | None:
    for item, table in (tuple(node.inputs), tuple(node.inputs[::-1])):
        planes = reader.read(item)
        if planes is not None:
            return None if reader.read(table) is not None else _times(reader, planes, table)
    return None


def _times(reader: Reader, planes: Planes, table: ir.Value | None) -> Planes | None:
    dims = dimensions(table)
    shape = planes[0].sign.shape
    if table is None or not dims or len(shape) != 1 or len(dims) > reader.rank + 1 or dims[-1] not in (1, shape[0]):
        return None
    if any(plane.table is not None for plane in planes):
        return None
    at = np.arange(shape[0], dtype=np.int64) if dims[-1] == shape[0] else np.zeros(shape, np.int64)
    return tuple(replace(plane, table=table, at=at) for plane in planes)


def _slice(reader: Reader, node: ir.Node, value: ir.Value) -> Planes | None:
    planes = reader.read(node.inputs[0])
    given = [content(item) if item is not None else None for item in node.inputs[1:]]
    starts, ends, axes, steps = (*given, None, None)[:4]
    if planes is None or starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    cut: list[slice] = [slice(None)] * planes[0].sign.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place = _trailing(reader, planes, axis)
        if place is None or not isinstance(start, int) or not isinstance(end, int) or not isinstance(step, int):
            return None
        if step <= 0:
            return None
        cut[place] = slice(start, end, step)
    return _move(planes, lambda array: array[tuple(cut)])


def _split(reader: Reader, node: ir.Node, value: ir.Value) -> Planes | None:
    planes = reader.read(node.inputs[0])
    place = None if planes is None else _trailing(reader, planes, attribute(node, "axis", 0))
    if planes is None or place is None:
        return None
    size, count = planes[0].sign.shape[place], len(node.outputs)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        sizes = [item for item in content(node.inputs[1]) or () if isinstance(item, int)]
    else:
        chunk = -(-size // count)
        sizes = [chunk] * (count - 1) + [size - chunk * (count - 1)]
    if len(sizes) != count or sum(sizes) != size:
        return None
    index = next(index for index, item in enumerate(node.outputs) if item is value)
    start = sum(sizes[:index])
    wanted = np.arange(start, start + sizes[index])
    return _move(planes, lambda array: np.take(array, wanted, axis=place))


def _gather(reader: Reader, node: ir.Node, value: ir.Value) -> Planes | None:
    planes = reader.read(node.inputs[0])
    place = None if planes is None else _trailing(reader, planes, attribute(node, "axis", 0))
    indices = constant_of(node.inputs[1]) if place is not None else None
    if planes is None or place is None or indices is None:
        return None
    size = planes[0].sign.shape[place]
    if indices.size > size or np.any((indices < -size) | (indices >= size)):
        return None
    wanted = indices.astype(np.int64)
    return _move(planes, lambda array: np.take(array, wanted, axis=place))


def _concat(reader: Reader, node: ir.Node, value: ir.Value) -> Planes | None:
    parts = [reader.read(item) for item in node.inputs]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    place = _trailing(reader, known[0], node.attributes["axis"].as_int())
    if place is None or len({_without(part[0].sign.shape, place) for part in known}) != 1:
        return None
    sizes = [part[0].sign.shape[place] for part in known]
    found: list[Plane] = []
    for index, part in enumerate(known):
        pads = [(0, 0)] * part[0].sign.ndim
        pads[place] = sum(sizes[:index]), sum(sizes[index + 1 :])
        found += [plane.each(lambda array, pads=pads: np.pad(array, pads)) for plane in part]  # type: ignore[misc]
    return tuple(found)


def _unsqueeze(reader: Reader, node: ir.Node, value: ir.Value) -> Planes | None:
    planes, axes = reader.read(node.inputs[0]), content(node.inputs[1])
    if planes is None or axes is None:
        return None
    rank = reader.rank + planes[0].sign.ndim + len(axes)
    places = [_place(axis, rank, reader.rank) for axis in axes]
    if any(place is None for place in places):
        return None
    return _move(planes, lambda array: np.expand_dims(array, tuple(place for place in places if place is not None)))


def _squeeze(reader: Reader, node: ir.Node, value: ir.Value) -> Planes | None:
    planes, axes = reader.read(node.inputs[0]), content(node.inputs[1]) if len(node.inputs) > 1 else None
    if planes is None or axes is None:
        return None
    places = [_trailing(reader, planes, axis) for axis in axes]
    shape = planes[0].sign.shape
    if any(place is None or shape[place] != 1 for place in places):
        return None
    return _move(planes, lambda array: np.squeeze(array, tuple(place for place in places if place is not None)))


def _reshape(reader: Reader, node: ir.Node, value: ir.Value) -> Planes | None:
    """Leading axes stay: all that is known of the target says so."""
    planes = reader.read(node.inputs[0])
    if planes is None:
        return None
    target, rank, size = content(node.inputs[1]), reader.rank, planes[0].sign.size
    now = dimensions(value)
    if target is None:
        target = now
    if target is None or len(target) < rank:
        return None
    keeps = not attribute(node, "allowzero", 0)
    before = [*reader.leading, *planes[0].sign.shape]
    full = [before[index] if item == 0 and keeps and index < len(before) else item for index, item in enumerate(target)]
    lead, trail = full[:rank], full[rank:]
    if any(isinstance(item, int) and item not in (-1, have) for item, have in zip(lead, reader.leading, strict=True)):
        return None
    kept = [item is not None and item == have for item, have in zip(lead, reader.leading, strict=True)]
    if now is not None and len(now) == len(full):
        kept = [
            same or (dim is not None and dim == have)
            for same, dim, have in zip(kept, now, reader.leading, strict=False)
        ]
    if trail.count(-1) == 1 and all(isinstance(item, int) for item in trail):
        rest = int(np.prod([item for item in trail if isinstance(item, int) and item != -1]))
        if rest == 0 or size % rest:
            return None
        trail = [size // rest if item == -1 else item for item in trail]
    shape = [item for item in trail if isinstance(item, int)]
    if len(shape) != len(trail) or int(np.prod(shape)) != size or kept.count(False) > 1:
        return None
    # elements are kept, so that one axis left over is as long as it was
    return _move(planes, lambda array: array.reshape(shape))


def _trailing(reader: Reader, planes: Planes, axis: int | str | None) -> int | None:
    return _place(axis, reader.rank + planes[0].sign.ndim, reader.rank)


def _place(axis: int | str | None, rank: int, leading: int) -> int | None:
    """Which of the trailing axes an axis is; None for a leading one."""
    if not isinstance(axis, int):
        return None
    found = (axis + rank if axis < 0 else axis) - leading
    return found if 0 <= found < rank - leading else None


def _without(shape: Sequence[int], place: int) -> tuple[int, ...]:
    return (*shape[:place], *shape[place + 1 :])


_RULES: Mapping[str, Callable[[Reader, ir.Node, ir.Value], Planes | None]] = {
    "Neg": _neg,
    "Identity": _same,
    "Add": _sum,
    "Sub": _sum,
    "Mul": _product,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
}
