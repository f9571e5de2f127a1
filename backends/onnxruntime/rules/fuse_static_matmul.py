"""Linear layers of statically quantized activations on integers.

    before   DequantizeLinear(q, s, zero) @ DequantizeLinear(W, scale) + b           q = QuantizeLinear(x, s, zero)
    after    MatMulIntegerToFloat(q, W, s, scale, zero, b)

Exact: the same integers multiplied, the same scales applied after. Left alone: weights that are not int8 by column or
in all, scales of the activation that are not constant or several, and other types of activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Tape, replace
from .linear import DOMAIN, Codes, Linear, outermost


@dataclass(frozen=True, kw_only=True)
class Static(Match):
    """The layer, and its activation as integers."""

    layer: Linear
    codes: Codes


@dataclass(frozen=True, kw_only=True)
class FuseStaticMatMul(Rewrite):
    """Q/DQ around a MatMul -> com.microsoft MatMulIntegerToFloat"""

    name: ClassVar[str] = "onnxruntime-fuse-static-matmul"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("MatMul",)

    def match(self, node: ir.Node) -> Match | Miss:
        layer = outermost(node)
        if layer is None or layer.codes is None or layer.quantizer is not None:
            need = "a MatMul of an activation quantized by one constant scale with int8 columns"
            return Miss("layer", node.name or "", need, far=layer is None or layer.scale is None)
        return Static(node=node, layer=layer, codes=layer.codes)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Static)
        tape, layer = Tape(), found.layer
        q, s, zero = found.codes
        inputs = (q, layer.weight, s, layer.scale, zero, None, layer.bias)
        new = tape("MatMulIntegerToFloat", *inputs, domain=DOMAIN)
        replace(tape, [layer.output], [new], matched=layer.nodes)
