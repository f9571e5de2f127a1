"""Read a transpose of two axes that was spelled with reshapes as the one transpose it is.

    before   x: [.., m, n] --> Reshape [-1, m, n] --> Transpose(0, 2, 1) --> Reshape [.., n, m] --> y
    after    x --> Transpose(.., last two swapped) --> y

Exact. Left alone where the sizes are not provably those of `x`, or something else reads the values between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.content import content, dimensions
from ...ir.level import Level
from ..base import Match, Miss, Rewrite
from ..edit import Tape, is_op, only_reader, replace


@dataclass(frozen=True, kw_only=True)
class Swap(Match):
    """The value whose last two axes are swapped, its rank, and the three nodes that do it."""

    data: ir.Value
    rank: int
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True, kw_only=True)
class CollapseReshapes(Rewrite):
    """Reshape, Transpose, Reshape -> Transpose"""

    name: ClassVar[str] = "collapse-reshapes"
    level: ClassVar[Level] = Level.IMPORTED
    anchors: ClassVar[tuple[str, ...]] = ("Transpose",)

    def match(self, node: ir.Node) -> Match | Miss:
        perm = node.attributes.get("perm")
        if perm is None or tuple(perm.as_ints()) != (0, 2, 1):
            return Miss("perm", str(perm and perm.as_ints()), "(0, 2, 1)")
        merge = node.inputs[0].producer() if node.inputs[0] is not None else None
        if not is_op(merge, "Reshape") or merge.inputs[0] is None:
            return Miss(
                "merge", node.inputs[0].name or "" if node.inputs[0] else "", "a Reshape that merges leading axes"
            )
        split = only_reader(node.outputs[0])
        if not is_op(split, "Reshape"):
            return Miss("split", node.outputs[0].name or "", "one Reshape that splits the leading axis again")
        data = merge.inputs[0]
        dims, merged, target = dimensions(data), content(merge.inputs[1]), content(split.inputs[1])
        if dims is None or merged is None or target is None or len(dims) < 2:
            return Miss("sizes", data.name or "", "known sizes")
        *lead, rows, columns = dims
        if merged[1:] != [rows, columns] or target != [*lead, columns, rows] or None in dims:
            return Miss("sizes", f"{dims} to {merged} to {target}", "the sizes of the input with the last two swapped")
        return Swap(node=node, data=data, rank=len(dims), nodes=(split, node, merge))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Swap)
        tape = Tape()
        axes = range(found.rank)
        swapped = tape("Transpose", found.data, perm=[*axes[:-2], axes[-1], axes[-2]])
        replace(tape, found.nodes[0].outputs, [swapped], matched=found.nodes)
