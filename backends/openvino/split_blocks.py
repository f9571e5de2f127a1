"""Write dequantization in blocks as OpenVINO's frontend reads it: of whole blocks, or with a scale for each output.

    before   DequantizeLinear{axis=0, block_size=64}(W[200, n], scale[4, n])
    after    Concat{axis=0}(DequantizeLinear{axis=0, block_size=64}(W[:192], scale[:3]),
                            DequantizeLinear{axis=1}(W[192:], scale[3]))

    before   DequantizeLinear{axis=0, block_size=64}(W[20, n], scale[1, n])
    after    DequantizeLinear{axis=1}(W, scale[0])

Exact. The frontend refuses a last block that is shorter, and takes a zero point that is stated to be absent for one.
Whole blocks stay compressed when the model is loaded and are widened inside the product; what is concatenated OpenVINO
widens once. Left alone: whole blocks, and weights that are not stored.

Tried on OpenVINO 2026.4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.level import Level
from ...passes.base import Match, Miss, Rewrite
from ...passes.edit import Array, Tape, attribute
from ...passes.edit import replace as put
from ...passes.weights import Quantized
from ...passes.weights.stored import Stored


@dataclass(frozen=True, kw_only=True)
class Blocks(Match):
    """A weight whose blocks do not fit."""

    weight: Stored


@dataclass(frozen=True, kw_only=True)
class SplitBlocks(Rewrite):
    """DequantizeLinear in whole blocks"""

    name: ClassVar[str] = "split-blocks"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("DequantizeLinear",)

    def match(self, node: ir.Node) -> Match | Miss:
        block = attribute(node, "block_size", 0)
        if not block:
            return Miss("block", "none", "scales of blocks", far=True)
        found = Stored.of(node.outputs[0])
        if found is None or found.axis is None:
            return Miss("weight", node.inputs[0].name or "" if node.inputs[0] else "", "stored integers")
        length = found.shape[found.axis]
        if length % block == 0 and length > block and None not in node.inputs:
            return Miss("block", f"{length} in blocks of {block}", "a last block that is shorter, or one block in all")
        if length == block and len(found.shape) != 2 and None not in node.inputs:
            return Miss("rank", str(len(found.shape)), "a matrix")
        return Blocks(node=node, weight=found)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Blocks)
        tape, stored = Tape(), found.node.inputs[0]
        name = (stored.name if stored is not None else None) or "weight"
        parts = [part.emit(tape, name) for part in _parts(found.weight.read())]
        axis = found.weight.axis
        put(tape, found.node.outputs, [parts[0] if len(parts) == 1 else tape("Concat", *parts, axis=axis)])


def _parts(weight: Quantized) -> list[Quantized]:
    """The whole blocks, and what is left behind them."""
    assert weight.axis is not None  # blocks lie along it
    length, block = weight.values.shape[weight.axis], weight.block
    whole = length // block * block
    if not whole or whole == block == length:
        return [_one(weight)]
    if whole == length:
        return [weight]
    counts = (0, whole), (whole, length)
    body, rest = (
        replace(
            weight,
            values=_cut(weight.values, weight.axis, start, end),
            scale=_cut(weight.scale, weight.axis, start // block, -(-end // block)),
            zero=None if weight.zero is None else _cut(weight.zero, weight.axis, start // block, -(-end // block)),
        )
        for start, end in counts
    )
    return [_one(body) if whole == block else body, _one(rest)]


def _one(weight: Quantized) -> Quantized:
    """A weight of one block, whose scales lie along the other axis where it is a matrix."""
    assert weight.axis is not None  # blocks lie along it
    if weight.values.ndim != 2:
        return replace(weight, block=max(weight.values.shape[weight.axis], 1))
    zero = None if weight.zero is None else weight.zero.reshape(-1)
    return replace(weight, scale=weight.scale.reshape(-1), zero=zero, axis=1 - weight.axis, block=0)


def _cut(array: Array, axis: int, start: int, end: int) -> Array:
    return np.take(array, range(start, end), axis)
