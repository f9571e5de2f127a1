"""Give the masks that stay with ai.onnx Attention the number of rows that ONNX Runtime's kernel insists on.

    before   Attention(q, k, v, mask: [batch, 1, 1, keys])
    after    Attention(q, k, v, Expand(mask, [1, 1, queries, 1]))

Exact: the ONNX specification broadcasts the mask; the CPU kernel of ONNX Runtime up to 1.31 wants as many mask rows as
queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.content import dimensions
from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Tape, replace


@dataclass(frozen=True, kw_only=True)
class ExpandAttentionMask(Rewrite):
    """One mask row for each query"""

    name: ClassVar[str] = "onnxruntime-expand-attention-mask"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("Attention",)

    def match(self, node: ir.Node) -> Match | Miss:
        mask = node.inputs[3] if len(node.inputs) > 3 and not node.domain else None
        dims = dimensions(mask)
        if mask is None or dims is None or len(dims) < 2:
            return Miss("mask", mask.name or "" if mask else "none", "a mask of known rank")
        if dims[-2] != 1 or _queries(node) == 1:
            return Miss("rows", str(dims[-2]), "a mask with one row for all queries")
        return Match(node=node)

    def rewrite(self, found: Match) -> None:
        node, tape = found.node, Tape()
        query, mask = node.inputs[0], node.inputs[3]
        axis = 1 if "q_num_heads" in node.attributes else 2
        rows = tape("Shape", query, start=axis, end=axis + 1)
        one = tape.constant([1], "one")
        wide = tape("Expand", mask, tape("Concat", rows, one, axis=0))
        new = tape.node(
            "Attention",
            [*node.inputs[:3], wide, *node.inputs[4:]],
            dict(node.attributes.items()),
            outputs=len(node.outputs),
        )
        replace(tape, node.outputs, new.outputs)


def _queries(node: ir.Node) -> int | str | None:
    dims = dimensions(node.inputs[0])
    return None if dims is None else dims[1 if "q_num_heads" in node.attributes else 2]
