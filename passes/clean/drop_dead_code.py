"""Remove nodes, initializers, functions and opset imports that no output depends on.

    before   x --> Relu --> y      w --> Neg --> (nobody)          after   x --> Relu --> y

Exact. Left alone: anything a graph output reads, in subgraphs too, and the outputs themselves (`drop-outputs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from ...ir.level import Level
from ..interop import IrPass, RemoveUnread


@dataclass(frozen=True, kw_only=True)
class DropDeadCode(IrPass):
    """Remove what no output depends on."""

    name: ClassVar[str] = "drop-dead-code"
    level: ClassVar[Level] = Level.IMPORTED

    def passes(self) -> Sequence[ir.passes.PassBase]:
        return (
            RemoveUnread(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]  # onnx-ir leaves it untyped
            common.RemoveUnusedOpsetsPass(),
        )
