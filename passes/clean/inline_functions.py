"""Put the bodies of the user's model-local functions where they are called.

    before   y = pkg.Block(x)      Block: ...           after   the body's nodes, x to y

Exact. Left alone: functions of tersor's own domain, which backends match as calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from ...ir.level import DOMAIN, Level
from ..interop import IrPass


@dataclass(frozen=True, kw_only=True)
class InlineFunctions(IrPass):
    """Inline model-local functions, tersor's own with `own=true` too.

    own: inline the functions of domain `tersor` as well, for a runtime that knows none of them.
    """

    name: ClassVar[str] = "inline-functions"
    level: ClassVar[Level] = Level.IMPORTED
    own: bool = False

    def passes(self) -> Sequence[ir.passes.PassBase]:
        return (
            common.InlinePass(lambda function: self.own or function.domain != DOMAIN),
            common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]  # onnx-ir leaves it untyped
            common.RemoveUnusedOpsetsPass(),
        )
