"""What lies between a softmax and the product of queries and keys, taken apart.

    softmax( cap tanh(scale Q K^T / cap) + bias_1 + .. + bias_n )

The walk goes up from the softmax through scaling, soft caps, added biases, masked fills, casts and rearrangements, and
keeps at each how the axes of the scores lie relative to those of the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from ....ir.atoms import Axis, size_of
from ....ir.constants import is_constant
from ....ir.layout import after, rearranges, scaling, whole
from ....ir.text import place
from ...base import Miss
from ...edit import is_op, scalar_of
from .origins import origin_of, sizes

#: What is added to a score and leaves nothing of it: the sum rounds to this number, or to a lower one that was added.
LOW = -1e30

#: Nodes visited for one softmax.
_REACH = 64

_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class Bias:
    """A term of the scores.

    value: what is added, or the condition of a masked fill.
    factor: what the term is multiplied by.
    axes: of the scores where it is added, in atoms of the product.
    low: what a masked fill puts where its condition equals `hides`; None where `value` is added as it is.
    """

    value: ir.Value
    axes: tuple[Axis, ...]
    factor: float = 1.0
    low: float | None = None
    hides: bool = True


@dataclass(frozen=True)
class Scores:
    """scale * product, capped and biased; `axes` are those of the whole in atoms of the product."""

    product: ir.Node
    axes: tuple[Axis, ...]
    scale: float = 1.0
    capped: float | None = None
    biases: tuple[Bias, ...] = ()
    precision: ir.DataType | None = None
    nodes: tuple[ir.Node, ...] = ()

    def scaled(self, factor: float, node: ir.Node) -> Scores:
        """All of it times a number."""
        biases = tuple(replace(bias, factor=bias.factor * factor) for bias in self.biases)
        nodes = (*self.nodes, node)
        if self.capped is None:
            return replace(self, scale=self.scale * factor, biases=biases, nodes=nodes)
        return replace(self, capped=self.capped * factor, biases=biases, nodes=nodes)


def scores_of(value: ir.Value | None) -> Scores | Miss:
    """Walk from the input of a softmax up to the product of queries and keys, or say what stopped the walk."""
    return _Climb().up(value)


class _Climb:
    """Both sides of a sum are asked, and each value once."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, Scores | Miss] = {}

    def up(self, value: ir.Value | None) -> Scores | Miss:
        node = None if value is None else value.producer()
        if value is None or node is None:
            return Miss("scores", _name(value), "the product of queries and keys")
        if value not in self._known:
            if len(self._known) == _REACH:
                return Miss("scores", f"more than {_REACH} nodes between", "the product of queries and keys")
            # a value on the way to itself
            self._known[value] = Miss("scores", _name(value), "the product of queries and keys")
            found = self._step(node)
            if isinstance(found, Miss):
                found = replace(found, reached=(place(node), *found.reached))
            self._known[value] = found
        return self._known[value]

    def _step(self, node: ir.Node) -> Scores | Miss:
        if node.domain:
            return Miss("scores", _at(node), "Mul, Div, Add or the MatMul of queries and keys")
        if node.op_type == "MatMul":
            return _product(node)
        if node.op_type in ("Mul", "Div"):
            return self._scale(node)
        if node.op_type in ("Add", "Sub"):
            return self._bias(node)
        if node.op_type == "Where":
            return self._fill(node)
        if node.op_type == "Tanh":
            return self._cap(node)
        if node.op_type == "Cast":
            return self._cast(node)
        if rearranges(node):
            return self._move(node)
        return Miss("scores", _at(node), "Mul, Div, Add or the MatMul of queries and keys")

    def _scale(self, node: ir.Node) -> Scores | Miss:
        inner, factor = scaling(node)
        if inner is None:
            return Miss("scale", _at(node), "a constant scalar scale")
        found = self.up(inner)
        return found if isinstance(found, Miss) else found.scaled(factor, node)

    def _bias(self, node: ir.Node) -> Scores | Miss:
        left, right = node.inputs
        # a product on both sides: the one fewer steps away holds queries and keys, the other is computed from positions
        sides = [(left, right), (right, left)] if node.op_type == "Add" else [(left, right)]
        tried = [(self.up(inner), added) for inner, added in sides if not is_constant(inner)]
        reached = [(found, added) for found, added in tried if isinstance(found, Scores)]
        if not reached:
            misses = [found for found, _ in tried if isinstance(found, Miss)]
            if misses and node.op_type == "Sub":
                return misses[0]
            # the side on which the walk came farther is the one that was meant
            return max(misses, key=lambda miss: len(miss.reached), default=_unmasked(node))
        found, added = min(reached, key=lambda pair: len(pair[0].nodes))
        assert added is not None
        if added is node.inputs[0] and added is node.inputs[1]:
            return _unmasked(node)
        if not _keeps_shape(node, found.axes):
            return Miss("mask", origin_of(added), f"sizes that broadcast to {shown(found.axes)}")
        bias = Bias(added, found.axes, -1.0 if node.op_type == "Sub" else 1.0)
        return replace(found, biases=(*found.biases, bias), nodes=(*found.nodes, node))

    def _fill(self, node: ir.Node) -> Scores | Miss:
        condition, yes, no = node.inputs
        lows = [scalar_of(yes), scalar_of(no)]
        hides = lows[0] is not None
        low, inner = (lows[0], no) if hides else (lows[1], yes)
        if condition is None or low is None or inner is None:
            return Miss("mask", _at(node), "a constant where scores are masked")
        if not low < 0.0:
            return Miss("mask", f"{low:g} at {node.name}", "minus infinity or a large negative number where masked")
        found = self.up(inner)
        if isinstance(found, Miss):
            return found
        if not _keeps_shape(node, found.axes):
            return Miss("mask", origin_of(condition), f"sizes that broadcast to {shown(found.axes)}")
        bias = Bias(condition, found.axes, 1.0, low, hides)
        return replace(found, biases=(*found.biases, bias), nodes=(*found.nodes, node))

    def _cap(self, node: ir.Node) -> Scores | Miss:
        found = self.up(node.inputs[0])
        if isinstance(found, Miss):
            return found
        if found.biases or found.capped is not None:
            return Miss("softcap", _at(node), "tanh of the scaled product alone")
        return replace(found, capped=1.0, nodes=(*found.nodes, node))

    def _cast(self, node: ir.Node) -> Scores | Miss:
        found = self.up(node.inputs[0])
        if isinstance(found, Miss):
            return found
        before, behind = found.product.outputs[0].dtype, node.outputs[0].dtype
        if before not in _HALVES or behind is not ir.DataType.FLOAT:
            return Miss("precision", _at(node), "a cast from half precision to float32")
        return replace(found, precision=behind, nodes=(*found.nodes, node))

    def _move(self, node: ir.Node) -> Scores | Miss:
        found = self.up(node.inputs[0])
        if isinstance(found, Miss):
            return found
        axes = after(node, found.axes)
        if axes is None:
            return Miss("layout", _at(node), "a rearrangement of whole axes of the scores")
        return replace(found, axes=axes, nodes=(*found.nodes, node))


