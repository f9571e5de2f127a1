"""Values that shrink along axes because all along them is the same, and readers that broadcast them back.

before   Add(words [batch, sequence, 384], row [batch, sequence, 384])
after    Add(words [batch, sequence, 384], row [384])
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir

from ..ir.content import Element, dimensions
from .edit import is_op

#: Elementwise ops, all of whose operands broadcast.
ELEMENTWISE = (
    *("Add", "Sub", "Mul", "Div", "Pow", "Sum", "Max", "Min", "Mean", "Where", "Cast", "Identity"),
    *("And", "Or", "Not"),
)
#: Sums of sums of sums are followed no further.
_MOST = 8
#: The input of Attention whose axes but the last broadcast.
_MASK = 3


def narrowed(value: ir.Value, axes: Sequence[int]) -> tuple[ir.Value, ...] | None:
    """The results that shrink, in the order they are made, when `value` loses or shrinks to one along axes.

    Axes are negative. None where that would change anything else: an output, a reader that does not broadcast, or a
    size that is not known. Empty where in each reader another operand has the axes.
    """
    if not axes:
        return None if value.is_graph_output() else ()
    narrow = [value]
    done = 0
    while done < len(narrow):
        more = _narrower(narrow[done], axes, narrow)
        if more is None or len(narrow) > _MOST:
            return None
        narrow += more
        # what was there for one reader may be narrower by now
        done = 0 if more else done + 1
    return tuple(narrow[1:])


def restate_shapes(values: Iterable[ir.Value]) -> None:
    """State the shapes of elementwise results as they follow from their operands."""
    for value in values:
        node = value.producer()
        assert node is not None
        dims = _broadcast([dimensions(item) for item in node.inputs])
        value.shape = None if dims is None else ir.Shape(dims)


def _narrower(value: ir.Value, axes: Sequence[int], narrow: Sequence[ir.Value]) -> list[ir.Value] | None:
    """What else becomes narrower of what reads a value; None where that may not be."""
    dims = dimensions(value)
    if dims is None or value.is_graph_output() or any(dims[axis] is None for axis in axes):
        return None
    found: list[ir.Value] = []
    for node, index in value.uses():
        if is_op(node, "Attention") and index == _MASK and -1 not in axes:
            continue
        if not is_op(node, *ELEMENTWISE):
            return None
        result = node.outputs[0]
        others = [dimensions(item) for item in node.inputs if item not in narrow]
        if result in (*narrow, *found) or all(any(_has(other, axis, dims[axis]) for other in others) for axis in axes):
            continue
        if len(dimensions(result) or ()) != len(dims):
            return None
        found.append(result)
    return found


def _has(dims: Sequence[Element] | None, axis: int, size: Element) -> bool:
    """Whether an operand alone makes the result as large along an axis as one of this size would."""
    return dims is not None and len(dims) >= -axis and size in (1, dims[axis])


def _broadcast(shapes: Sequence[Sequence[Element] | None]) -> list[Element] | None:
    """The shape of an elementwise result, None where a rank is unknown."""
    known = [dims for dims in shapes if dims is not None]
    if len(known) != len(shapes):
        return None
    rank = max(map(len, known))
    columns = zip(*([*([1] * (rank - len(dims))), *dims] for dims in known), strict=True)
    wide = [{size for size in column if size != 1} for column in columns]
    return [1 if not sizes else sizes.pop() if len(sizes) == 1 else None for sizes in wide]
