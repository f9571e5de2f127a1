"""Let a RotaryEmbedding take heads that lie side by side, as the Attention behind it does.

    before   x: [batch, sequence, heads, size] --> Transpose --> RotaryEmbedding
    after    RotaryEmbedding(x as [batch, sequence, heads * size]){num_heads} --> Reshape --> Transpose

Exact: the 3-D form of ai.onnx RotaryEmbedding is defined by this rearrangement. The Transpose behind meets the one that
splits heads in front of an Attention and goes with it. Left alone where heads do not come from a transposition that
this rotation alone reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.arrangement import Arrangement, arrange
from ....ir.atoms import size_of
from ....ir.layout import views, whole
from ...arrange import arranged
from ...base import Match, Miss, Rewrite
from ...edit import Attribute, Tape, is_op, replace


@dataclass(frozen=True, kw_only=True)
class Joined(Match):
    """How [batch, sequence, heads * size] is made, and the number and size of the heads."""

    plan: Arrangement
    heads: int
    size: int


@dataclass(frozen=True, kw_only=True)
class RaiseRotaryHeads(Rewrite):
    """RotaryEmbedding over split heads -> RotaryEmbedding that splits them"""

    name: ClassVar[str] = "raise-rotary-heads"
    anchors: ClassVar[tuple[str, ...]] = ("RotaryEmbedding",)

    def match(self, node: ir.Node) -> Match | Miss:
        x = node.inputs[0]
        own = None if x is None or node.domain else whole(x)
        if x is None or own is None or len(own) != 4:
            need, joined = "an ai.onnx RotaryEmbedding over [batch, heads, sequence, size]", own is not None
            return Miss("form", node.name or "", need, far=joined)
        heads, size = size_of(own[1]).constant, size_of(own[3]).constant
        if heads is None or size is None:
            return Miss("heads", f"{size_of(own[1])} of size {size_of(own[3])}", "a known number and size of heads")
        if not is_op(x.producer(), "Transpose") or len(x.uses()) != 1 or x.is_graph_output():
            return Miss("transpose", x.name or "", "heads behind a Transpose that nothing else reads")
        plan = _side_by_side(x)
        if plan is None:
            return Miss("layout", x.name or "", "heads that lie side by side before the Transpose")
        return Joined(node=node, plan=plan, heads=heads, size=size)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Joined)
        node, tape = found.node, Tape()
        x = arranged(tape, found.plan)
        attributes: dict[str, Attribute] = {**node.attributes, "num_heads": found.heads}
        turned = tape.node("RotaryEmbedding", [x, *node.inputs[1:]], attributes).outputs[0]
        turned.type, turned.shape = x.type or node.outputs[0].type, x.shape
        split = tape("Reshape", turned, tape.constant([0, 0, found.heads, found.size], "shape"))
        split.type = turned.type
        if x.shape is not None:
            split.shape = ir.Shape([x.shape[0], x.shape[1], found.heads, found.size])
        replace(tape, node.outputs, [tape("Transpose", split, perm=[0, 2, 1, 3])])


def _side_by_side(x: ir.Value) -> Arrangement | None:
    """[batch, sequence, heads * size] from what x was transposed from, by a Reshape at most."""
    best: Arrangement | None = None
    for view in views(x):
        batch, heads, sequence, size = view.axes
        root = whole(view.root)
        plan = None if root is None else arrange(view.root, root, [batch, sequence, (*heads, *size)])
        if plan is not None and all(step.perm is None for step in plan.steps):
            best = plan
    return best
