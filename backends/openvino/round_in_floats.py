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
- What has a scale for each index along an axis. Its scales change along the sum of a product, so that there is none of
  integers, and the plugin rounds along the second axis alone, of some ranks. Limits that differ with the zero point are
  Max and Min.

Left alone: all else, scales that are computed or of blocks, constants, and codes that something else reads too.

Tried on OpenVINO 2026.4 (16 bits: src/common/low_precision_transformations/src/qdq_stripping.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.level import Level
from ...passes.base import Match, Miss, Rewrite
from ...passes.edit import Array, Tape, attribute, constant_of, is_constant, is_op, replace
from ...passes.weights.stored import Stored

_WIDE = (ir.DataType.INT16, ir.DataType.UINT16)
_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)
#: What an activation may go through on the way to what computes with it.
_VIEWS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Identity", "Slice", "Split")


@dataclass(frozen=True, kw_only=True)
class RoundTrip(Match):
    """An activation, its scale and that of the way back, and the least and the largest code without the zero point.

    behind: how many axes the activation has behind the one that scales or limits lie along, where there are several.
    """

    activation: ir.Value
    scale: ir.Value
    back: ir.Value
    low: Array
    high: Array
    behind: int


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
        (activation, scale), back = maker.inputs[:2], node.inputs[1]
        if list(node.inputs[2:]) != list(maker.inputs[2:]) or activation is None or scale is None or back is None:
            return Miss("zero point", codes.name or "", "the same one on both sides")
        steps = constant_of(scale), constant_of(back)
        zero = constant_of(maker.inputs[2]) if len(maker.inputs) > 2 else np.zeros((), np.int32)
        if zero is None or any(step is None or step.dtype != np.float32 for step in steps):
            return Miss("scale", scale.name or "", "constants of float32")
        along = any(each is not None and each.size != 1 for each in (zero, *steps))
        if codes.dtype not in _WIDE and not (codes.dtype in _BYTES and (along or _misread(node.outputs[0]))):
            kind = "" if codes.dtype is None else codes.dtype.name.lower()
            return Miss("dtype", kind, "16 bits, or what is computed otherwise on integers")
        behind = _behind(maker, node, activation) if along else 0
        if behind is None:
            return Miss("axis", scale.name or "", "one axis on both sides, of an activation of known rank")
        assert codes.dtype is not None  # it is of the types above
        limits, middle = np.iinfo(codes.dtype.numpy()), zero.astype(np.int64)
        return RoundTrip(
            node=node,
            activation=activation,
            scale=scale,
            back=back,
            low=(limits.min - middle).astype(np.float32),
            high=(limits.max - middle).astype(np.float32),
            behind=behind,
        )

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, RoundTrip)
        tape, behind = Tape(), found.behind
        scale, back = (_spread(tape, value, constant_of(value), behind) for value in (found.scale, found.back))
        whole = tape("Round", tape("Div", found.activation, scale))
        shape = () if found.low.size == 1 else (-1, *[1] * behind)
        low, high = (tape.constant(limit.reshape(shape), "limit") for limit in (found.low, found.high))
        whole = tape("Max", tape("Min", whole, high), low) if shape else tape("Clip", whole, low, high)
        replace(tape, found.node.outputs, [tape("Mul", whole, back)])


def _behind(there: ir.Node, back: ir.Node, activation: ir.Value) -> int | None:
    """How many axes lie behind that of the scales; None where it is not known, or where scales are of blocks."""
    axes, rank = {attribute(node, "axis", 1) for node in (there, back)}, activation.shape
    blocks = any(attribute(node, "block_size", 0) for node in (there, back))
    if len(axes) != 1 or blocks or is_constant(activation):
        return None
    axis = axes.pop()
    if axis < 0:
        return -1 - axis
    return None if rank is None or axis >= len(rank) else len(rank) - 1 - axis


def _spread(tape: Tape, value: ir.Value, array: Array | None, behind: int) -> ir.Value:
    """A scale, as it meets the activation: a vector along an axis that others lie behind has them too."""
    if array is None or array.size == 1 or not behind:
        return value
    return tape.constant(array.reshape(-1, *[1] * behind), "scale")


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
