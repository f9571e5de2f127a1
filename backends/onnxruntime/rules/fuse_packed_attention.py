"""Self-attention with its three projections as one kernel: com.microsoft Attention, or QAttention when int8.

    before   q, k, v = x @ Wq + bq, x @ Wk + bk, x @ Wv + bv        Attention(q, k, v, padding)
    after    Attention(x, [Wq Wk Wv], [bq bk bv], padding)

Exact: (x Wq, x Wk, x Wv) = x (Wq Wk Wv), columns side by side. On ONNX Runtime's CPU provider the packed kernel is as
fast as MultiHeadAttention on long batches and faster on short ones (benchmarks/onnxruntime_kernels.py). Left alone:
cross attention, grouped queries, masks that are more than key padding, soft caps, projections read elsewhere or of
different widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Array, Tape, constant_of, replace
from .attention import Heads, heads_of
from .linear import DOMAIN, Linear, biases, concatenate, linear
from .masks import KeyPadding, key_padding


@dataclass(frozen=True, kw_only=True)
class Packed(Match):
    """The three projections of one activation, the heads, and the padding mask."""

    layers: tuple[Linear, Linear, Linear]
    heads: Heads
    padding: KeyPadding | None


@dataclass(frozen=True, kw_only=True)
class FusePackedAttention(Rewrite):
    """Projections + Attention -> com.microsoft Attention or QAttention"""

    name: ClassVar[str] = "onnxruntime-fuse-packed-attention"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("Attention",)

    def match(self, node: ir.Node) -> Match | Miss:
        heads = heads_of(node)
        if isinstance(heads, Miss):
            return heads
        layers = [linear(value) for value in node.inputs[:3]]
        if any(layer is None for layer in layers):
            return Miss("projections", node.name or "", "Q, K and V from linear layers")
        first, second, third = (layer for layer in layers if layer is not None)
        if not (first.activation is second.activation is third.activation):
            return Miss("self-attention", first.activation.name or "", "Q, K and V from one activation")
        if not (first.codes == second.codes == third.codes):
            return Miss("precision", node.name or "", "Q, K and V in one precision")
        if any(layer.scale is not None and not layer.quantized for layer in (first, second, third)):
            return Miss("precision", first.weight.name or "", "quantized activations where weights are int8")
        widths = [layer.weight.shape[1] if layer.weight.shape else None for layer in (first, second, third)]
        if len(set(widths)) != 1:
            return Miss("widths", ", ".join(map(str, widths)), "Q, K and V of one width")
        if any(len(layer.output.consumers()) != 1 for layer in (first, second, third)):
            return Miss("readers", first.output.name or "", "projections that only this attention reads")
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        padding = key_padding(node)
        if mask is not None and padding is None:
            return Miss("mask", mask.name or "", "a mask over keys alone, of shape [batch, 1, 1, keys]")
        return Packed(node=node, layers=(first, second, third), heads=heads, padding=padding)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Packed)
        tape, layers = Tape(), list(found.layers)
        bias = biases(layers)
        weight = tape.lazy(concatenate(_arrays(layers), axis=1, name="packed_weight"))
        width = int(weight.shape[1]) if weight.shape is not None else 0  # type: ignore[arg-type]
        packed_bias = tape.constant(_zeros(width) if bias is None else bias, "packed_bias")
        mask = None if found.padding is None else tape("Cast", found.padding.keep, to=int(ir.DataType.INT32))
        attributes = found.heads.attributes(found.padding)
        if layers[0].quantized:
            scale = tape.constant(_scales(layers), "packed_scale")
            assert layers[0].codes is not None
            q, s, zero = layers[0].codes
            new = tape("QAttention", q, weight, packed_bias, s, scale, mask, zero, domain=DOMAIN, **attributes)
        else:
            new = tape("Attention", layers[0].activation, weight, packed_bias, mask, domain=DOMAIN, **attributes)
        nodes = [node for layer in layers for node in layer.nodes[:2]]
        replace(tape, found.node.outputs, [new], matched=[found.node, *nodes])


def _arrays(layers: list[Linear]) -> list[Array]:
    return [array for layer in layers if (array := constant_of(layer.weight)) is not None]


def _scales(layers: list[Linear]) -> Array:
    parts = []
    for layer in layers:
        scale, weight = constant_of(layer.scale), layer.weight
        assert scale is not None and weight.shape is not None
        parts.append(np.broadcast_to(scale.reshape(-1), (int(weight.shape[1]),)))  # type: ignore[arg-type]
    return np.concatenate(parts)


def _zeros(width: int) -> Array:
    return np.zeros(width, np.float32)
