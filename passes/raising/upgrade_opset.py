"""Bring the standard ops to the opset of the semantic level.

    before   opset 15, ReduceMean{axes=[1]}(x)          after   opset 23, ReduceMean(x, [1])

Exact: ONNX's own version converters, onnxscript's where it reaches (18 and up), the onnx package's below. Left alone: a
model whose ops no converter can bring up, with a miss that says which opset it stays at, and a Scan over batches.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnxscript import version_converter

from ...ir.imported import name_values
from ...ir.level import SEMANTIC_OPSET, Level
from ...ir.walk import every_node
from ..base import Context, Finding, Miss, Outcome, Pass
from ..edit import is_op
from ..interop import RemoveUnread

#: Scan has no axis for a batch from here on.
_SCANS = 9


@dataclass(frozen=True, kw_only=True)
class UpgradeOpset(Pass):
    """Convert the standard ops to the semantic opset."""

    name: ClassVar[str] = "upgrade-opset"
    level: ClassVar[Level] = Level.IMPORTED

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        opset = model.opset_imports.get("", SEMANTIC_OPSET)
        if opset == SEMANTIC_OPSET:
            return Outcome()
        if opset < _SCANS and any(is_op(node, "Scan") for node in every_node(model.graph)):
            miss = Miss(
                "convertible", f"Scan of opset {opset}", "a Scan without a batch: the converters drop the batch"
            )
            return Outcome((Finding("the model", (), miss),))
        with _quiet():
            version_converter.convert_version(model, SEMANTIC_OPSET, fallback=True)
        reached = model.opset_imports.get("", SEMANTIC_OPSET)
        if reached != SEMANTIC_OPSET:
            miss = Miss("convertible", f"opset {opset}", f"a converter from opset {reached} to {SEMANTIC_OPSET}")
            return Outcome((Finding("the model", (), miss),))
        RemoveUnread()(model)
        name_values(model.graph)  # the converters name what they add in each branch alike
        return Outcome((Finding(f"opset {opset} to {SEMANTIC_OPSET}"),))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converters' warnings about their own fallback off the user's screen."""
    logger = logging.getLogger("onnxscript")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
