"""Write residual additions before a normalization so that ONNX Runtime keeps its faster kernels for them.

    before   LayerNormalization(Add(x, skip))           after   LayerNormalization(Sum(x, skip))

Exact: the same sum. At load ONNX Runtime turns Add + LayerNormalization into SkipLayerNormalization, whose CPU kernel
takes up to three times as long as the two it replaces (benchmarks/onnxruntime_kernels.py); it leaves Sum alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.content import dimensions
from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Tape, constant_of, is_op, replace


@dataclass(frozen=True, kw_only=True)
class KeepResidualSums(Rewrite):
    """Add before LayerNormalization -> Sum"""

    name: ClassVar[str] = "onnxruntime-keep-residual-sums"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("Add",)

    def match(self, node: ir.Node) -> Match | Miss:
        result = node.outputs[0]
        if not any(is_op(reader, "LayerNormalization") for reader in result.consumers()):
            return Miss("reader", result.name or "", "a LayerNormalization that reads the sum", far=True)
        left, right = (dimensions(value) for value in node.inputs)
        if any(constant_of(value) is not None for value in node.inputs) or left != right:
            return Miss("operands", f"{left} and {right}", "two computed values of one shape")
        return Match(node=node)

    def rewrite(self, found: Match) -> None:
        tape = Tape()
        replace(tape, found.node.outputs, [tape("Sum", *found.node.inputs)])
