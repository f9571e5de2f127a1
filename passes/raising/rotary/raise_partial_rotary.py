"""Let a RotaryEmbedding pass the elements that it does not rotate.

    before   Concat(RotaryEmbedding(x[.., :r]), x[.., r:])
    after    RotaryEmbedding(x){rotary_embedding_dim=r}

Exact: the attribute's own definition. Left alone where the parts are not the first r elements and the rest of one
value, or the rotated part is read elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Attribute, Tape, attribute, integers_of, is_op, only_reader, replace


@dataclass(frozen=True, kw_only=True)
class Partial(Match):
    """All of the heads, how many elements of each are rotated, and the result in one piece."""

    whole: ir.Value
    rotated: int
    heads: int
    output: ir.Value


@dataclass(frozen=True)
class _Part:
    """Elements start to end of the last axis of a value."""

    source: ir.Value
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class RaisePartialRotary(Rewrite):
    """Concat(RotaryEmbedding(x[:r]), x[r:]) -> RotaryEmbedding(x){rotary_embedding_dim=r}"""

    name: ClassVar[str] = "raise-partial-rotary"
    anchors: ClassVar[tuple[str, ...]] = ("RotaryEmbedding",)

    def match(self, node: ir.Node) -> Match | Miss:
        if node.domain or attribute(node, "rotary_embedding_dim", 0):
            return Miss("form", node.name or "", "an ai.onnx RotaryEmbedding of whole heads", far=True)
        dims = dimensions(node.inputs[0])
        if dims is None or len(dims) != 4 or not isinstance(dims[1], int):
            need, joined = "[batch, heads, sequence, size] with a known number of heads", len(dims or ()) == 3
            return Miss("heads", str(dims), need, far=joined)
        part = _part(node.inputs[0])
        if part is None or part.start:
            return Miss(
                "part", node.inputs[0].name or "" if node.inputs[0] else "", "the first elements of another value"
            )
        join = only_reader(node.outputs[0])
        if not is_op(join, "Concat") or len(join.inputs) != 2 or join.inputs[0] is not node.outputs[0]:
            return Miss("join", node.outputs[0].name or "", "Concat(rotated, rest) alone")
        rest, size = _part(join.inputs[1]), _width(part.source)
        if attribute(join, "axis", 0) not in (-1, 3):
            return Miss("axis", str(attribute(join, "axis", 0)), "parts joined along the last axis")
        if rest is None or rest.source is not part.source or (rest.start, rest.end) != (part.end, size):
            return Miss("rest", join.inputs[1].name or "" if join.inputs[1] else "", f"elements {part.end} to {size}")
        return Partial(node=node, whole=part.source, rotated=part.end, heads=dims[1], output=join.outputs[0])

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Partial)
        node, tape = found.node, Tape()
        own: dict[str, Attribute] = {"rotary_embedding_dim": found.rotated, "num_heads": found.heads}
        made = tape.node("RotaryEmbedding", [found.whole, *node.inputs[1:]], {**node.attributes, **own})
        replace(tape, [found.output], made.outputs, matched=[node])


def _part(value: ir.Value | None) -> _Part | None:
    """What a Slice, or an output of a Split, takes of the last axis."""
    node = None if value is None else value.producer()
    source = None if node is None else node.inputs[0]
    size = None if source is None else _width(source)
    if value is None or node is None or source is None or size is None:
        return None
    rank = len(dimensions(source) or ())
    if is_op(node, "Slice"):
        starts, ends, axes, steps = (_numbers(node, index) for index in range(1, 5))
        if starts is None or ends is None or axes not in ([-1], [rank - 1]) or steps not in (None, [1]):
            return None
        start, end = (number if number >= 0 else max(0, size + number) for number in (starts[0], ends[0]))
        return _Part(source, min(start, size), min(end, size))
    if is_op(node, "Split") and attribute(node, "axis", 0) in (-1, rank - 1):
        widths = [_width(output) for output in node.outputs]
        place = list(node.outputs).index(value)
        known = [width for width in widths if width is not None]
        if len(known) == len(widths):
            return _Part(source, sum(known[:place]), sum(known[: place + 1]))
    return None


def _numbers(node: ir.Node, index: int) -> list[int] | None:
    return integers_of(node.inputs[index]) if index < len(node.inputs) else None


def _width(value: ir.Value) -> int | None:
    dims = dimensions(value)
    return dims[-1] if dims and isinstance(dims[-1], int) else None
