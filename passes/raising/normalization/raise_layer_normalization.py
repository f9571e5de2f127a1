"""Raise layer normalisation from its arithmetic to one LayerNormalization node.

    before   d = x - ReduceMean(x),  d / Sqrt(ReduceMean(d * d) + epsilon) * scale + bias
    after    LayerNormalization{axis, epsilon}(x, scale, bias)

Exact: y = f(x) is shown by evaluating what lies between x and y at sample rows (Ba et al., Layer Normalization, 2016,
equation 4). Arithmetic in float16 or bfloat16 is done in float32 from then on, as the op's default says. A scale that
the arithmetic lacks is ones. Left alone, with the reason: axes that are not the last or of unknown size, the variance
as E[x^2] - E[x]^2, which cancels, double precision, which the op computes in float32, and any other function.
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
class RaiseLayerNormalization(Rewrite):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias -> LayerNormalization"""

    name: ClassVar[str] = "raise-layer-normalization"
    anchors: ClassVar[tuple[str, ...]] = REDUCTIONS
    subject: ClassVar[str] = "norms"
    whole: ClassVar[tuple[str, ...]] = ("LayerNormalization",)

    def match(self, node: ir.Node) -> Match | Miss:
        found = find(node)
        if isinstance(found, Miss):
            return found
        if not found.centred:
            value = f"x / sqrt(mean(x^2) + epsilon) at {found.y.name}"
            return Miss("function", value, "x - mean(x) for x", far=True)
        return Normalized(node=node, norm=found)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Normalized)
        norm, tape = found.norm, Tape()
        inputs = [norm.x, along(tape, norm.scale, norm.sizes, norm.x.dtype)]
        if norm.bias is not None:
            inputs.append(along(tape, norm.bias, norm.sizes, norm.x.dtype))
        made = tape("LayerNormalization", *inputs, axis=-len(norm.sizes), epsilon=norm.epsilon)
        replace(tape, [norm.y], [made], matched=[found.node])
