"""Unpack planes of bits by what OpenVINO computes when it loads a model.

    before   codes = tersor.UnpackBits(planes, shape)
    after    bit k of each byte x: Min(x mod 2^(k+1) - x mod 2^k, 1)
             codes: the bits of all planes by Horner's rule, the highest first

Exact, all in uint8. OpenVINO's constant folding knows neither shifts nor operations on bits: they would be computed by
kernels, whose results are no constants to the rules behind, so that a weight would be widened to floats and recurrent
layers, which want constants, would be refused. Remainders, sums and differences of uint8 it folds: the weight becomes
a constant of bytes, which is widened inside the product or the lookup.

Left alone: planes that are computed. Tried on OpenVINO 2026.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.level import DOMAIN, Level
from ...passes.base import Match, Miss, Rewrite
from ...passes.edit import Tape, is_constant, replace
from ...passes.weights.packing import UNPACK


@dataclass(frozen=True, kw_only=True)
class Planes(Match):
    """Stored bytes [bits, bytes], and the shape of what they hold."""

    stored: ir.Value
    shape: ir.Value
    bits: int


@dataclass(frozen=True, kw_only=True)
class UnpackByRemainders(Rewrite):
    """UnpackBits in arithmetic that OpenVINO folds"""

    name: ClassVar[str] = "unpack-by-remainders"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = (f"{DOMAIN}.UnpackBits",)

    def match(self, node: ir.Node) -> Match | Miss:
        bits = next((bits for bits, function in UNPACK.items() if function.called_by(node)), None)
        stored, shape = node.inputs
        if bits is None or stored is None or shape is None:
            return Miss("function", node.overload, "one that is known")
        if not is_constant(stored) or not is_constant(shape):
            return Miss("planes", stored.name or "", "a constant")
        return Planes(node=node, stored=stored, shape=shape, bits=bits)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Planes)
        tape = Tape()
        last, first, second, end = (tape.constant([number], "bound") for number in (-1, 0, 1, 8))
        each = tape("Unsqueeze", found.stored, last)
        below = tape("Mod", each, tape.constant(np.array([1 << lane for lane in range(8)], np.uint8), "powers"))
        # x mod 2^(k+1) is where the next lane's remainder stands, and x itself in the end
        above = tape("Concat", tape("Slice", below, second, end, last), each, axis=-1)
        set_ = tape("Min", tape("Sub", above, below), tape.constant(np.array([1], np.uint8), "one"))
        codes: ir.Value | None = None
        for plane in reversed(range(found.bits)):
            bit = tape("Gather", set_, tape.constant(plane, "plane"), axis=0)
            codes = bit if codes is None else tape("Add", tape("Add", codes, codes), bit)
        assert codes is not None  # there is a plane
        count = tape("ReduceProd", found.shape, keepdims=1)
        flat = tape("Slice", tape("Reshape", codes, last), first, count, first)
        replace(tape, found.node.outputs, [tape("Reshape", flat, found.shape)])
