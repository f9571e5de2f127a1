"""Tensors that count positions along an axis, and conditions that compare two of them.

i = Unsqueeze(Range(past, past + s, 1), 1)      j = Range(0, keys, 1)       j <= i
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ....ir.constants import is_constant, tensor_of
from ....ir.content import content
from ....ir.layout import after, rearranges, whole
from ....ir.polynomial import Polynomial
from ...edit import Array, attribute, constant_of, is_op, scalar_of

_REACH = 16
_COUNTED = frozenset({ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE})

#: (op, whether its sides are swapped, what it takes off the offset) for a <= b, a < b, b >= a, b > a.
_COMPARES = {"LessOrEqual": (False, 0), "Less": (False, 1), "GreaterOrEqual": (True, 0), "Greater": (True, 1)}


#: Constants of more elements than this are not read.
_READ = 1 << 22
_ANSWERS = "tersor.attention.answers"


@dataclass
class _Answers:
    tensor: ir.TensorProtocol
    given: dict[Hashable, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Counter:
    """Each element is `start` plus its position along `axis`, counted from the right (-1 is the last)."""

    axis: int
    start: Polynomial


def future_hidden(condition: ir.Value) -> Polynomial | None:
    """The offset d where a condition [.., queries, keys] says j <= i + d of positions i and j, else None."""
    return _hidden(condition, True, _REACH)


def leaves_a_key(condition: ir.Value, hides: bool) -> bool:
    """Whether a condition that hides keys where it equals `hides` leaves each query one: the first, as no past does."""
    if is_constant(condition):
        return once(condition, ("leaves", hides), lambda array: _any_in_each_row(array != hides))
    offset = _hidden(condition, not hides, _REACH)
    # names are sizes, which are not negative; what else a formula is made of may be
    return offset is not None and all(
        factor > 0 and all(isinstance(atom, str) for atom in names) for names, factor in offset.terms.items()
    )


def once(value: ir.Value, question: Hashable, answer: Callable[[Array], bool]) -> bool:
    """What holds for a constant, read once for each question as layers share masks; False for what is not read.

    Answers live with the value, and no longer than the constant in it.
    """
    tensor = tensor_of(value)
    if tensor is None or tensor.size > _READ:
        return False
    known = value.meta.get(_ANSWERS)
    if not isinstance(known, _Answers) or known.tensor is not tensor:
        known = value.meta[_ANSWERS] = _Answers(tensor)
    if question not in known.given:
        known.given[question] = answer(tensor.numpy())
    return known.given[question]


def counter(value: ir.Value | None, depth: int = _REACH) -> Counter | None:
    """What a value counts, None where it does not count."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.domain or depth == 0:
        return None
    if node.op_type == "Range":
        start, step = _number(node.inputs[0]), _number(node.inputs[2])
        return Counter(-1, start) if start is not None and step == Polynomial.of(1) else None
    if node.op_type == "Cast":
        kind = ir.DataType(node.attributes["to"].as_int())
        return counter(node.inputs[0], depth - 1) if kind in _COUNTED else None
    if node.op_type in ("Add", "Sub"):
        return _shifted(node, depth)
    if rearranges(node) or node.op_type == "Expand":
        return _moved(node, depth)
    return None


def _any_in_each_row(seen: Array) -> bool:
    return seen.ndim > 0 and bool(np.all(np.any(seen, axis=-1)))


def triangle(array: Array, offset: int, low: float) -> bool:
    """Whether every matrix of an array is a mask that hides exactly j > i + offset, as a truth value or by addition."""
    if array.ndim < 2:
        return False
    seen = np.tri(array.shape[-2], array.shape[-1], offset, dtype=bool)
    if array.dtype == bool:
        return bool((array == seen).all())
    return bool(((array == 0) == seen).all() and (array[~np.broadcast_to(seen, array.shape)] <= low).all())


