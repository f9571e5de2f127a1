"""Let an Attention split and join its heads by itself.

    before   q: [batch, sequence, heads * size] --> Reshape --> Transpose --> Attention --> Transpose --> Reshape
    after    Attention(q, k, v, mask){q_num_heads, kv_num_heads}: [batch, sequence, heads * size]

Exact: the 3-D form of ai.onnx Attention is defined by these rearrangements; a cache keeps its heads apart in both
forms. Left alone where heads are split any other way, or the attended values are read before they are joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.arrangement import Arrangement, arrange
from ....ir.atoms import Axis, size_of
from ....ir.layout import after, rearranges, views, whole
from ...arrange import arranged
from ...base import Match, Miss, Rewrite
from ...edit import Attribute, Tape, only_reader, replace


@dataclass(frozen=True, kw_only=True)
class Heads(Match):
    """Q, K and V before their heads were split, how many heads each has, and the joined output."""

    inputs: tuple[Arrangement, Arrangement, Arrangement]
    query_heads: int
    key_heads: int
    output: ir.Value


@dataclass(frozen=True, kw_only=True)
class RaiseAttentionHeads(Rewrite):
    """Attention over split heads -> Attention that splits them"""

    name: ClassVar[str] = "raise-attention-heads"
    anchors: ClassVar[tuple[str, ...]] = ("Attention",)

    def match(self, node: ir.Node) -> Match | Miss:
        if node.domain or "q_num_heads" in node.attributes:
            return Miss("form", node.name or "", "an ai.onnx Attention over split heads", far=True)
        split = [_before_split(value) for value in node.inputs[:3]]
        if any(item is None for item in split):
            stopped = (value for value, item in zip(node.inputs, split, strict=False) if item is None)
            name = next((value.name for value in stopped if value is not None), "")
            return Miss("split", name or "", "Transpose(Reshape(x, [0, 0, heads, size]), [0, 2, 1, 3])")
        (query, query_heads), (key, key_heads), (value, value_heads) = (item for item in split if item is not None)
        if key_heads != value_heads or query_heads % key_heads:
            return Miss("heads", f"{query_heads}, {key_heads}, {value_heads}", "query heads a multiple of key heads")
        output = _after_join(node.outputs[0])
        if output is None:
            return Miss("join", node.outputs[0].name or "", "Reshape(Transpose(y, [0, 2, 1, 3]), [0, 0, -1]) alone")
        return Heads(node=node, inputs=(query, key, value), query_heads=query_heads, key_heads=key_heads, output=output)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Heads)
        tape = Tape()
        node, heads = found.node, {"q_num_heads": found.query_heads, "kv_num_heads": found.key_heads}
        attributes: dict[str, Attribute] = {**node.attributes, **heads}
        inputs = [*(arranged(tape, plan) for plan in found.inputs), *node.inputs[3:]]
        joined = tape.node("Attention", inputs, attributes, outputs=len(node.outputs))
        replace(tape, [found.output, *node.outputs[1:]], joined.outputs, matched=[node])


def _before_split(value: ir.Value | None) -> tuple[Arrangement, int] | None:
    """x: [batch, sequence, heads * size], perhaps by a Reshape, that value has as [batch, heads, sequence, size]."""
    best: tuple[Arrangement, int] | None = None
    for view in () if value is None else views(value):
        root = whole(view.root)
        if root is None or len(view.axes) != 4 or view.root is value:
            continue
        batch, heads, sequence, size = view.axes
        count = size_of(heads).constant
        plan = arrange(view.root, root, [batch, sequence, (*heads, *size)])
        if plan is None or count is None or any(step.perm is not None for step in plan.steps):
            continue
        if best is None or len(plan.steps) <= len(best[0].steps):
            best = plan, count
    return best


def _after_join(value: ir.Value) -> ir.Value | None:
    """The value in which the heads lie side by side again."""
    axes = whole(value)
    if axes is None:
        return None
    joined = (axes[0], axes[2], (*axes[1], *axes[3]))
    now: Sequence[Axis] | None = axes
    while now is not None:
        reader = only_reader(value)
        if reader is None or not rearranges(reader):
            return None
        now, value = after(reader, now), reader.outputs[0]
        if now is not None and tuple(now) == joined:
            return value
    return None
