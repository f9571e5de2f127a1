"""Drop the side of an And that is provably true everywhere.

    before   And(i >= 0, mask)      i counts from 0             after   mask

Exact. Where the dropped side made the result larger by broadcasting, every reader must broadcast by itself: an
elementwise op whose other operand has that size already, or the mask of an Attention. Left alone otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.content import Element, dimensions
from ...ir.level import Level
from ..base import Match, Miss, Rewrite
from ..broadcast import narrowed, restate_shapes
from ..edit import Tape, constant_of, is_op, replace, scalar_of

_LAYOUT = frozenset({"Unsqueeze", "Squeeze", "Reshape", "Expand", "Cast", "Transpose", "Identity"})
_WIDE = frozenset({ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE})


@dataclass(frozen=True, kw_only=True)
class Survivor(Match):
    """The side of the And that stays."""

    kept: ir.Value
    narrower: tuple[ir.Value, ...]


@dataclass(frozen=True, kw_only=True)
class DropTrueMasks(Rewrite):
    """And(true, mask) -> mask"""

    name: ClassVar[str] = "drop-true-masks"
    level: ClassVar[Level] = Level.IMPORTED
    anchors: ClassVar[tuple[str, ...]] = ("And",)

    def match(self, node: ir.Node) -> Match | Miss:
        left, right = node.inputs
        assert left is not None and right is not None
        if not (_always_true(left) or _always_true(right)):
            return Miss("true", f"{left.name}, {right.name}", "a side that is true everywhere", far=True)
        kept = right if _always_true(left) else left
        wide, narrow = dimensions(node.outputs[0]), dimensions(kept)
        if wide is None or narrow is None:
            return Miss("shape", node.outputs[0].name or "", "known ranks")
        grown = _grown(wide, narrow)
        narrower = narrowed(node.outputs[0], grown) if grown else ()
        if narrower is None:
            return Miss("broadcast", node.outputs[0].name or "", f"readers that broadcast {narrow} to {wide}")
        return Survivor(node=node, kept=kept, narrower=narrower)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Survivor)
        tape = Tape()
        output = found.node.outputs[0]
        kept = tape("Identity", found.kept) if output.is_graph_output() else found.kept
        replace(tape, [output], [kept])
        restate_shapes(found.narrower)


def _always_true(value: ir.Value) -> bool:
    array = constant_of(value)
    if array is not None:
        return array.dtype == bool and bool(array.all())
    node = value.producer()
    if node is None or node.domain:
        return False
    inputs = [item for item in node.inputs if item is not None]
    if node.op_type in _LAYOUT:
        return _always_true(inputs[0])
    if node.op_type == "And":
        return all(map(_always_true, inputs))
    if node.op_type == "GreaterOrEqual":
        bound = scalar_of(inputs[1])
        return bound is not None and bound <= 0 and _counts_up(inputs[0])
    return False


def _counts_up(value: ir.Value) -> bool:
    """Whether every element is a Range from at least zero upwards."""
    node = value.producer()
    while is_op(node, *_LAYOUT) and node.inputs[0] is not None and _keeps_order(node):
        node = node.inputs[0].producer()
    if not is_op(node, "Range"):
        return False
    start, step = scalar_of(node.inputs[0]), scalar_of(node.inputs[2])
    return start is not None and step is not None and start >= 0 and step > 0


def _keeps_order(node: ir.Node) -> bool:
    """A cast to a narrow integer would wrap around into the negative numbers."""
    return node.op_type != "Cast" or node.attributes["to"].as_int() in _WIDE


def _grown(wide: Sequence[Element], narrow: Sequence[Element]) -> list[int]:
    """Axes, negative, that the broadcast gives, or may give where a size is unknown."""
    padded = [*([None] * (len(wide) - len(narrow))), *narrow]
    return [i - len(wide) for i, (dim, own) in enumerate(zip(wide, padded, strict=True)) if dim != own or own is None]