def _hidden(condition: ir.Value, holds: bool, depth: int) -> Polynomial | None:
    node = condition.producer()
    if node is None or node.domain or depth == 0:
        return None
    if node.op_type == "Not" and node.inputs[0] is not None:
        return _hidden(node.inputs[0], not holds, depth - 1)
    if node.op_type == "Cast" and node.inputs[0] is not None and ir.DataType.BOOL in _types(node):
        return _hidden(node.inputs[0], holds, depth - 1)
    if node.op_type in ("Unsqueeze", "Expand") and node.inputs[0] is not None and _keeps_last_two(node):
        return _hidden(node.inputs[0], holds, depth - 1)
    if node.op_type == "Trilu":
        return _trilu(node, holds)
    if node.op_type not in _COMPARES:
        return None
    swapped, strict = _COMPARES[node.op_type]
    left, right = (counter(value) for value in (node.inputs[::-1] if swapped else node.inputs))
    if left is None or right is None:
        return None
    if holds and (left.axis, right.axis) == (-1, -2):
        # j + left <= i + right - strict
        return right.start - left.start - strict
    if not holds and (left.axis, right.axis) == (-2, -1):
        # not (i + left <= j + right - strict), that is j < i + left - right + strict
        return left.start - right.start + strict - 1
    return None


def _types(node: ir.Node) -> tuple[ir.DataType | None, ir.DataType]:
    """What a Cast reads and makes."""
    return (None if node.inputs[0] is None else node.inputs[0].dtype), ir.DataType(node.attributes["to"].as_int())


def _trilu(node: ir.Node, holds: bool) -> Polynomial | None:
    """The lower triangle of ones, or what the upper one leaves out."""
    upper = attribute(node, "upper", 1)
    shift = Polynomial.of(0) if len(node.inputs) < 2 or node.inputs[1] is None else _number(node.inputs[1])
    if shift is None or bool(upper) is holds or not _ones(node.inputs[0]):
        return None
    return shift - 1 if upper else shift


def _ones(value: ir.Value | None) -> bool:
    node = None if value is None else value.producer()
    if is_op(node, "ConstantOfShape"):
        fill = node.attributes.get("value")
        return fill is not None and bool(np.all(fill.as_tensor().numpy() == 1))
    if is_op(node, "Expand"):
        return scalar_of(node.inputs[0]) == 1.0
    array = constant_of(value)
    return array is not None and array.size > 0 and bool(np.all(array == 1))


def _keeps_last_two(node: ir.Node) -> bool:
    before = whole(node.inputs[0]) if node.inputs[0] is not None else None
    behind = whole(node.outputs[0])
    return (
        before is not None
        and behind is not None
        and len(before) >= 2
        and len(behind) >= len(before)
        and ([axis and axis[0].size for axis in before[-2:]] == [axis and axis[0].size for axis in behind[-2:]])
    )


def _shifted(node: ir.Node, depth: int) -> Counter | None:
    left, right = node.inputs
    for counted, other in ((left, right), (right, left)):
        found, number = counter(counted, depth - 1), _number(other)
        if found is not None and number is not None:
            if node.op_type == "Add":
                return Counter(found.axis, found.start + number)
            return Counter(found.axis, found.start - number) if counted is left else None
    return None


def _moved(node: ir.Node, depth: int) -> Counter | None:
    found = counter(node.inputs[0], depth - 1)
    axes = None if found is None or node.inputs[0] is None else whole(node.inputs[0])
    if found is None or axes is None or not axes[found.axis]:
        return None
    moved = after(node, axes)
    if moved is None:
        return None
    places = [index - len(moved) for index, axis in enumerate(moved) if axis == axes[found.axis]]
    return Counter(places[0], found.start) if len(places) == 1 else None


def _number(value: ir.Value | None) -> Polynomial | None:
    """One number that is known, perhaps as a formula."""
    found = content(value)
    if found is None or len(found) != 1 or found[0] is None:
        array = scalar_of(value) if value is not None else None
        return Polynomial.of(int(array)) if array is not None and float(array).is_integer() else None
    return Polynomial.of(found[0]) if isinstance(found[0], int) else Polynomial.parse(found[0])
