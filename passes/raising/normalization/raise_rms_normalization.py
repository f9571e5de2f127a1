"""Raise root mean square normalisation from its arithmetic to one RMSNormalization node.

    before   x * Reciprocal(Sqrt(ReduceMean(x * x) + epsilon)) * scale
    after    RMSNormalization{axis, epsilon}(x, scale)

Exact: y = f(x) is shown by evaluating what lies between x and y at sample rows (Zhang & Sennrich, Root Mean Square
Layer Normalization, 2019, equation 4). Arithmetic in float16 or bfloat16 is done in float32 from then on, as the op's
default says. A scale that the arithmetic lacks is ones; a bias stays an Add of its own. Left alone, with the reason:
axes that are not the last or of unknown size, what divides by the norm instead of the mean's root, layer
normalisation, double precision, which the op computes in float32, and any other function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...base import Match, Miss, Rewrite
from ...edit import Tape, replace
from .normalization import Norm, find
from .rows import REDUCTIONS
from .scaling import along


@dataclass(frozen=True, kw_only=True)
class Normalized(Match):
    """A normalisation of x."""

    norm: Norm


@dataclass(frozen=True, kw_only=True)
class RaiseRmsNormalization(Rewrite):
    """x / sqrt(mean(x^2) + epsilon) * scale -> RMSNormalization"""

    name: ClassVar[str] = "raise-rms-normalization"
    anchors: ClassVar[tuple[str, ...]] = REDUCTIONS
    subject: ClassVar[str] = "norms"
    whole: ClassVar[tuple[str, ...]] = ("RMSNormalization",)

    def match(self, node: ir.Node) -> Match | Miss:
        found = find(node)
        if isinstance(found, Miss):
            return found
        if found.centred:
            value = f"(x - mean(x)) / sqrt(variance + epsilon) at {found.y.name}"
            return Miss("function", value, "x itself", far=True)
        return Normalized(node=node, norm=found)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Normalized)
        norm, tape = found.norm, Tape()
        scale = along(tape, norm.scale, norm.sizes, norm.x.dtype)
        made = tape("RMSNormalization", norm.x, scale, axis=-len(norm.sizes), epsilon=norm.epsilon)
        if norm.bias is not None:
            made = tape("Add", made, norm.bias)
        replace(tape, [norm.y], [made], matched=[found.node])
