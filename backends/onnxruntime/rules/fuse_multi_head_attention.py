"""Attention whose projections cannot be packed, with their biases: com.microsoft MultiHeadAttention.

    before   Attention(q + bq, k + bk, v + bv, padding)
    after    MultiHeadAttention(q, k, v, [bq bk bv], padding)

Exact. Left alone: grouped queries, masks that are more than key padding, soft caps, causal attention over more or fewer
keys than queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.content import dimensions
from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Tape, replace
from .attention import Heads, heads_of
from .linear import DOMAIN, Linear, biases, linear
from .masks import KeyPadding, key_padding


@dataclass(frozen=True, kw_only=True)
class Cross(Match):
    """Q, K and V, the linear layers behind them where their biases can move into the kernel, and the mask."""

    inputs: tuple[ir.Value, ir.Value, ir.Value]
    layers: tuple[Linear, ...]
    heads: Heads
    padding: KeyPadding | None


@dataclass(frozen=True, kw_only=True)
class FuseMultiHeadAttention(Rewrite):
    """Attention -> com.microsoft MultiHeadAttention"""

    name: ClassVar[str] = "onnxruntime-fuse-multi-head-attention"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("Attention",)

    def match(self, node: ir.Node) -> Match | Miss:
        heads = heads_of(node)
        if isinstance(heads, Miss):
            return heads
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        padding = key_padding(node)
        if mask is not None and padding is None:
            return Miss("mask", mask.name or "", "a mask over keys alone, of shape [batch, 1, 1, keys]")
        query, key, value = node.inputs[:3]
        assert query is not None and key is not None and value is not None
        lengths = [dims[1] if (dims := dimensions(item)) else None for item in (query, key)]
        if heads.causal and (lengths[0] != lengths[1] or None in lengths):
            # the kernel lets the last query see the last key, ONNX the first query the first key
            return Miss("causal", f"{lengths[0]} queries, {lengths[1]} keys", "as many queries as keys")
        layers = [linear(item) for item in (query, key, value)]
        movable = [layer for layer in layers if layer is not None and not layer.quantized and layer.scale is None]
        fits = len(movable) == 3 and all(len(layer.output.consumers()) == 1 for layer in movable)
        return Cross(
            node=node,
            inputs=(query, key, value),
            layers=tuple(movable) if fits and biases(movable) is not None else (),
            heads=heads,
            padding=padding,
        )

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Cross)
        tape = Tape()
        bias, inputs = None, list(found.inputs)
        if found.layers:
            joined = biases(list(found.layers))
            assert joined is not None
            bias = tape.constant(joined, "packed_bias")
            inputs = [_before_bias(layer) for layer in found.layers]
        mask = None if found.padding is None else tape("Cast", found.padding.keep, to=int(ir.DataType.INT32))
        new = tape("MultiHeadAttention", *inputs, bias, mask, domain=DOMAIN, **found.heads.attributes(found.padding))
        replace(tape, found.node.outputs, [new], matched=[found.node])


def _before_bias(layer: Linear) -> ir.Value:
    return layer.output if layer.bias is None else layer.nodes[1].outputs[0]
