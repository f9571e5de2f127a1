"""Fold a constant scale into the linear layers beside it.

    before   (x @ W + b) * c                after   x @ (W * c) + b * c            c: a number or [out]
    before   (x * c) @ W                    after   x @ (diag(c) @ W)              c: a number or [in]

Exact. Left alone: weights below float32, where c W rounds; tied weights; scales that something other than linear layers
reads; scales that are not finite or not constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.constants import is_constant
from ..base import Match, Miss, Rewrite
from ..edit import Array, Tape, replace
from .dense import PRECISE, Dense, cast, dense_at, dense_of, derived, fits, numbers, sizes

#: Factors outside 1 / _RANGE .. _RANGE could take a weight out of float32 that its product with an activation was in.
_RANGE = 1e12


@dataclass(frozen=True, kw_only=True)
class Scaled(Match):
    """The layers that take the factor in, `before` where it scales their activation, and what is scaled."""

    layers: tuple[Dense, ...]
    before: bool
    x: ir.Value
    factor: ir.Value
    divides: bool


@dataclass(frozen=True, kw_only=True)
class FoldScale(Rewrite):
    """(x @ W) * c -> x @ (W * c)"""

    name: ClassVar[str] = "fold-scale"
    anchors: ClassVar[tuple[str, ...]] = ("Mul", "Div")

    def match(self, node: ir.Node) -> Match | Miss:
        left, right = node.inputs
        x, factor = (right, left) if is_constant(left) and node.op_type == "Mul" else (left, right)
        if x is None or factor is None or not is_constant(factor) or is_constant(x):
            return Miss("factor", node.name or "", "a computed value times a constant")
        if factor.dtype not in PRECISE or len(sizes(factor)) > 1:
            return Miss("factor", factor.name or "", "a float32 or float64 number or vector")
        behind = dense_of(x)
        if isinstance(behind, Dense) and len(x.uses()) == 1 and not x.is_graph_output():
            return _checked(node, (behind,), x, factor, before=False)
        readers = node.outputs[0].consumers()
        ahead = [dense_at(reader) for reader in readers]
        layers = tuple(layer for layer in ahead if isinstance(layer, Dense) and layer.x is node.outputs[0])
        if not layers or len(layers) != len(node.outputs[0].uses()) or node.outputs[0].is_graph_output():
            return Miss("layers", node.outputs[0].name or "", "a linear layer before it, or nothing else behind it")
        return _checked(node, layers, x, factor, before=True)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Scaled)
        for layer in found.layers:
            _fold(found, layer)


def _checked(node: ir.Node, layers: tuple[Dense, ...], x: ir.Value, factor: ir.Value, *, before: bool) -> Match | Miss:
    size = np.abs(numbers(factor))
    if not np.all((size >= 1 / _RANGE) & (size <= _RANGE)):
        return Miss("factor", factor.name or "", f"numbers between {1 / _RANGE:g} and {_RANGE:g}, whatever their sign")
    for layer in layers:
        missed = fits(factor, x, layer, before=before)
        if missed is not None:
            return missed
    return Scaled(node=node, layers=layers, before=before, x=x, factor=factor, divides=node.op_type == "Div")


def _fold(found: Scaled, layer: Dense) -> None:
    """Replace the result of a layer by that of one whose weights carry the factor."""
    tape = Tape()
    weight = _scaled(tape, layer.weight, found, found.before)
    result = tape("MatMul", found.x if found.before else layer.x, weight)
    if found.before:
        replace(tape, layer.product.outputs, [result], matched=[layer.product, found.node])
        return
    if layer.bias is not None:
        result = tape("Add", result, _scaled(tape, layer.bias, found, False))
    matched = [node for node in (found.node, layer.add, layer.product) if node is not None]
    replace(tape, found.node.outputs, [result], matched=matched)


def _scaled(tape: Tape, value: ir.Value, found: Scaled, rows: bool) -> ir.Value:
    factor, dtype = numbers(found.factor).reshape(-1), value.dtype
    assert dtype is not None

    def compute() -> Array:
        by = factor.reshape(-1, 1) if rows else factor
        return cast(numbers(value) / by if found.divides else numbers(value) * by, dtype)

    return tape.lazy(derived(value.name or "weight", sizes(value), dtype, compute))
