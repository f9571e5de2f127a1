"""Remove nodes that give what they are given.

    before   x --> Identity --> Relu --> y         after   x --> Relu --> y
    before   p --> Dropout --> MatMul --> y        after   p --> MatMul --> y

Identity, Dropout outside training, Cast to the type a value has, Concat, Split, Sum, Mean, Max or Min of one, Pad by
nothing, Tile by ones, Slice of everything, Transpose that keeps the order, and x + 0, x - 0, x * 1, x / 1, x ^ 1.

Exact, but for the sign of a zero that 0 is added to. Left alone where the node gives an input, an initializer, an outer
scope's value or a second output the name of a graph output: that name has to be made somewhere. Also Dropout whose mask
is read, and a number of more axes than x, which gives x new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.content import Element, content, dimensions
from ...ir.level import Level
from ..base import Match, Miss, Rewrite
from ..edit import Tape, replace, scalar_of, stand_in

#: What exporters write for the end of an axis, and beyond any.
_END = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class Same(Match):
    """A node, and the value that its result is."""

    value: ir.Value


@dataclass(frozen=True, kw_only=True)
class DropIdentities(Rewrite):
    """Identity(x) -> x"""

    name: ClassVar[str] = "drop-identities"
    level: ClassVar[Level] = Level.IMPORTED
    anchors: ClassVar[tuple[str, ...]] = (
        *("Identity", "Cast", "CastLike", "Dropout", "Concat", "Sum", "Mean", "Max", "Min", "Split", "Pad", "Tile"),
        *("Slice", "Transpose", "Add", "Sub", "Mul", "Div", "Pow"),
    )

    def match(self, node: ir.Node) -> Match | Miss:
        result, value = node.outputs[0], _CASES[node.op_type](node)
        if isinstance(value, Miss):
            return value
        if any(other.uses() or other.is_graph_output() for other in node.outputs[1:]):
            return Miss("mask", node.outputs[1].name or "", "a mask that nobody reads")
        if result.is_graph_output():
            producer = value.producer()
            if producer is None or producer.graph is not node.graph or value.is_graph_output():
                return Miss("name", result.name or "", "a value of its own that can take the output's name", far=True)
        return Same(node=node, value=value)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Same)
        value, result = found.value, found.node.outputs[0]
        if result.is_graph_output():
            stand_in(result, value)
        replace(Tape(), [result], [value])


#: The value that a node gives on, or why it does not.
Verdict = ir.Value | Miss


def _first(node: ir.Node) -> Verdict:
    value = node.inputs[0] if node.inputs else None
    return Miss("op", node.name or "", "a node that reads something") if value is None else value


def _cast(node: ir.Node) -> Verdict:
    value = _first(node)
    like = node.inputs[1].dtype if len(node.inputs) > 1 and node.inputs[1] is not None else None
    to = ir.DataType(node.attributes["to"].as_int()) if "to" in node.attributes else like
    if isinstance(value, Miss) or (to is not None and to == value.dtype):
        return value
    return Miss("cast", value.name or "", "a value that has the type already", far=None not in (value.dtype, to))


def _dropout(node: ir.Node) -> Verdict:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None or scalar_of(training) == 0:
        return _first(node)
    return Miss("training", training.name or "", "no training, for certain")


def _alone(node: ir.Node) -> Verdict:
    alone = len(node.outputs if node.op_type == "Split" else node.inputs) == 1
    return _first(node) if alone else _other(node, "one part")


def _pad(node: ir.Node) -> Verdict:
    return _first(node) if _numbers(node, "pads") == {0} else _other(node, "zeros to pad by")


def _tile(node: ir.Node) -> Verdict:
    return _first(node) if _numbers(node, "repeats") == {1} else _other(node, "ones to repeat by")


def _numbers(node: ir.Node, name: str) -> set[object]:
    """The different numbers that the second input holds, or an attribute of older opsets."""
    if name in node.attributes:
        return set(node.attributes[name].as_ints())
    return set((content(node.inputs[1]) if len(node.inputs) > 1 else None) or [None])


def _slice(node: ir.Node) -> Verdict:
    value = _first(node)
    given = [*node.inputs[1:], None, None, None, None][:4]
    starts, ends, axes, steps = map(content, given)
    known = starts is not None and ends is not None and (axes is not None or given[2] is None)
    if isinstance(value, Miss) or starts is None or ends is None or not known or len(starts) != len(ends):
        return _other(node, "known bounds")
    forward = given[3] is None or (steps is not None and set(steps) == {1})
    dims, along = dimensions(value), list(range(len(starts))) if axes is None else axes
    whole = (_covers(end, dims, axis) for end, axis in zip(ends, along, strict=False))
    return value if forward and set(starts) == {0} and all(whole) else _other(node, "the whole of each axis")


def _covers(end: Element, dims: Sequence[Element] | None, axis: Element) -> bool:
    """Whether a slice up to there takes an axis to its end."""
    if isinstance(end, int) and end >= _END:
        return True
    if end is None or dims is None or not isinstance(axis, int) or not -len(dims) <= axis < len(dims):
        return False
    size = dims[axis]
    return end == size or (isinstance(end, int) and isinstance(size, int) and end > size)


def _transpose(node: ir.Node) -> Verdict:
    value = _first(node)
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
    dims = None if isinstance(value, Miss) else value.shape
    kept = dims is not None and len(dims) < 2 if perm is None else list(perm) == sorted(perm)
    return value if kept else _other(node, "axes in their order")


def _neutral(number: float, *, commutes: bool) -> Callable[[ir.Node], Verdict]:
    """x op number, or number op x where that is the same."""

    def case(node: ir.Node) -> Verdict:
        left, right = node.inputs
        for value, other in ((left, right), (right, left))[: 1 + commutes]:
            if value is None or other is None or scalar_of(other) != number:
                continue
            rank = 0 if other.shape is None else len(other.shape)
            if not rank or (value.shape is not None and rank <= len(value.shape)):
                return value
        return _other(node, f"{number:g} of no more axes than x")

    return case


def _other(node: ir.Node, need: str) -> Miss:
    return Miss("effect", node.outputs[0].name or "", need, far=True)


_CASES: Mapping[str, Callable[[ir.Node], Verdict]] = {
    "Identity": _first,
    "Cast": _cast,
    "CastLike": _cast,
    "Dropout": _dropout,
    **dict.fromkeys(("Concat", "Sum", "Mean", "Max", "Min", "Split"), _alone),
    "Pad": _pad,
    "Tile": _tile,
    "Slice": _slice,
    "Transpose": _transpose,
    "Add": _neutral(0, commutes=True),
    "Sub": _neutral(0, commutes=False),
    "Mul": _neutral(1, commutes=True),
    "Div": _neutral(1, commutes=False),
    "Pow": _neutral(1, commutes=False),
}
