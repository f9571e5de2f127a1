"""Decode a mask and what it keeps by what OpenVINO computes when it loads a model.

    before   cells = tersor.Unmask(kept, mask)
    after    cells = ScatterND(zeros, Transpose(NonZero(mask)), kept[1:])

Exact. OpenVINO's constant folding knows no CumSum: the weight would be put together by kernels at every run. What is
not zero it finds, and scatters to, when it loads the model; the file keeps the short form.

Left alone: kept numbers that are computed. Tried on OpenVINO 2026.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.constants import tensor_of
from ...ir.level import DOMAIN, Level
from ...passes.base import Match, Miss, Rewrite
from ...passes.edit import Tape, replace
from ...passes.weights.masked import UNMASK


@dataclass(frozen=True, kw_only=True)
class Cells(Match):
    """Stored numbers [1 + kept, ..], and a mask."""

    kept: ir.TensorProtocol
    mask: ir.Value


@dataclass(frozen=True, kw_only=True)
class ScatterKept(Rewrite):
    """Unmask in lookups that OpenVINO folds"""

    name: ClassVar[str] = "scatter-kept"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = (f"{DOMAIN}.Unmask",)

    def match(self, node: ir.Node) -> Match | Miss:
        kept, mask = tensor_of(node.inputs[0]), node.inputs[1]
        if not UNMASK.called_by(node):
            return Miss("function", node.overload, "one that is known")
        if kept is None or mask is None:
            return Miss("kept", node.outputs[0].name or "", "stored numbers")
        return Cells(node=node, kept=kept, mask=mask)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Cells)
        tape, numbers = Tape(), found.kept.numpy()
        flat = tape("Reshape", found.mask, tape.constant([-1], "shape"))
        places = tape("Transpose", tape("NonZero", tape("Cast", flat, to=ir.DataType.BOOL)), perm=[1, 0])
        shape = tape("Shape", flat)
        if numbers.ndim > 1:
            shape = tape("Concat", shape, tape.constant(list(numbers.shape[1:]), "tile"), axis=0)
        zeros = tape("ConstantOfShape", shape, value=ir.tensor(np.zeros(1, numbers.dtype), name="zero"))
        kept = tape.weight(np.ascontiguousarray(numbers[1:]), found.kept.name or "kept")
        replace(tape, found.node.outputs, [tape("ScatterND", zeros, places, kept)])
