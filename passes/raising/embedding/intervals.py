"""Between which integers the elements of a tensor lie, read from what computes it.

    Cast(Less(x, y))                          0 .. 1
    Clip(ids, 0, 3) + 1                       1 .. 4
    GatherElements(Expand(zeros), places)     0 .. 0       whatever the places are
    ArgMax(x [batch, 7])                      0 .. 6

What is said of a tensor without elements holds of none of them. Integers that leave the range of their type wrap
around, so that nothing is known of them. Floats are followed where they are whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ....ir.constants import tensor_of
from ....ir.content import content, dimensions
from ...edit import attribute

#: The least and the largest number.
Interval = tuple[int, int]

#: Larger constants are not read.
_SMALL = 1 << 16
#: A chain longer than this, or one of more nodes, is not followed.
_DEPTH = 24
_NODES = 128
#: Whole numbers up to this one are themselves in every float type.
_WHOLE = 256


def interval(value: ir.Value | None) -> Interval | None:
    """The least and largest number that a tensor of integers or truth values may hold; None where nothing is known."""
    return _Reader().of(value)


def uniform(value: ir.Value | None) -> int | None:
    """The one number that all elements of a tensor are, None where that is not known."""
    found = interval(value)
    return found[0] if found is not None and found[0] == found[1] else None


@dataclass(eq=False)
class _Reader:
    """Intervals for one question, each value read once."""

    known: dict[ir.Value, Interval | None] = field(default_factory=dict)
    depth: int = 0

    def of(self, value: ir.Value | None) -> Interval | None:
        if value is None:
            return None
        if value not in self.known:
            tensor = tensor_of(value)
            dtype = value.dtype if tensor is None else tensor.dtype
            self.known[value] = _within(self._found(value), dtype)
        return self.known[value]

    def _found(self, value: ir.Value) -> Interval | None:
        tensor = tensor_of(value)
        if tensor is not None:
            return _stored(tensor)
        node = value.producer()
        rule = _RULES.get(node.op_type) if node is not None and not node.domain else None
        if node is None or rule is None or self.depth == _DEPTH or len(self.known) > _NODES:
            return None
        self.depth += 1
        try:
            return rule(self, node)
        finally:
            self.depth -= 1


def _within(found: Interval | None, dtype: ir.DataType | None) -> Interval | None:
    """An interval that its type can hold, else all that the type can hold."""
    if dtype is None or dtype.is_string():
        return None
    if dtype.is_floating_point():
        return found if found is not None and max(map(abs, found)) <= _WHOLE else None
    if dtype != ir.DataType.BOOL and not dtype.is_integer():
        return None
    bits = 1 if dtype == ir.DataType.BOOL else dtype.bitwidth
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.is_signed() else (0, (1 << bits) - 1)
    return found if found is not None and low <= found[0] and found[1] <= high else (low, high)


def _stored(tensor: ir.TensorProtocol) -> Interval | None:
    counts = tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL
    if not 0 < tensor.size <= _SMALL or not (counts or tensor.dtype.is_floating_point()):
        return None
    array = tensor.numpy()
    if counts:
        return int(array.min()), int(array.max())
    number = float(array.reshape(-1)[0])
    whole = np.isfinite(number) and number.is_integer() and bool((array == array.reshape(-1)[0]).all())
    return (int(number), int(number)) if whole else None


def _first(reader: _Reader, node: ir.Node) -> Interval | None:
    return reader.of(node.inputs[0])


def _hull(*parts: Interval | None) -> Interval | None:
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


def _joined(reader: _Reader, node: ir.Node) -> Interval | None:
    return _hull(*map(reader.of, node.inputs))


def _where(reader: _Reader, node: ir.Node) -> Interval | None:
    test = reader.of(node.inputs[0])
    if test in ((0, 0), (1, 1)):
        return reader.of(node.inputs[1 if test[0] else 2])
    return _hull(reader.of(node.inputs[1]), reader.of(node.inputs[2]))


def _cast(reader: _Reader, node: ir.Node) -> Interval | None:
    found = reader.of(node.inputs[0])
    if found is None or attribute(node, "to", 0) != ir.DataType.BOOL:
        return found
    return int(not found[0] <= 0 <= found[1]), int(found != (0, 0))


def _not(reader: _Reader, node: ir.Node) -> Interval | None:
    found = reader.of(node.inputs[0])
    return None if found is None else (1 - found[1], 1 - found[0])


def _corners(compute: Callable[[int, int], int]) -> Callable[[_Reader, ir.Node], Interval | None]:
    """A function of two numbers whose extremes are at the corners."""

    def rule(reader: _Reader, node: ir.Node) -> Interval | None:
        left, right = map(reader.of, node.inputs)
        if left is None or right is None:
            return None
        found = [compute(one, other) for one in left for other in right]
        return min(found), max(found)

    return rule


def _rising(choose: Callable[[list[int]], int]) -> Callable[[_Reader, ir.Node], Interval | None]:
    """A function that grows with each of its arguments."""

    def rule(reader: _Reader, node: ir.Node) -> Interval | None:
        found = [part for part in map(reader.of, node.inputs) if part is not None]
        if len(found) < len(node.inputs):
            return None
        return choose([low for low, _ in found]), choose([high for _, high in found])

    return rule


def _clip(reader: _Reader, node: ir.Node) -> Interval | None:
    found = reader.of(node.inputs[0])
    for index, bound in ((1, max), (2, min)):
        if index < len(node.inputs) and node.inputs[index] is not None:
            limit = reader.of(node.inputs[index])
            if found is None or limit is None:
                return None
            found = bound(found[0], limit[0]), bound(found[1], limit[1])
    return found


def _remainder(reader: _Reader, node: ir.Node) -> Interval | None:
    """What is left has the sign of the divisor, or of the dividend where `fmod` says so."""
    number, divisor = map(reader.of, node.inputs)
    if number is None or divisor is None or divisor[0] <= 0 or (attribute(node, "fmod", 0) and number[0] < 0):
        return None
    return 0, divisor[1] - 1


def _absolute(reader: _Reader, node: ir.Node) -> Interval | None:
    found = reader.of(node.inputs[0])
    if found is None:
        return None
    ends = sorted(map(abs, found))
    return (0 if found[0] <= 0 <= found[1] else ends[0]), ends[1]


def _place(_: _Reader, node: ir.Node) -> Interval | None:
    dims, axis = dimensions(node.inputs[0]), attribute(node, "axis", 0)
    size = dims[axis] if dims is not None and -len(dims) <= axis < len(dims) else None
    return 0, max(size - 1, 0) if isinstance(size, int) else np.iinfo(np.int64).max


def _sizes(_: _Reader, node: ir.Node) -> Interval | None:
    found = [number if isinstance(number, int) else None for number in content(node.outputs[0]) or [None]]
    known = [number for number in found if number is not None]
    return (min(known), max(known)) if known and len(known) == len(found) else (0, np.iinfo(np.int64).max)


def _counted(reader: _Reader, node: ir.Node) -> Interval | None:
    start, limit, step = map(reader.of, node.inputs)
    if start is None or limit is None or step is None or step[0] <= 0:
        return None
    return start[0], max(start[0], limit[1] - 1)


def _filled(_: _Reader, node: ir.Node) -> Interval | None:
    given = node.attributes.get("value")
    return (0, 0) if given is None else _stored(given.as_tensor())


_RULES: Mapping[str, Callable[[_Reader, ir.Node], Interval | None]] = {
    **dict.fromkeys(("Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Expand", "Tile"), _first),
    **dict.fromkeys(("Slice", "Split", "Gather", "GatherElements", "GatherND", "Compress"), _first),
    "Concat": _joined,
    "Where": _where,
    "Cast": _cast,
    "Not": _not,
    "Add": _corners(lambda one, other: one + other),
    "Sub": _corners(lambda one, other: one - other),
    "Mul": _corners(lambda one, other: one * other),
    "Max": _rising(max),
    "Min": _rising(min),
    "Clip": _clip,
    "Mod": _remainder,
    "Abs": _absolute,
    **dict.fromkeys(("ArgMax", "ArgMin"), _place),
    **dict.fromkeys(("Shape", "Size"), _sizes),
    "Range": _counted,
    "ConstantOfShape": _filled,
}
