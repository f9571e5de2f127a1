"""Fold a constant scale into the layers beside it.

    before   (x @ W + b) * c                       after   x @ (W * c) + b * c              c: a number or [out]
    before   (x * c) @ W                           after   x @ (diag(c) @ W)                c: a number or [in]
    before   LayerNormalization(x, g, b) * c       after   LayerNormalization(x, g * c, b * c)
    before   Attention(q, k, v * c) @ W            after   Attention(q, k, v) @ (c * W)

Exact. Convolutions and Gemm are such layers as well; one number passes reshapes, transposes, rotations and the values
of Attention, whose weights do not depend on it, and a vector the values of heads that lie side by side. Left alone:
weights below float32, where c W rounds; tied weights; scales that something other than linear layers reads; scales and
weights whose product might leave the range of float32, and weights that are not finite; Attention that has a past or
whose cache is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.constants import is_constant
from ...ir.content import dimensions
from ..base import Match, Miss, Rewrite
from ..edit import Array, Tape, replace
from .carriers import above, below, carry
from .dense import PRECISE, RANGE, cast, numbers, sizes, unfit
from .layers import Layer, layer_of

_Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scaled(Match):
    """The layers that take the factors in, `before` where those scale their activation.

    x: what is scaled. factors: one number, or one for each feature. passed: what lies between x and a layer above it.
    """

    layers: tuple[Layer, ...]
    before: bool
    x: ir.Value
    factors: _Numbers
    passed: tuple[ir.Node, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FoldScale(Rewrite):
    """(x @ W) * c -> x @ (W * c)"""

    name: ClassVar[str] = "fold-scale"
    anchors: ClassVar[tuple[str, ...]] = ("Mul", "Div")

    def match(self, node: ir.Node) -> Match | Miss:
        left, right = node.inputs
        x, factor = (right, left) if is_constant(left) and node.op_type == "Mul" else (left, right)
        if x is None or factor is None or not is_constant(factor) or is_constant(x):
            return Miss("factor", node.name or "", "a computed value times a constant", far=True)
        if factor.dtype not in PRECISE:
            return Miss("factor", factor.name or "", "float32 or float64 numbers", far=True)
        one = _size(factor) == 1
        if one and len(sizes(factor)) > len(dimensions(x) or ()):
            return Miss("broadcast", f"{x.name}: {dimensions(x)}", f"a value of at least {len(sizes(factor))} axes")
        # a vector on the last axis alone passes what keeps that axis
        source, passed = above(x, one=one) if one or len(sizes(factor)) == 1 else (x, [])
        behind = layer_of(source)
        if isinstance(behind, Layer) and _only(source) and behind.node.graph is node.graph and _only(x):
            return _checked(node, (behind,), x, factor, before=False, passed=(*passed,))
        ahead = below(node.outputs[0], node.graph, one=one)
        if not ahead:
            return Miss(
                "layers", node.outputs[0].name or "", "a layer before it, or linear layers alone behind it", far=True
            )
        return _checked(node, (*ahead,), x, factor, before=True)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Scaled)
        result = found.node.outputs[0]
        for layer in found.layers:
            tape = Tape()
            by = layer.by_input(found.factors) if found.before else layer.by_output(found.factors)
            weight = _scaled(tape, layer.weight, by)
            if found.before:
                x = found.x if layer.x is result else layer.x
                made = layer.again(tape, x, weight, None if layer.add is not None else layer.bias)
                replace(tape, [layer.node.outputs[0]], [made], matched=[layer.node, found.node])
                continue
            bias = None if layer.bias is None else _scaled(tape, layer.bias, found.factors)
            made = carry(tape, layer.again(tape, layer.x, weight, bias), found.passed, one=not found.factors.ndim)
            replace(tape, [result], [made], matched=[found.node, *found.passed, *layer.nodes])
        if found.node.graph is not None:
            replace(Tape(), [result], [found.x])


def _checked(
    node: ir.Node,
    layers: tuple[Layer, ...],
    x: ir.Value,
    factor: ir.Value,
    *,
    before: bool,
    passed: tuple[ir.Node, ...] = (),
) -> Match | Miss:
    size = np.abs(numbers(factor))
    if not np.all((size >= 1 / RANGE) & (size <= RANGE)):
        return Miss("factor", factor.name or "", f"numbers between {1 / RANGE:g} and {RANGE:g}, whatever their sign")
    number = numbers(factor).reshape(()) if size.size == 1 else None
    factors = number
    for layer in layers:
        if factor.dtype is not layer.weight.dtype:
            return Miss("width", f"{factor.name}: {factor.dtype}", "one number or a vector of the weight's type")
        if number is None:
            fitting = layer.per_input(factor, x) if before else layer.per_output(factor)
            if isinstance(fitting, Miss):
                return fitting
            factors = fitting
    assert factors is not None
    factors = 1 / factors if node.op_type == "Div" else factors
    least, most = (float(np.abs(factors).min(initial=1.0)), float(np.abs(factors).max(initial=1.0)))
    for layer in layers:
        for constant in (layer.weight,) if before else (layer.weight, layer.bias):
            missed = unfit(constant, least, most)
            if missed is not None:
                return missed
    return Scaled(node=node, layers=layers, before=before, x=x, factors=factors, passed=passed)


def _scaled(tape: Tape, value: ir.Value, by: _Numbers) -> ir.Value:
    dtype = value.dtype
    assert dtype is not None

    def compute() -> Array:
        return cast(numbers(value) * by, dtype)

    return tape.derived(value.name or "weight", sizes(value), dtype, compute)


def _size(value: ir.Value) -> int:
    return int(np.prod(sizes(value)))


def _only(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()
