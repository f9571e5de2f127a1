"""Keep what masked scores are at above the lowest float, which ONNX Runtime's Attention takes for minus infinity.

    before   Where(keep, 0, -3.4e38) --> [Add, Expand, Reshape ..] --> mask of Attention
    after    Where(keep, 0, -1e30)   --> ..

Exact: next to 1e30 a score rounds away as it does next to 3.4e38, so that masked keys weigh nothing, and a row of
masked keys alone is their mean; the kernel (1.31) would make such a row zero where the mask holds the lowest float.
Left alone: masks that something else reads too.
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
    """Which of the two choices of the Where is the floor."""

    index: int


@dataclass(frozen=True, kw_only=True)
class LiftMaskFloor(Rewrite):
    """Masks of -3.4e38 -> masks of -1e30"""

    name: ClassVar[str] = "onnxruntime-lift-mask-floor"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("Where",)

    def match(self, node: ir.Node) -> Match | Miss:
        if node.outputs[0].dtype is not ir.DataType.FLOAT:
            return Miss("dtype", str(node.outputs[0].dtype), "float32")
        choices = [(index, scalar_of(node.inputs[index])) for index in (1, 2)]
        low = [index for index, number in choices if number is not None and -np.inf < number < FLOOR]
        if len(low) != 1:
            return Miss("floor", node.name or "", f"one choice that is a number below {FLOOR:g}")
        if not _masks(node.outputs[0], _REACH):
            return Miss("readers", node.outputs[0].name or "", "a value that is the mask of Attention and nothing else")
        return Floor(node=node, index=low[0])

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Floor)
        node, tape = found.node, Tape()
        inputs = list(node.inputs)
        inputs[found.index] = tape.constant(FLOOR, "floor")
        replace(tape, node.outputs, [tape("Where", *inputs)])


def _masks(value: ir.Value, depth: int) -> bool:
    """Whether all that is made of a value ends as the mask of an ai.onnx Attention."""
    if value.is_graph_output() or depth == 0 or not value.uses():
        return False
    return all(
        (is_op(use.node, "Attention") and use.idx == 3)
        or (is_op(use.node, *_PASSING) and _masks(use.node.outputs[0], depth - 1))
        for use in value.uses()
    )
