"""Dynamically quantized linear layers as one kernel each.

    before   DequantizeLinear(DynamicQuantizeLinear(x)) @ DequantizeLinear(W) + b
    after    DynamicQuantizeMatMul(x, W, scale, b)              x read by one layer
             MatMulIntegerToFloat(q, W, s, scale, zero, b)      x read by several: quantized once

Exact: the same integers multiplied, the same scales applied after. Left alone: weights that are not int8 by column, and
activations that stay float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Tape, replace
from .linear import DOMAIN, Linear, outermost


@dataclass(frozen=True, kw_only=True)
class Quantized(Match):
    """The layer, and whether its activation is quantized for it alone."""

    layer: Linear
    alone: bool


@dataclass(frozen=True, kw_only=True)
class FuseDynamicMatMul(Rewrite):
    """Dynamic Q/DQ around a MatMul -> com.microsoft DynamicQuantizeMatMul"""

    name: ClassVar[str] = "onnxruntime-fuse-dynamic-matmul"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("MatMul",)

    def match(self, node: ir.Node) -> Match | Miss:
        layer = outermost(node)
        if layer is None or not layer.quantized or layer.quantizer is None:
            need = "a MatMul of a dynamically quantized activation with int8 columns"
            return Miss("layer", node.name or "", need, far=layer is None or not layer.quantized)
        readers = {reader for value in layer.quantizer.outputs for reader in value.consumers()}
        back = layer.nodes[-2]
        return Quantized(node=node, layer=layer, alone=readers == {back} and len(back.outputs[0].consumers()) == 1)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Quantized)
        tape, layer = Tape(), found.layer
        quantizer = layer.quantizer
        assert quantizer is not None
        if found.alone:
            new = tape(
                "DynamicQuantizeMatMul", layer.activation, layer.weight, layer.scale, None, layer.bias, domain=DOMAIN
            )
        else:
            q, s, zero = quantizer.outputs
            inputs = (q, layer.weight, s, layer.scale, zero, None, layer.bias)
            new = tape("MatMulIntegerToFloat", *inputs, domain=DOMAIN)
        replace(tape, [layer.output], [new], matched=layer.nodes)
