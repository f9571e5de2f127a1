"""Say of a mask that hides the future that it does: the attribute is_causal instead of a matrix.

    before   Attention(q, k, v, And(j <= i + past, padding))        i, j: positions of queries and keys, counted
    after    Attention(q, k, v, padding){is_causal=1}

Exact: what hides the future is proven from how positions are counted (`positions`), whatever compares them. A finite
floor, as in Where(j <= i, 0, -3.4e38), says the same as minus infinity because every query sees its own position;
beside other conditions it does not, and such masks are left alone. Left alone too: windows, offsets that are not the
length of the past, and masks that would lose their place for each key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.atoms import size_of
from ....ir.content import dimensions
from ....ir.layout import whole
from ....ir.polynomial import Polynomial
from ...base import Match, Miss, Rewrite
from ...edit import Attribute, Tape, attribute, is_op, replace, scalar_of
from .positions import future_hidden, once, triangle
from .scores import LOW


@dataclass(frozen=True, kw_only=True)
class Causal(Match):
    """The conditions that stay beside the causal one."""

    kept: tuple[ir.Value, ...]


@dataclass(frozen=True, kw_only=True)
class RaiseCausalMask(Rewrite):
    """a mask that hides the future -> is_causal"""

    name: ClassVar[str] = "raise-causal-mask"
    anchors: ClassVar[tuple[str, ...]] = ("Attention",)

    def match(self, node: ir.Node) -> Match | Miss:
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        if mask is None or attribute(node, "is_causal", 0):
            return Miss("mask", node.name or "", "an Attention with a mask, not causal yet", far=True)
        wanted = _past(node)
        if wanted is None:
            return Miss("past", node.name or "", "a past of known length")
        if _is_triangle(mask, wanted) and _covers(mask, node, wanted):
            return Causal(node=node, kept=())
        found = _conditions(mask)
        if isinstance(found, Miss):
            return found
        conditions, floor = found
        hiding = [future_hidden(condition) for condition in conditions]
        pairs = list(zip(conditions, hiding, strict=True))
        narrow = [value for value, offset in pairs if offset == wanted and not _covers(value, node, wanted)]
        if narrow:
            return Miss("places", narrow[0].name or "", "a place for each query and key: one row would repeat itself")
        kept = tuple(value for value, offset in pairs if offset != wanted)
        if len(kept) == len(conditions):
            offsets = [str(offset) for offset in hiding if offset is not None]
            # of keys alone: padding
            flat = all((dimensions(value) or [None])[-2:-1] in ([], [1]) for value in conditions)
            need = f"keys up to the query's own, {wanted} behind"
            return Miss("future", ", ".join(offsets) or mask.name or "", need, far=flat)
        if kept and floor != -np.inf:
            return Miss("floor", f"{floor:g}", "minus infinity where other conditions hide keys too")
        if any(not _has_keys(value, node, wanted) for value in kept):
            return Miss("keys", ", ".join(value.name or "" for value in kept), "conditions with a place for each key")
        return Causal(node=node, kept=kept)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Causal)
        node, tape = found.node, Tape()
        mask: ir.Value | None = None
        for condition in found.kept:
            mask = condition if mask is None else tape("And", mask, condition)
        inputs = [*node.inputs[:3], mask, *node.inputs[4:]]
        while inputs[-1] is None:
            inputs.pop()
        attributes: dict[str, Attribute] = {**node.attributes, "is_causal": 1}
        made = tape.node("Attention", inputs, attributes, outputs=len(node.outputs))
        replace(tape, node.outputs, made.outputs, matched=[node])


def _past(node: ir.Node) -> Polynomial | None:
    """How many keys come before the first query's own."""
    past = node.inputs[4] if len(node.inputs) > 4 else None
    if past is None:
        return Polynomial.of(0)
    axes = whole(past)
    return None if axes is None else size_of(axes[2])


def _conditions(mask: ir.Value) -> tuple[list[ir.Value], float] | Miss:
    """The conditions that must all hold for a key to be seen, and what is added where one does not."""
    if mask.dtype is ir.DataType.BOOL:
        return list(_joined(mask)), -np.inf
    node = mask.producer()
    while is_op(node, "Expand") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if not is_op(node, "Where") or node.inputs[0] is None:
        return Miss("mask", mask.name or "", "Where(seen, 0, low) or a condition")
    low = scalar_of(node.inputs[2])
    if scalar_of(node.inputs[1]) != 0.0 or low is None or not low <= LOW:
        return Miss("mask", mask.name or "", "zero where a key is seen, minus infinity or nearly where it is not")
    return list(_joined(node.inputs[0])), low


def _joined(condition: ir.Value) -> Iterator[ir.Value]:
    """The sides of nested Ands, an Expand in front of one looked through."""
    node = condition.producer()
    if is_op(node, "Expand") and node.inputs[0] is not None:
        yield from _joined(node.inputs[0])
    elif is_op(node, "And"):
        for side in node.inputs:
            if side is not None:
                yield from _joined(side)
    else:
        yield condition


def _covers(mask: ir.Value, node: ir.Node, past: Polynomial) -> bool:
    """Whether the last two axes of a mask run through queries and keys, and are not broadcast to them."""
    axes, query, key = (None if value is None else whole(value) for value in (mask, *node.inputs[:2]))
    if axes is None or query is None or key is None or len(axes) < 2:
        return False
    full = size_of(query[-2]), size_of(key[-2]) + past
    sizes = [size_of(axis) for axis in axes[-2:]]
    # a mask fits its Attention, so that a number of rows other than one is that of the queries
    return all(
        size == wanted or (size.constant is not None and size.constant > 1)
        for size, wanted in zip(sizes, full, strict=True)
    )


def _has_keys(condition: ir.Value, node: ir.Node, past: Polynomial) -> bool:
    """Whether a condition can be a mask by itself: of rank 2 to 4, with a place for each key."""
    axes, key = whole(condition), None if node.inputs[1] is None else whole(node.inputs[1])
    if axes is None or key is None or not 2 <= len(axes) <= 4:
        return False
    return size_of(axes[-1]) == size_of(key[-2]) + past


def _is_triangle(mask: ir.Value, past: Polynomial) -> bool:
    """Whether a constant mask hides exactly the future."""
    offset = past.constant
    return offset is not None and once(mask, ("triangle", offset), lambda array: triangle(array, offset, LOW))
