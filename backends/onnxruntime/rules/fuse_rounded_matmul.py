"""Products of two rounded activations, such as attention's, on integers.

    before   Transpose(DequantizeLinear(a, s, z)) @ Transpose(DequantizeLinear(b, t))      a, b = QuantizeLinear(..)
    after    MatMulIntegerToFloat(Transpose(a), Transpose(b), s, t, z)

Exact: the same integers multiplied, the same scales applied after. What only moves numbers moves a quarter of the
bytes. Left alone: integers that are not uint8 on the left and int8 on the right, for which the kernels are slower than
those of floats, scales and zero points that are not one constant each, and what else than views stands between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Tape, constant_of, is_constant, is_op, replace
from .linear import DOMAIN
from .sides import VIEWS

#: The types of both sides.
_TYPES = (ir.DataType.UINT8, ir.DataType.INT8)


@dataclass(frozen=True)
class Side:
    """Integers, their scale, their zero point where it is not zero, and the views of them, first to last."""

    codes: ir.Value
    scale: ir.Value
    zero: ir.Value | None
    views: Sequence[ir.Node]

    def seen(self, tape: Tape) -> ir.Value:
        """Record the views of the integers."""
        value = self.codes
        for node in self.views:
            value = tape.node(node.op_type, [value, *node.inputs[1:]], dict(node.attributes.items())).outputs[0]
            value.type, value.shape = self.codes.type, node.outputs[0].shape
        return value


@dataclass(frozen=True, kw_only=True)
class Rounded(Match):
    """Both sides of a product."""

    left: Side
    right: Side


@dataclass(frozen=True, kw_only=True)
class FuseRoundedMatMul(Rewrite):
    """MatMul of dequantized activations -> com.microsoft MatMulIntegerToFloat"""

    name: ClassVar[str] = "onnxruntime-fuse-rounded-matmul"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("MatMul",)

    def match(self, node: ir.Node) -> Match | Miss:
        sides = [_side(value, dtype) for value, dtype in zip(node.inputs, _TYPES, strict=True)]
        for side in sides:
            if isinstance(side, Miss):
                return side
        left, right = (side for side in sides if isinstance(side, Side))
        return Rounded(node=node, left=left, right=right)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Rounded)
        tape, (left, right) = Tape(), (found.left, found.right)
        inputs = (left.seen(tape), right.seen(tape), left.scale, right.scale, left.zero, right.zero)
        passed = [*left.views, *right.views]
        replace(
            tape,
            found.node.outputs,
            [tape("MatMulIntegerToFloat", *inputs, domain=DOMAIN)],
            matched=[found.node, *passed],
        )


def _side(value: ir.Value | None, wanted: ir.DataType) -> Side | Miss:
    """One side of a product, up through its views."""
    views: list[ir.Node] = []
    while value is not None and is_op(node := value.producer(), *VIEWS):
        views.insert(0, node)
        value = node.inputs[0]
    node = None if value is None else value.producer()
    codes = node.inputs[0] if is_op(node, "DequantizeLinear") else None
    if node is None or codes is None or is_constant(codes):
        return Miss("side", (value.name or "") if value else "", "a dequantized activation", far=True)
    if codes.dtype != wanted:
        kind = "unknown" if codes.dtype is None else codes.dtype.name.lower()
        return Miss("dtype", f"{codes.name} of {kind}", f"{wanted.name.lower()} on this side")
    scale, zero = (*node.inputs[1:], None, None)[:2]
    step, shift = constant_of(scale), constant_of(zero)
    if scale is None or step is None or step.ndim or (zero is not None and (shift is None or shift.ndim)):
        return Miss("scale", codes.name or "", "one constant scale and zero point")
    return Side(codes, scale, None if shift is None or not shift.any() else zero, views)
