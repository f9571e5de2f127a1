"""Raise GELU from its arithmetic, whatever its spelling.

    before   x * 0.5 * (1 + Erf(x / sqrt(2)))       or the tanh form            after   Gelu(x)

Exact: y = f(x) is shown by evaluating the arithmetic between x and y at sample points in float64 (Hendrycks & Gimpel,
Gaussian Error Linear Units, 2016). Left alone where a value between is read elsewhere or f is another function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...base import Match, Miss, Rewrite
from ...edit import Tape, replace
from . import scalar_function
from .scalar_function import Samples

#: Functions no farther from a GELU than this are meant to be one.
_NEAR = 0.05


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
    subject: ClassVar[str] = "gelu"
    whole: ClassVar[tuple[str, ...]] = ("Gelu",)

    def match(self, node: ir.Node) -> Match | Miss:
        formula = scalar_function.gelu if node.op_type == "Erf" else scalar_function.gelu_tanh
        wanted = formula(scalar_function.POINTS)
        approximate = "none" if node.op_type == "Erf" else "tanh"
        tolerance = scalar_function.tolerance(node.outputs[0].dtype)
        near = False
        for x, y, values in scalar_function.cones(node):
            near = near or scalar_function.agrees(values, wanted, _NEAR)
            if scalar_function.agrees(values, wanted, tolerance) and _everywhere(formula, x, y, tolerance):
                return Gelu(node=node, x=x, y=y, approximate=approximate)
        need = "0.5 x (1 + erf(x / sqrt 2)) or its tanh approximation"
        return Miss("function", node.outputs[0].name or "", need, near=near)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Gelu)
        tape = Tape()
        replace(tape, [found.y], [tape("Gelu", found.x, approximate=found.approximate)], matched=[found.node])


def _everywhere(formula: Callable[[Samples], Samples], x: ir.Value, y: ir.Value, tolerance: float) -> bool:
    """Whether y = f(x) on both sides of wherever its constants may make it bend."""
    points = scalar_function.around(scalar_function.numbers(x, y))
    found = None if points is None else scalar_function.evaluate(x, y, points)
    return points is not None and found is not None and scalar_function.agrees(found, formula(points), tolerance)
