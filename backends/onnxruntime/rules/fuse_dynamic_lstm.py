"""An LSTM that quantizes its input and state at run time as one kernel.

    before   tersor.DynamicQuantizeLSTM(x, DequantizeLinear(W8, s), DequantizeLinear(R8, t), b, h0, c0)
    after    com.microsoft.DynamicQuantizeLSTM(x, W8.T, R8.T, b, _, h0, c0, _, s, _, t, _)

Exact: the same integers multiplied, the same scales applied after; where several threads share a batch, the kernel
quantizes the state of each one's part by itself. Left alone, to run as a Scan: weights that are not 8 bits with a scale
for each gate, or for each gate of each direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.dynamic_recurrence import DIRECTIONS, LSTM
from ....passes.edit import Array, Tape, replace
from ....passes.weights import Quantized
from ....passes.weights.stored import Stored
from .linear import DOMAIN

#: The shape of a weight is [directions, gates, inputs].
_GATES, _INPUTS = 1, 2


@dataclass(frozen=True, kw_only=True)
class Rounded(Match):
    """The call's direction and its weights."""

    direction: str
    weights: tuple[Stored, Stored]


@dataclass(frozen=True, kw_only=True)
class FuseDynamicLstm(Rewrite):
    """tersor.DynamicQuantizeLSTM -> com.microsoft DynamicQuantizeLSTM"""

    name: ClassVar[str] = "onnxruntime-fuse-dynamic-lstm"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("tersor.DynamicQuantizeLSTM",)

    def match(self, node: ir.Node) -> Match | Miss:
        if node.overload not in DIRECTIONS or not LSTM[node.overload].called_by(node):
            return Miss("function", str(node.op_identifier()), "tersor's own function of this name", far=True)
        found = []
        for value in node.inputs[1:3]:
            stored = Stored.of(value)
            if stored is None or len(stored.shape) != 3:
                return Miss("weight", "" if value is None else value.name or "", "a dequantized constant")
            if stored.bits != 8:
                return Miss("bits", str(stored.bits), "8 bits")
            if not _is_by_gate(stored):
                return Miss("scales", f"{stored.block} on axis {stored.axis}", "one for each gate, or for the weight")
            found.append(stored)
        return Rounded(node=node, direction=node.overload, weights=(found[0], found[1]))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Rounded)
        tape, node = Tape(), found.node
        x, weight, recurrence, bias, *states = node.inputs
        assert weight is not None and recurrence is not None
        wide = _packed(tape, weight.name or "W", found.weights[0])
        high = _packed(tape, recurrence.name or "R", found.weights[1])
        inputs = (x, wide[0], high[0], bias, None, *states, None, *wide[1:], *high[1:])
        new = tape.node(
            "DynamicQuantizeLSTM", inputs, {**node.attributes, "direction": found.direction}, domain=DOMAIN, outputs=3
        )
        matched = [node, *(stored.node for stored in found.weights)]
        replace(tape, node.outputs, new.outputs, matched=matched)


def _is_by_gate(stored: Stored) -> bool:
    """Whether no two inputs of a gate have different scales."""
    if stored.block:
        return stored.axis == _INPUTS and stored.block >= stored.shape[_INPUTS]
    return stored.axis in (None, _GATES)


def _packed(tape: Tape, name: str, stored: Stored) -> Sequence[ir.Value]:
    """Integers [directions, inputs, gates], scales and zero points [directions, gates] as the kernel reads them."""
    ways, gates, inputs = stored.shape
    integers = ir.DataType.INT8 if stored.signed else ir.DataType.UINT8

    def part(kind: str, shape: list[int], dtype: ir.DataType, numbers: Callable[[Quantized], Array]) -> ir.Value:
        return tape.derived(f"{name}_{kind}", shape, dtype, lambda: numbers(stored.read()), weight=True)

    def spread(parameter: Array) -> Array:
        # blocks along the inputs are one each
        each = parameter.squeeze(_INPUTS) if parameter.ndim > _INPUTS else parameter
        return np.broadcast_to(each, (ways, gates))

    def zeros(weight: Quantized) -> Array:
        return spread(np.zeros((), np.int8) if weight.zero is None else weight.zero)

    return (
        part("packed", [ways, inputs, gates], integers, lambda weight: weight.values.transpose(0, 2, 1)),
        part("scales", [ways, gates], ir.DataType.FLOAT, lambda weight: spread(weight.scale)),
        part("zeros", [ways, gates], integers, zeros),
    )
