"""Write types and shapes on every value where they follow from the inputs', named dimensions included.

    before   y = MatMul(x, w)   y: ?                    after   y: float[batch, sequence, 384]

Exact: only annotations change. What inputs and outputs are declared to be stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.level import Level
from ...ir.shape_annotate import annotate
from ..base import Context, Outcome, Pass
from ..interop import counted


@dataclass(frozen=True, kw_only=True)
class InferShapes(Pass):
    """Annotate values with the types and shapes that follow."""

    name: ClassVar[str] = "infer-shapes"
    level: ClassVar[Level] = Level.IMPORTED

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        return counted(annotate(model), "value annotated")
