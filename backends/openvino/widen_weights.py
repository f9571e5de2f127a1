"""Store a quantized weight in the next wider type where OpenVINO's files are smaller for it.

    before   DequantizeLinear(UnpackBits(planes of 3 bits), scale, zeros of 4)
    after    DequantizeLinear(int4, scale)

    before   DequantizeLinear(UnpackBits(planes of 5 bits), scale, UnpackBits(zeros))
    after    DequantizeLinear(uint8, scale, uint8)

Exact: the same integers less the same zero points. Integers around their middle become signed ones without zero points.
The plugin multiplies by 4 and 8 bits as they are stored. Left alone: planes that are smaller with all nodes that unpack
them, as those of large weights are, integers that have a type of their own, and those that several nodes read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.level import Level
from ...passes.base import Match, Miss, Rewrite
from ...passes.edit import Tape
from ...passes.edit import replace as put
from ...passes.weights import Quantized
from ...passes.weights.stored import Stored
from .packed_size import planes_pay, width


@dataclass(frozen=True, kw_only=True)
class Packed(Match):
    """A weight in planes of bits, and what its stored form is to be called."""

    weight: Stored
    name: str


@dataclass(frozen=True, kw_only=True)
class WidenWeights(Rewrite):
    """DequantizeLinear of 1 to 7 bits -> of 4 or 8"""

    name: ClassVar[str] = "widen-weights"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("DequantizeLinear",)

    def match(self, node: ir.Node) -> Match | Miss:
        stored, codes = Stored.of(node.outputs[0]), node.inputs[0]
        if stored is None or codes is None:
            return Miss("weight", node.outputs[0].name or "", "stored integers", far=True)
        if stored.bits == width(stored.bits):
            return Miss("bits", str(stored.bits), "integers in planes", far=True)
        if len(codes.uses()) > 1:
            return Miss("readers", codes.name or "", "integers that nothing else reads")
        name = codes.name or ""
        if planes_pay(stored.shape, stored.bits, name, centred=stored.centred):
            return Miss(
                "bytes", f"{stored.bits} bits", "a type that takes fewer bytes than planes and what unpacks them"
            )
        return Packed(node=node, weight=stored, name=name)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Packed)
        tape = Tape()
        put(tape, found.node.outputs, [_wide(found.weight).emit(tape, found.name)])


def _wide(stored: Stored) -> Quantized:
    """The same weight in a type of its own."""
    weight = stored.read()
    bits = width(stored.bits)
    middle = 1 << (stored.bits - 1)
    if weight.zero is None or (weight.zero != middle).any():
        return replace(weight, bits=bits)
    return replace(weight, values=(weight.values.astype(np.int16) - middle).astype(np.int8), zero=None, bits=bits)
