"""Let an Attention split and join its heads by itself.

    before   q: [batch, sequence, heads * size] --> Reshape --> Transpose --> Attention --> Transpose --> Reshape
    after    Attention(q, k, v, mask){q_num_heads, kv_num_heads}: [batch, sequence, heads * size]

Exact: the 3-D form of ai.onnx Attention is defined by these reshapes. Left alone where heads are split any other way,
the joined value is read before it is joined, or there is a cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.content import dimensions
from ..base import Match, Miss, Rewrite
from ..edit import Attribute, Tape, is_op, only_reader, replace

_SPLIT = (0, 2, 1, 3)


@dataclass(frozen=True, kw_only=True)
class Heads(Match):
    """Q, K and V before their heads were split, how many heads each has, and the joined output."""

    inputs: tuple[ir.Value, ir.Value, ir.Value]
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
            return Miss("form", node.name or "", "an ai.onnx Attention over split heads")
        if len(node.outputs) != 1 or len([value for value in node.inputs if value is not None]) > 4:
            return Miss("cache", node.name or "", "no cache and no second output")
        split = [_before_split(value) for value in node.inputs[:3]]
        if any(item is None for item in split):
            name = next(value.name for value, item in zip(node.inputs, split, strict=False) if item is None and value)
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
        heads = {"q_num_heads": found.query_heads, "kv_num_heads": found.key_heads}
        attributes: dict[str, Attribute] = {**found.node.attributes, **heads}
        joined = tape.node("Attention", [*found.inputs, *found.node.inputs[3:]], attributes).outputs[0]
        replace(tape, [found.output], [joined], matched=[found.node])


def _before_split(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """(x, heads) when value is x: [batch, sequence, heads * size] as [batch, heads, sequence, size]."""
    swap = None if value is None else value.producer()
    if not is_op(swap, "Transpose") or swap.inputs[0] is None or _perm(swap) != _SPLIT:
        return None
    reshape = swap.inputs[0].producer()
    if not is_op(reshape, "Reshape") or reshape.inputs[0] is None:
        return None
    flat, split = dimensions(reshape.inputs[0]), dimensions(reshape.outputs[0])
    if flat is None or split is None or len(flat) != 3 or len(split) != 4 or flat[:2] != split[:2]:
        return None
    heads, size = split[2:]
    known = isinstance(heads, int) and isinstance(size, int) and None not in flat[:2]
    return (reshape.inputs[0], heads) if known and isinstance(heads, int) else None


def _after_join(value: ir.Value) -> ir.Value | None:
    """The value in which the heads lie side by side again."""
    swap = only_reader(value)
    if not is_op(swap, "Transpose") or _perm(swap) != _SPLIT:
        return None
    reshape = only_reader(swap.outputs[0])
    if not is_op(reshape, "Reshape"):
        return None
    split, flat = dimensions(swap.outputs[0]), dimensions(reshape.outputs[0])
    if split is None or flat is None or len(flat) != 3 or flat[:2] != split[:2] or None in flat[:2]:
        return None
    return reshape.outputs[0]


def _perm(node: ir.Node) -> tuple[int, ...]:
    perm = node.attributes.get("perm")
    return tuple(perm.as_ints()) if perm is not None else ()
