"""Raise GELU from its arithmetic, whatever its spelling.

    before   x * 0.5 * (1 + Erf(x / sqrt(2)))       or the tanh form            after   Gelu(x)

Exact: y = f(x) is shown by evaluating the arithmetic between x and y at sample points in float64 (Hendrycks & Gimpel,
Gaussian Error Linear Units, 2016). Left alone where a value between is read elsewhere or f is another function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...base import Match, Miss, Rewrite
from ...edit import Tape, replace
from . import activation


@dataclass(frozen=True, kw_only=True)
class Gelu(Match):
    """y = gelu(x), exact or in the tanh approximation."""

    x: ir.Value
    y: ir.Value
    approximate: str


@dataclass(frozen=True, kw_only=True)
class RaiseGelu(Rewrite):
    """x * Phi(x), spelled out -> Gelu"""

    name: ClassVar[str] = "raise-gelu"
    anchors: ClassVar[tuple[str, ...]] = ("Erf", "Tanh")

    def match(self, node: ir.Node) -> Match | Miss:
        wanted = activation.gelu() if node.op_type == "Erf" else activation.gelu_tanh()
        approximate = "none" if node.op_type == "Erf" else "tanh"
        tolerance = activation.tolerance(node.outputs[0].dtype)
        for x, y, values in activation.cones(node):
            if activation.agrees(values, wanted, tolerance):
                return Gelu(node=node, x=x, y=y, approximate=approximate)
        return Miss("function", node.outputs[0].name or "", "0.5 x (1 + erf(x / sqrt 2)) or its tanh approximation")

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Gelu)
        tape = Tape()
        replace(tape, [found.y], [tape("Gelu", found.x, approximate=found.approximate)], matched=[found.node])
