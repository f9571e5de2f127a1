"""Compute at compile time what depends on constants alone.

    before   Constant, Concat(Constant, Constant) --> Reshape        after   initializer --> Reshape

Exact: every folded op is evaluated by ONNX's reference semantics. Left alone: dequantization of stored weights (it
would undo a quantization), and results much larger than what they are computed from (`limit`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from ...ir.level import Level
from ..base import Context, Outcome, Pass
from ..interop import RemoveUnread, counted

#: Ops that turn a small stored form into a larger one on purpose.
_EXPANDING = frozenset({"ConstantOfShape", "Expand", "Tile", "DequantizeLinear", "Range"})


@dataclass(frozen=True, kw_only=True)
class FoldConstants(Pass):
    """Compute at compile time what depends on constants alone.

    limit: the largest number of elements that a folded result may have, unless it takes the place of as many.
    """

    name: ClassVar[str] = "fold-constants"
    level: ClassVar[Level] = Level.IMPORTED
    limit: int = 1 << 26

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        before = sum(1 for _ in model.graph.all_nodes())
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        optimizer.fold_constants(
            model, input_size_limit=self.limit, output_size_limit=self.limit, should_fold=_wanted(1 << 10)
        )
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        RemoveUnread()(model)
        return counted(before - sum(1 for _ in model.graph.all_nodes()), "node folded")


def _wanted(small: int) -> Callable[[ir.Node], bool | None]:
    def wanted(node: ir.Node) -> bool | None:
        if node.op_type == "DequantizeLinear":
            return False
        if node.op_type not in _EXPANDING:
            return None
        shape = node.outputs[0].shape
        known = shape is not None and all(isinstance(dim, int) for dim in shape)
        return known and shape is not None and _elements(shape) <= small

    return wanted


def _elements(shape: ir.ShapeProtocol) -> int:
    count = 1
    for dim in shape:
        count *= int(dim) if isinstance(dim, int) else 1
    return count
