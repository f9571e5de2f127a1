"""Where values are zero when weights are: what lets a unit be taken out of a sum.

    MatMul(x, w) --> Relu --> ReduceSum          a unit of zero weights adds nothing: cut or zero, the sum is one
    MatMul(x, w) --> Sigmoid --> ReduceSum       a unit of zero weights adds 1/2: the axis is held

A value *vanishes* at a unit of a leaf if it is zero there whenever all weights are that have the leaf. Which leaves
those are is settled when all axes are tied (`Sums.settle`), from what is noted at each node on the way.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from ..constants import scalar_of
from .axis import Axis, Why


class Of(enum.Enum):
    """When a value vanishes at a unit, by what it is made of."""

    ALWAYS = enum.auto()
    NEVER = enum.auto()
    ALL = enum.auto()
    """Where all parts do: sums, and what maps zero to zero."""
    ANY = enum.auto()
    """Where one part does: products."""
    JOINED = enum.auto()
    """Where all parts do that have the unit: what stands side by side."""


@dataclass(frozen=True, eq=False)
class Vanishing:
    """What is known about one value."""

    axes: tuple[Axis, ...]
    of: Of
    parts: tuple[Vanishing, ...] = ()


@dataclass(eq=False)
class Sums:
    """What was noted on a walk: of each value when it vanishes, and which axes are summed over, of which values."""

    noted: list[Vanishing] = field(default_factory=list)
    summed: list[tuple[str, tuple[Axis, ...], tuple[Vanishing, ...]]] = field(default_factory=list)

    def note(self, axes: tuple[Axis, ...], of: Of, parts: Iterable[Vanishing] = ()) -> Vanishing:
        """Remember a value, the parts having been noted before."""
        made = Vanishing(axes, of, tuple(parts))
        self.noted.append(made)
        return made

    def settle(self) -> None:
        """Hold the leaves that are summed over where no factor vanishes."""
        leaves: dict[Vanishing, frozenset[Axis]] = {}
        zero: dict[Vanishing, frozenset[Axis]] = {}
        for each in self.noted:
            leaves[each] = have = frozenset(_leaves(each.axes))
            zero[each] = have & _vanishing(each, have, leaves, zero)
        for where, axes, factors in self.summed:
            for leaf in set(_leaves(axes)).difference(*(zero[factor] for factor in factors)):
                leaf.hold(Why.FIXED, f"a unit without weights still counts at {where}")


def _vanishing(
    each: Vanishing,
    have: frozenset[Axis],
    leaves: Mapping[Vanishing, frozenset[Axis]],
    zero: Mapping[Vanishing, frozenset[Axis]],
) -> frozenset[Axis]:
    none: frozenset[Axis] = frozenset()
    match each.of:
        case Of.ALWAYS:
            return have
        case Of.NEVER:
            return none
        case Of.ALL:
            return have.intersection(*(zero[part] for part in each.parts))
        case Of.ANY:
            return none.union(*(zero[part] for part in each.parts))
        case Of.JOINED:
            return have.difference(*(leaves[part] - zero[part] for part in each.parts))


def _leaves(axes: Iterable[Axis]) -> Iterable[Axis]:
    return (leaf for axis in axes for leaf in axis.leaves() if leaf.count != 1)


@dataclass(frozen=True, eq=False)
class Seen:
    """A node with its inputs as they were noted, None for those that are not given."""

    node: ir.Node
    inputs: Sequence[Vanishing | None]
    axes: tuple[Axis, ...]
    sums: Sums

    def all(self, *at: int) -> Vanishing:
        """Vanishes where these inputs do, those that are given."""
        return self.sums.note(self.axes, Of.ALL, self._given(at))

    def any(self, *at: int) -> Vanishing:
        """Vanishes where one of these inputs does."""
        return self.sums.note(self.axes, Of.ANY, self._given(at))

    def plus(self, made: Vanishing, at: int) -> Vanishing:
        """The same with another input added, if it is given."""
        return self.sums.note(self.axes, Of.ALL, (made, *self._given((at,))))

    def scalar(self, at: int, default: float) -> float | None:
        """The number that an input is; None for any other input."""
        given = at < len(self.node.inputs) and self.node.inputs[at] is not None
        return scalar_of(self.node.inputs[at]) if given else default

    def text(self, name: str, default: str) -> str:
        """An attribute; of what refers to that of a call, nothing is known."""
        attribute = self.node.attributes.get(name)
        return default if attribute is None else "" if attribute.is_ref() else attribute.as_string()

    def _given(self, at: Sequence[int]) -> Iterable[Vanishing]:
        return (each for index in at if index < len(self.inputs) and (each := self.inputs[index]) is not None)


def vanishing(
    node: ir.Node, inputs: Sequence[Vanishing | None], made: Sequence[tuple[Axis, ...]], sums: Sums
) -> list[Vanishing]:
    """Where each output of a node vanishes, by where its inputs do."""
    rule = None if node.domain else _RULES.get(node.op_type)
    outputs: list[Vanishing] = []
    for index, axes in enumerate(made):
        known = rule if index == 0 or node.op_type in _ALIKE else None
        outputs.append(sums.note(axes, Of.NEVER) if known is None else known(Seen(node, inputs, axes, sums)))
    return outputs


def _never(seen: Seen) -> Vanishing:
    return seen.sums.note(seen.axes, Of.NEVER)


def _first(seen: Seen) -> Vanishing:
    return seen.all(0)


def _sum(seen: Seen) -> Vanishing:
    return seen.all(*range(len(seen.inputs)))


def _product(seen: Seen) -> Vanishing:
    return seen.any(*range(len(seen.inputs)))


def _affine(seen: Seen) -> Vanishing:
    """A product of two and a bias: Gemm, Conv."""
    return seen.plus(seen.any(0, 1), 2)


def _scaled(seen: Seen) -> Vanishing:
    """A normalization, whatever it makes of zeros: scale and bias are what they are multiplied with."""
    return seen.plus(seen.any(1), 2)


def _root_mean_square(seen: Seen) -> Vanishing:
    return seen.any(0, 1)


def _concat(seen: Seen) -> Vanishing:
    return seen.sums.note(seen.axes, Of.JOINED, (part for part in seen.inputs if part is not None))


def _where(seen: Seen) -> Vanishing:
    return seen.all(1, 2)


def _clip(seen: Seen) -> Vanishing:
    low, high = seen.scalar(1, 0.0), seen.scalar(2, 0.0)
    return seen.all(0) if low is not None and high is not None and low <= 0 <= high else _never(seen)


def _pow(seen: Seen) -> Vanishing:
    exponent = seen.scalar(1, 0.0)
    return seen.all(0) if exponent is not None and exponent > 0 else _never(seen)


def _pad(seen: Seen) -> Vanishing:
    fills = seen.text("mode", "constant") == "constant" and seen.scalar(2, 0.0) != 0.0
    return _never(seen) if fills else seen.all(0)


def _recurrent(seen: Seen) -> Vanishing:
    """Of zero weights, a state stays what it began with, where the activation of what it takes in maps zero to zero."""
    if "activations" in seen.node.attributes:
        return _never(seen)
    return seen.all(2, 5, 6)


def _attention(seen: Seen) -> Vanishing:
    """Mixes values, whatever the scores are."""
    return seen.all(2)


def _quantized(seen: Seen) -> Vanishing:
    """Zero is the zero point, which only DequantizeLinear takes back."""
    taken_back = all(use.node.op_type == "DequantizeLinear" for use in seen.node.outputs[0].uses())
    return seen.all(0) if taken_back else _never(seen)


def _constant(seen: Seen) -> Vanishing:
    return seen.sums.note(seen.axes, Of.ALWAYS)


def _filled(seen: Seen) -> Vanishing:
    given = seen.node.attributes.get("value")
    tensor = None if given is None or given.is_ref() else given.as_tensor()
    zero = given is None or (tensor is not None and not tensor.numpy().any())
    return _constant(seen) if zero else _never(seen)


def _ops(names: str) -> list[str]:
    return names.split()


#: Ops all of whose outputs vanish alike.
_ALIKE = frozenset(_ops("Split CastLike LSTM GRU RNN"))

#: Each maps zero to zero, or moves, adds up or averages elements of its first input. Ops without a line may make
#: anything of zeros.
_KEEPING = _ops(
    "Abs Asin Asinh Atan Atanh Ceil Celu Elu Erf Floor Gelu HardSwish LeakyRelu Mish Neg Relu Round Selu Sign Sin Sinh "
    "Softsign Sqrt Swish Tan Tanh ThresholdedRelu PRelu Div Mod BitShift Cast CastLike Dropout Identity "
    "ReduceSum ReduceMean ReduceSumSquare ReduceL1 ReduceL2 ReduceMax ReduceMin ReduceProd CumSum "
    "MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool Resize Trilu "
    "Reshape Transpose Flatten Squeeze Unsqueeze Expand Tile Split Slice Gather RotaryEmbedding DequantizeLinear"
)

_RULES: Mapping[str, Callable[[Seen], Vanishing]] = {
    **dict.fromkeys(_KEEPING, _first),
    **dict.fromkeys(_ops("Add Sub Sum Mean Max Min Or Xor BitwiseOr BitwiseXor"), _sum),
    **dict.fromkeys(_ops("Mul And BitwiseAnd MatMul Einsum"), _product),
    **dict.fromkeys(_ops("Gemm Conv ConvTranspose"), _affine),
    **dict.fromkeys(_ops("LayerNormalization BatchNormalization InstanceNormalization GroupNormalization"), _scaled),
    **dict.fromkeys(_ops("RMSNormalization SimplifiedLayerNormalization"), _root_mean_square),
    **dict.fromkeys(_ops("LSTM GRU RNN"), _recurrent),
    "Concat": _concat,
    "Where": _where,
    "Clip": _clip,
    "Pow": _pow,
    "Pad": _pad,
    "Attention": _attention,
    "QuantizeLinear": _quantized,
    "Constant": _constant,
    "ConstantOfShape": _filled,
}
