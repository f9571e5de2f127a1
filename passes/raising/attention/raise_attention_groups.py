"""Let an Attention share keys and values among groups of queries by itself.

    before   k: [batch, 2, keys, size] --> Unsqueeze --> Expand [.., 2, 4, ..] --> Reshape [.., 8, ..] --> Attention
    after    Attention(q, k, v)       q: [batch, 8, queries, size]   k, v: [batch, 2, keys, size]

Exact: Ainslie et al., GQA, 2023, section 2.2, query head h reads key head h // (query heads / key heads); one key head
for all is Shazeer, Fast Transformer Decoding, 2019. Copies are recognized however they were made (`ir.layout`): Expand,
or Tile with the copies of a head side by side. Left alone: copies in another order, keys and values that come in
different numbers, a past or present whose heads are counted as they are, and Attention that splits heads by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.arrangement import Arrangement, arrange
from ....ir.atoms import size_of
from ....ir.content import dimensions
from ....ir.layout import views, whole
from ...arrange import arranged
from ...base import Match, Miss, Rewrite
from ...edit import Attribute, Tape, replace


@dataclass(frozen=True)
class Shared:
    """Keys or values without their copies, and the number of their heads."""

    plan: Arrangement
    heads: int


@dataclass(frozen=True, kw_only=True)
class Groups(Match):
    """Keys and values as they were before they were repeated."""

    key: Shared
    value: Shared


@dataclass(frozen=True, kw_only=True)
class RaiseAttentionGroups(Rewrite):
    """Attention over repeated keys and values -> Attention over groups"""

    name: ClassVar[str] = "raise-attention-groups"
    anchors: ClassVar[tuple[str, ...]] = ("Attention",)

    def match(self, node: ir.Node) -> Match | Miss:
        if "q_num_heads" in node.attributes or any(value is not None for value in node.inputs[4:]):
            return Miss("form", node.name or "", "an ai.onnx Attention over split heads without a past", far=True)
        if any(value.uses() or value.is_graph_output() for value in node.outputs[1:3]):
            return Miss("outputs", node.name or "", "no present keys and values, whose heads are counted")
        query, key, value = (dimensions(item) for item in node.inputs[:3])
        if query is None or key is None or value is None or not len(query) == len(key) == len(value) == 4:
            return Miss("rank", node.name or "", "queries, keys and values of shape [batch, heads, sequence, size]")
        if not query[1] == key[1] == value[1] or query[1] is None:
            counts, grouped = f"{query[1]}, {key[1]}, {value[1]}", key[1] is not None and key[1] == value[1] != query[1]
            return Miss("heads", counts, "as many keys and values as queries, a known number", far=grouped)
        shared = [_shared(item) for item in node.inputs[1:3]]
        keys, values = shared
        if keys is None or values is None:
            which = node.inputs[1 if keys is None else 2]
            once = not any(_repeats(item) for item in node.inputs[1:3])
            return Miss(
                "copies", (which.name if which else None) or "", "heads whose copies lie side by side", far=once
            )
        if keys.heads != values.heads:
            return Miss("heads", f"{keys.heads} keys, {values.heads} values", "as many heads of keys as of values")
        return Groups(node=node, key=keys, value=values)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Groups)
        node, tape = found.node, Tape()
        key, value = (arranged(tape, item.plan) for item in (found.key, found.value))
        attributes: dict[str, Attribute] = {**node.attributes}
        inputs = [node.inputs[0], key, value, *node.inputs[3:]]
        made = tape.node("Attention", inputs, attributes, outputs=len(node.outputs))
        replace(tape, node.outputs, made.outputs, matched=[node])


def _repeats(value: ir.Value | None) -> bool:
    """Whether anything of a value is there several times."""
    return value is not None and any(view.repeats for view in views(value, repeats=True))


def _shared(value: ir.Value | None) -> Shared | None:
    """Keys or values with fewer heads, as few as can be and in the fewest steps; None where each is there once."""
    found: list[Shared] = []
    for view in () if value is None else views(value, repeats=True):
        if not view.repeats:
            continue
        batch, heads, sequence, size = view.axes
        kept = tuple(atom for atom in heads if atom.axis is not None)
        root = whole(view.root)
        # the copies of a head lie side by side: the repeated factor is the innermost
        if root is None or heads[: len(kept)] != kept or any(atom.axis is None for atom in (*batch, *sequence, *size)):
            continue
        plan = arrange(view.root, root, [batch, kept, sequence, size])
        count = size_of(kept).constant
        if plan is not None and count is not None:
            found.append(Shared(plan, count))
    return min(found, key=lambda shared: (shared.heads, len(shared.plan.steps)), default=None)
