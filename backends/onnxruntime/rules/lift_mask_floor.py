"""Keep what masked scores are at above the lowest float, which ONNX Runtime's Attention takes for minus infinity.

    before   Where(keep, 0, -3.4e38) --> [Add, Expand, Reshape ..] --> mask of Attention
    after    Where(keep, 0, -1e30)   --> ..                                         also Where(keep, mask, -3.4e38)

Exact: next to 1e30 a score rounds away as it does next to 3.4e38, so that masked keys weigh nothing, and a row of
masked keys alone is their mean; the kernel (1.31) would make such a row zero where the mask holds the lowest float.
Left alone: masks that something else reads too, and masks with several floors, whose order would be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Tape, is_op, replace, scalar_of

#: Far below any score, and far above the lowest float32.
FLOOR = float(np.float32(-1e30))

_PASSING = frozenset({"Add", "Cast", "Concat", "Expand", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
#: Steps from a mask's Where to the Attention.
_REACH = 8


@dataclass(frozen=True, kw_only=True)
class Floor(Match):
    """Each Where of the masks, and which of its two choices is the floor."""

    places: tuple[tuple[ir.Node, int], ...]


@dataclass(frozen=True, kw_only=True)
class LiftMaskFloor(Rewrite):
    """Masks of -3.4e38 -> masks of -1e30"""

    name: ClassVar[str] = "onnxruntime-lift-mask-floor"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("Where",)

    def match(self, node: ir.Node) -> Match | Miss:
        if node.outputs[0].dtype is not ir.DataType.FLOAT:
            return Miss("dtype", str(node.outputs[0].dtype), "float32")
        own = _floors(node)
        if len(own) != 1 or own[0][1] == FLOOR:
            return Miss("floor", node.name or "", f"one choice that is a number below {FLOOR:g}")
        masks = _masks(node.outputs[0], _REACH)
        if masks is None:
            return Miss("readers", node.outputs[0].name or "", "a value that is the mask of Attention and nothing else")
        places: dict[tuple[ir.Node, int], None] = {}
        for other in dict.fromkeys(part for mask in masks for part in _parts(mask)):
            for index, number in _floors(other):
                if number != own[0][1] or _masks(other.outputs[0], _REACH) is None:
                    return Miss("floors", f"{number:g} at {other.name}", f"no other floor than {own[0][1]:g} in a mask")
                places[other, index] = None
        return Floor(node=node, places=tuple(places))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Floor)
        for node, index in found.places:
            tape, inputs = Tape(), list(node.inputs)
            inputs[index] = tape.constant(FLOOR, "floor")
            replace(tape, node.outputs, [tape("Where", *inputs)])


def _floors(node: ir.Node) -> list[tuple[int, float]]:
    """The choices of a Where that are numbers as low as the floor."""
    choices = [(index, scalar_of(node.inputs[index])) for index in (1, 2)]
    return [(index, number) for index, number in choices if number is not None and -np.inf < number <= FLOOR]


def _masks(value: ir.Value, depth: int) -> list[ir.Value] | None:
    """The masks of ai.onnx Attention that all that is made of a value ends as; None where any of it ends elsewhere."""
    if value.is_graph_output() or depth == 0 or not value.uses():
        return None
    found: list[ir.Value] = []
    for node, index in value.uses():
        if is_op(node, "Attention") and index == 3:
            found.append(value)
        elif is_op(node, *_PASSING) or (is_op(node, "Where") and index > 0):
            ends = _masks(node.outputs[0], depth - 1)
            if ends is None:
                return None
            found += ends
        else:
            return None
    return found


def _parts(mask: ir.Value) -> list[ir.Node]:
    """The Where nodes whose choices a mask may hold."""
    found: list[ir.Node] = []
    seen: dict[ir.Node | None, None] = {mask.producer(): None}
    for _ in range(_REACH):
        for node in list(seen):
            if is_op(node, "Where") and node not in found:
                found.append(node)
            if is_op(node, "Where", *_PASSING):
                seen.update(dict.fromkeys(value.producer() for value in node.inputs if value is not None))
    return found
