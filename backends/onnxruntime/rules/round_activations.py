"""Let products with weights of 4 and 8 bits round their activations to 8 bits, so that they multiply integers (W4A8).

    before   MatMulNBits{bits=4}(x, packed, scales)
    after    MatMulNBits{bits=4, accuracy_level=4}(x, packed, scales)

Lossy. Each row of x is rounded for itself, a scale for each block of the weight, as ONNX Runtime's kernel does it; on
CPUs with products of 8-bit integers that is the faster kernel. Left alone: weights of 2 bits, and what asks for a level
already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Contract, Lossy, Match, Miss, Rewrite
from ....passes.edit import attribute
from .linear import DOMAIN

#: Activations in 8 bits, in ONNX Runtime's words.
_LEVEL = 4


@dataclass(frozen=True, kw_only=True)
class RoundActivations(Rewrite):
    """MatMulNBits of floats -> MatMulNBits of 8-bit activations"""

    name: ClassVar[str] = "onnxruntime-round-activations"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = (f"{DOMAIN}.MatMulNBits",)

    def match(self, node: ir.Node) -> Match | Miss:
        bits, level = attribute(node, "bits", 4), attribute(node, "accuracy_level", 0)
        if level:
            return Miss("level", str(level), "activations in the model's own floats")
        if bits not in (4, 8):
            return Miss("bits", str(bits), "4 or 8 bits")
        return Match(node=node)

    def rewrite(self, found: Match) -> None:
        found.node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", _LEVEL)
