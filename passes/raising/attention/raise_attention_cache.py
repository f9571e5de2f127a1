"""Let an Attention append new keys and values to those of the past by itself.

    before   Concat(past_key, k) --> Attention(q, _, _) <-- Concat(past_value, v)       both also graph outputs
    after    (y, present_key, present_value) = Attention(q, k, v, mask, past_key, past_value)

Exact: the op's own definition of its cache, [batch, heads, past + new, size]. Left alone: a causal Attention, whose
rule counts from the first key without a past and from the first new one with it, joins of more than two parts or along
another axis, and joined keys that something else reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Attribute, Tape, attribute, is_op, replace, stand_in


@dataclass(frozen=True)
class Joined:
    """Keys or values of the past and new ones, and the two as one."""

    past: ir.Value
    new: ir.Value
    whole: ir.Value


@dataclass(frozen=True, kw_only=True)
class Cache(Match):
    """The joined keys and values."""

    key: Joined
    value: Joined


@dataclass(frozen=True, kw_only=True)
class RaiseAttentionCache(Rewrite):
    """Attention over joined keys and values -> Attention with a past"""

    name: ClassVar[str] = "raise-attention-cache"
    anchors: ClassVar[tuple[str, ...]] = ("Attention",)

    def match(self, node: ir.Node) -> Match | Miss:
        if "q_num_heads" in node.attributes or any(value is not None for value in node.inputs[4:]):
            return Miss("form", node.name or "", "an Attention over split heads that has no past yet", far=True)
        if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            return Miss("outputs", node.name or "", "one output, the attended values")
        key, value = (_joined(node, index) for index in (1, 2))
        if isinstance(key, Miss):
            return key
        if isinstance(value, Miss):
            return value
        if _sequence(key.past) != _sequence(value.past):
            return Miss("past", f"{key.past.name}, {value.past.name}", "as many keys as values of the past")
        if attribute(node, "is_causal", 0):
            return Miss("causal", node.name or "", "a mask of its own, not is_causal over past and new keys")
        return Cache(node=node, key=key, value=value)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Cache)
        node, tape = found.node, Tape()
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        inputs = [node.inputs[0], found.key.new, found.value.new, mask, found.key.past, found.value.past]
        attributes: dict[str, Attribute] = {**node.attributes}
        made = tape.node("Attention", inputs, attributes, outputs=3)
        parts = [item.whole.producer() for item in (found.key, found.value)]
        replace(
            tape, [node.outputs[0]], [made.outputs[0]], matched=[node, *(part for part in parts if part is not None)]
        )
        for item, present in zip((found.key, found.value), made.outputs[1:], strict=True):
            if item.whole.is_graph_output():
                stand_in(item.whole, present)
                replace(Tape(), [item.whole], [present])


def _joined(node: ir.Node, index: int) -> Joined | Miss:
    """The past and the new part of an operand [batch, heads, past + new, size]."""
    value = node.inputs[index]
    what = ("keys", "values")[index - 1]
    join = None if value is None else value.producer()
    if value is None or not is_op(join, "Concat") or len(join.inputs) != 2 or join.graph is not node.graph:
        none = not any(is_op(side.producer(), "Concat") for side in node.inputs[1:3] if side is not None)
        need = f"{what} as Concat(past, new) in the same graph"
        return Miss("join", value.name or "" if value else "", need, far=none)
    past, new = join.inputs
    dims, before = dimensions(new), dimensions(past)
    if past is None or new is None or dims is None or before is None or len(dims) != 4 or len(before) != 4:
        return Miss("rank", value.name or "", f"{what} of shape [batch, heads, sequence, size]")
    if attribute(join, "axis", 0) not in (2, -2):
        return Miss("axis", f"axis {attribute(join, 'axis', 0)}", f"{what} joined along the sequence")
    if len(value.uses()) != 1:
        return Miss("readers", value.name or "", f"joined {what} that this Attention alone reads")
    return Joined(past, new, value)


def _sequence(value: ir.Value) -> object:
    """What is known about the length of a past; a value of its own where that is nothing."""
    dims = dimensions(value)
    return value if dims is None or dims[2] is None else dims[2]
