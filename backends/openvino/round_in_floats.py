"""Write rounding in arithmetic of floats where OpenVINO would make something else of it.

    before   y = DequantizeLinear(QuantizeLinear(x, s, z), s, z)
    after    y = Clip(Round(x / s), low - z, high - z) * s

Exact: the codes are whole numbers that float32 holds. Written out, the rounding is one elementwise kernel, and what
reads it computes in floats:

- 16 bits. There are no products of them; the CPU plugin strips such a round trip, and what lies outside the range is no
  longer cut off.
- What LSTM, GRU and RNN read. The plugin's 8-bit cells round the state on the grid of the input, which is another
  function by some 10 % of the output, and of a GRU that resets behind the product there is none at all.
- Products of two activations, as in attention, and those whose weight is on the left. The headroom of weights does not
  keep them from saturating on x86 CPUs without VNNI, and attention in floats is one kernel, on integers eight.

Left alone: all else, scales that are computed or lie along an axis, and codes that something else reads too.

Tried on OpenVINO 2026.4 (16 bits: src/common/low_precision_transformations/src/qdq_stripping.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.level import Level
from ...passes.base import Match, Miss, Rewrite
from ...passes.edit import Tape, constant_of, is_constant, is_op, replace
from ...passes.weights.stored import Stored

_WIDE = (ir.DataType.INT16, ir.DataType.UINT16)
_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
#: What an activation may go through on the way to what computes with it.
_VIEWS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Slice", "Split")


@dataclass(frozen=True, kw_only=True)
class RoundTrip(Match):
    """An activation, its scale, and the least and the largest code without the zero point."""

    activation: ir.Value
    scale: ir.Value
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class RoundInFloats(Rewrite):
    """rounding in floats that OpenVINO computes otherwise"""

    name: ClassVar[str] = "round-in-floats"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("DequantizeLinear",)

    def match(self, node: ir.Node) -> Match | Miss:
        codes = node.inputs[0]
        maker = None if codes is None else codes.producer()
        if codes is None or not is_op(maker, "QuantizeLinear"):
            return Miss("activation", codes.name or "" if codes else "", "one that is rounded", far=True)
        if codes.dtype not in _WIDE and not (codes.dtype in _BYTES and _misread(node.outputs[0])):
            kind = "" if codes.dtype is None else codes.dtype.name.lower()
            return Miss("dtype", kind, "16 bits, or what is computed otherwise on integers")
        activation, scale = maker.inputs[:2]
        if list(node.inputs[1:]) != list(maker.inputs[1:]) or activation is None or scale is None:
            return Miss("scale", codes.name or "", "the same scale and zero point on both sides")
        step = constant_of(scale)
        zero = constant_of(maker.inputs[2]) if len(maker.inputs) > 2 else np.zeros((), np.int32)
        if step is None or zero is None or step.size != 1 or zero.size != 1 or step.dtype != np.float32:
            return Miss("scale", scale.name or "", "one constant of float32")
        assert codes.dtype is not None  # it is of the types above
        limits = np.iinfo(codes.dtype.numpy())
        return RoundTrip(
            node=node,
            activation=activation,
            scale=scale,
            low=float(limits.min - int(zero.item())),
            high=float(limits.max - int(zero.item())),
        )

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, RoundTrip)
        tape = Tape()
        low, high = (tape.constant(number, "limit") for number in (found.low, found.high))
        whole = tape("Clip", tape("Round", tape("Div", found.activation, found.scale)), low, high)
        replace(tape, found.node.outputs, [tape("Mul", whole, found.scale)])


def _misread(value: ir.Value) -> bool:
    """Whether what reads 8-bit codes is computed in another way on integers than in floats."""
    waiting, met = [value], {value}
    while waiting:
        for node, index in waiting.pop().uses():
            if is_op(node, "LSTM", "GRU", "RNN") and not index:
                return True
            if is_op(node, "MatMul") and not (index == 0 and _stored(node.inputs[1])):
                return True
            more = [output for output in node.outputs if is_op(node, *_VIEWS) and output not in met]
            met.update(more)
            waiting += more
    return False


def _stored(value: ir.Value | None) -> bool:
    """Whether an operand is a weight, dequantized or not."""
    while value is not None and is_op(value.producer(), *_VIEWS):
        producer = value.producer()
        assert producer is not None
        value = producer.inputs[0]
    return is_constant(value) or Stored.of(value) is not None
