"""Raise the mean over the positions that a mask keeps to one call.

    before   m = Cast(Expand(Unsqueeze(mask)))          x [batch, sequence, hidden], mask [batch, sequence]
             ReduceSum(x * m) / Max(ReduceSum(m), epsilon)
    after    tersor.MeanPooling{epsilon}(x, mask)       [batch, hidden]

Exact, as sentence encoders pool (Reimers & Gurevych, Sentence-BERT, 2019, section 3). Left alone, with the reason: sums
over another axis or that keep it, two masks, a mask that is no [batch, sequence], and divisors of another kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Tape, attribute, integers_of, is_op, only_reader, replace, scalar_of
from ...functions import Function

_SUMS = (
    " last = Constant <value_ints: ints = [-1]> ()  sequence = Constant <value_ints: ints = [1]> ()"
    " wide = Unsqueeze (mask, last)  keep = CastLike (wide, x)  kept = Mul (x, keep)"
    " sum = ReduceSum <keepdims: int = 0> (kept, sequence)  count = ReduceSum <keepdims: int = 0> (keep, sequence)"
)
MEAN = Function(f"MeanPooling (x, mask) => (y) {{{_SUMS} y = Div (sum, count) }}")
CLAMPED_MEAN = Function(
    f"MeanPooling <epsilon> (x, mask) => (y) {{{_SUMS}"
    " number = Constant <value_float: float = @epsilon> ()  least = CastLike (number, x)"
    " divisor = Max (count, least)  y = Div (sum, divisor) }",
    overload="clamped",
)

#: Casts and views between a mask and its use.
_DEPTH = 6


@dataclass(frozen=True, kw_only=True)
class Pooled(Match):
    """y = sum(x * mask) / max(sum(mask), epsilon)."""

    x: ir.Value
    mask: ir.Value
    quotient: ir.Node
    epsilon: float | None


@dataclass(frozen=True, kw_only=True)
class RaiseMeanPooling(Rewrite):
    """sum(x * mask) / max(sum(mask), epsilon) -> MeanPooling"""

    name: ClassVar[str] = "raise-mean-pooling"
    anchors: ClassVar[tuple[str, ...]] = ("ReduceSum",)

    def match(self, node: ir.Node) -> Match | Miss:
        name = node.outputs[0].name or ""
        quotient = only_reader(node.outputs[0])
        if not is_op(quotient, "Div") or quotient.inputs[0] is not node.outputs[0] or quotient.graph is not node.graph:
            undivided = not any(is_op(user, "Div") for user in node.outputs[0].consumers())
            return Miss("quotient", name, "a Div that alone reads the sum", far=undivided)
        product = node.inputs[0].producer() if node.inputs[0] is not None else None
        if not is_op(product, "Mul"):
            return Miss("product", name, "the sum of x * mask")
        clamped = _unclamped(quotient.inputs[1])
        if clamped is None:
            return Miss("divisor", name, "the sum of the mask, kept above a constant")
        count, epsilon = clamped
        if not (_sums_sequence(node) and _sums_sequence(count)):
            return Miss("axes", name, "sums over axis 1 of three that drop it")
        mask, pair = _mask(count.inputs[0]), product.inputs
        sides = [a for a, b in (pair, pair[::-1]) if a is not None and mask is not None and _mask(b) is mask]
        if mask is None or len(sides) != 1:
            return Miss("mask", name, "one mask [batch, sequence] in both sums")
        x, y = sides[0], quotient.outputs[0]
        sizes = dimensions(x)
        if sizes is None or len(sizes) != 3 or None in sizes:
            return Miss("shape", f"{x.name}: {sizes}", "x of known shape [batch, sequence, hidden]")
        if dimensions(mask) != sizes[:2] or dimensions(y) != sizes[::2] or dimensions(product.outputs[0]) != sizes:
            return Miss("shape", f"{mask.name}: {dimensions(mask)}", f"sizes that stretch nothing of {sizes}")
        return Pooled(node=node, x=x, mask=mask, quotient=quotient, epsilon=epsilon)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Pooled)
        tape = Tape()
        if found.epsilon is None:
            made = MEAN(tape, found.x, found.mask)
        else:
            made = CLAMPED_MEAN(tape, found.x, found.mask, epsilon=found.epsilon)
        replace(tape, [found.quotient.outputs[0]], [made])


def _unclamped(divisor: ir.Value | None) -> tuple[ir.Node, float | None] | None:
    """The sum that a divisor is, and what keeps it off zero."""
    node = None if divisor is None else divisor.producer()
    if is_op(node, "ReduceSum"):
        return node, None
    if is_op(node, "Clip") and len(node.inputs) == 2:
        sides = [(node.inputs[0], node.inputs[1])]
    elif is_op(node, "Max") and len(node.inputs) == 2:
        sides = [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
    else:
        return None
    for count, least in sides:
        number, inner = scalar_of(least), None if count is None else count.producer()
        if number is not None and np.isfinite(number) and is_op(inner, "ReduceSum"):
            return inner, number
    return None


def _sums_sequence(node: ir.Node) -> bool:
    dims = dimensions(node.inputs[0])
    axes = integers_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return dims is not None and len(dims) == 3 and axes in ([1], [-2]) and attribute(node, "keepdims", 1) == 0


def _mask(value: ir.Value | None) -> ir.Value | None:
    """The mask [batch, sequence] behind one that has the hidden axis, of size one or stretched."""
    for _ in range(_DEPTH):
        node = None if value is None else value.producer()
        if (is_op(node, "Cast") and _keeps(node)) or is_op(node, "Expand", "Identity"):
            value = node.inputs[0]
        elif is_op(node, "Unsqueeze") and integers_of(node.inputs[1]) in ([-1], [2]):
            inner = node.inputs[0]
            return inner if len(dimensions(inner) or ()) == 2 else None
        else:
            return None
    return None


def _keeps(node: ir.Node) -> bool:
    """Whether a cast changes no mask: from integers or truth values to floats."""
    given, to = node.inputs[0], ir.DataType(attribute(node, "to", 0))
    if given is None or given.dtype is None:
        return False
    return to.is_floating_point() and (given.dtype.is_integer() or given.dtype == ir.DataType.BOOL)
