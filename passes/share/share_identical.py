"""Store once the initializers that are equal byte for byte: tied tables, repeated biases and masks.

    before   a = W1, b = W2, W1 equal to W2             after   a = b = W1

Exact. Left alone: tensors that differ in dtype, shape or any byte (0.0 and -0.0 differ).
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
class ShareIdentical(IrPass):
    """Store identical initializers once."""

    name: ClassVar[str] = "share-identical"
    level: ClassVar[Level] = Level.IMPORTED

    def passes(self) -> Sequence[ir.passes.PassBase]:
        return (common.DeduplicateHashedInitializersPass(), common.RemoveUnusedNodesPass())
