"""Give the tables of a RotaryEmbedding the batch that ONNX Runtime's kernel insists on.

    before   RotaryEmbedding(x, cos: [1, sequence, size], sin)
    after    RotaryEmbedding(x, Expand(cos, [batch, 1, 1]), Expand(sin, [batch, 1, 1]))

Exact: torch's exporter leaves tables that are the same for every row of a batch with a batch of one, and lets the op
broadcast them; the kernel (1.31) refuses that. Left alone: tables that positions look up, and a batch of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.content import dimensions
from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Attribute, Tape, replace


@dataclass(frozen=True, kw_only=True)
class ExpandRotaryCache(Rewrite):
    """One table for each row of the batch"""

    name: ClassVar[str] = "onnxruntime-expand-rotary-cache"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("RotaryEmbedding",)

    def match(self, node: ir.Node) -> Match | Miss:
        if len(node.inputs) > 3 and node.inputs[3] is not None:
            return Miss("positions", node.inputs[3].name or "", "tables of their own for each position of x")
        x, cos, sin = (dimensions(value) for value in node.inputs[:3])
        if x is None or cos is None or sin is None or len(cos) != 3 or len(sin) != 3:
            return Miss("rank", node.name or "", "tables of shape [batch, sequence, size]")
        if x[0] == 1 or cos[0] != 1 or sin[0] != 1:
            return Miss("batch", f"x {x[0]}, cos {cos[0]}, sin {sin[0]}", "tables with a batch of one for a larger one")
        return Match(node=node)

    def rewrite(self, found: Match) -> None:
        node, tape = found.node, Tape()
        rows = tape("Shape", node.inputs[0], start=0, end=1)
        size = tape("Concat", rows, tape.constant([1, 1], "ones"), axis=0)
        tables = [tape("Expand", value, size) for value in node.inputs[1:3]]
        attributes: dict[str, Attribute] = {**node.attributes}
        made = tape.node("RotaryEmbedding", [node.inputs[0], *tables], attributes)
        replace(tape, node.outputs, made.outputs)
