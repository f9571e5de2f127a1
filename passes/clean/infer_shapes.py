"""Write types and shapes on every value where they follow from the inputs', named dimensions included.

    before   y = MatMul(x, w)   y: ?                    after   y: float[batch, sequence, 384]

Exact: only annotations change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from ...ir.level import Level
from ..interop import IrPass


@dataclass(frozen=True, kw_only=True)
class InferShapes(IrPass):
    """Annotate values with the types and shapes that follow."""

    name: ClassVar[str] = "infer-shapes"
    level: ClassVar[Level] = Level.IMPORTED

    def passes(self) -> Sequence[ir.passes.PassBase]:
        return (common.ShapeInferencePass(check_type=False, strict_mode=False),)