def _product(node: ir.Node) -> Scores | Miss:
    left, right = node.inputs
    if is_constant(left) or is_constant(right):
        return Miss("scores", f"MatMul at {node.name} with a constant", "the product of two computed values")
    axes = whole(node.outputs[0])
    if axes is None or len(axes) < 2:
        return Miss("rank", sizes(node.outputs[0]), "scores of known rank, at least 2")
    return Scores(node, axes, nodes=(node,))


def _keeps_shape(node: ir.Node, axes: Sequence[Axis]) -> bool:
    """Whether what is added or filled in leaves the shape of the scores as it is."""
    now = whole(node.outputs[0])
    return now is not None and [size_of(axis) for axis in now] == [size_of(axis) for axis in axes]


def _unmasked(node: ir.Node) -> Miss:
    return Miss("mask", _at(node), "one mask added to the product of queries and keys")


def _at(node: ir.Node) -> str:
    return f"{node.op_type} at {node.name or node.outputs[0].name}"


def _name(value: ir.Value | None) -> str:
    return "" if value is None else value.name or ""


def shown(axes: Sequence[Axis]) -> str:
    """Sizes of axes, for a miss."""
    return f"[{', '.join(str(size_of(axis)) for axis in axes)}]"


def is_guard(node: ir.Node, value: ir.Value) -> bool:
    """Whether a Where is Where(IsNaN(value), 0, value)."""
    test = node.inputs[0].producer() if node.inputs[0] is not None else None
    asks = is_op(test, "IsNaN") and test.inputs[0] is value
    return bool(asks and scalar_of(node.inputs[1]) == 0.0 and node.inputs[2] is value)
