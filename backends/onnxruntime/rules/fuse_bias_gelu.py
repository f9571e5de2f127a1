"""Add a bias inside the GELU kernel.

    before   Gelu(x + b)                                after   BiasGelu(x, b)

Exact. Left alone: the tanh form, a bias that is no constant vector, a sum that is read elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Tape, only_reader, replace
from .linear import DOMAIN, linear


@dataclass(frozen=True, kw_only=True)
class Biased(Match):
    """The value before its bias, and the bias."""

    x: ir.Value
    bias: ir.Value


@dataclass(frozen=True, kw_only=True)
class FuseBiasGelu(Rewrite):
    """Gelu(x + b) -> com.microsoft BiasGelu"""

    name: ClassVar[str] = "onnxruntime-fuse-bias-gelu"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("Gelu",)

    def match(self, node: ir.Node) -> Match | Miss:
        form = node.attributes.get("approximate")
        if node.domain or (form is not None and form.as_string() != "none"):
            return Miss("form", form.as_string() if form else node.domain, "the exact GELU of ai.onnx")
        layer = linear(node.inputs[0])
        if layer is None or layer.bias is None:
            return Miss("bias", node.inputs[0].name or "" if node.inputs[0] else "", "a linear layer with a bias")
        if only_reader(layer.output) is not node:
            return Miss("readers", layer.output.name or "", "a sum that only this GELU reads")
        if layer.quantized:
            return Miss("precision", layer.output.name or "", "a float layer: the int8 kernel adds the bias itself")
        return Biased(node=node, x=layer.nodes[1].outputs[0], bias=layer.bias)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Biased)
        tape = Tape()
        new = tape("BiasGelu", found.x, found.bias, domain=DOMAIN)
        replace(tape, found.node.outputs, [new], matched=[found.node])
