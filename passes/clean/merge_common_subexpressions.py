"""Compute once what several nodes compute alike.

    before   a = Shape(x)   b = Shape(x)                after   a = Shape(x)   (b reads a)

Exact. Left alone: ops that draw random numbers, and nodes that hold subgraphs.
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
class MergeCommonSubexpressions(IrPass):
    """Merge nodes of equal op, attributes and inputs."""

    name: ClassVar[str] = "merge-common-subexpressions"
    level: ClassVar[Level] = Level.IMPORTED

    def passes(self) -> Sequence[ir.passes.PassBase]:
        return (common.CommonSubexpressionEliminationPass(), RemoveUnread())
