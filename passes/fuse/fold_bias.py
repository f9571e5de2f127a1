"""Fold a constant that is added beside a linear layer into the layer's bias.

    before   (x @ W + b) + c                after   x @ W + (b + c)                c: a number or [out]
    before   (x + c) @ W + b                after   x @ W + (b + c @ W)            c: [in]

Exact. Left alone: layers below float32; sums that something other than biased linear layers reads; tied weights.
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


@dataclass(frozen=True, kw_only=True)
class Shifted(Match):
    """The biased layers that take the constant in, `before` where it is added to their activation."""

    layers: tuple[Dense, ...]
    before: bool
    x: ir.Value
    shift: ir.Value


@dataclass(frozen=True, kw_only=True)
class FoldBias(Rewrite):
    """(x @ W + b) + c -> x @ W + (b + c)"""

    name: ClassVar[str] = "fold-bias"
    anchors: ClassVar[tuple[str, ...]] = ("Add",)

    def match(self, node: ir.Node) -> Match | Miss:
        left, right = node.inputs
        x, shift = (right, left) if is_constant(left) else (left, right)
        if x is None or shift is None or not is_constant(shift) or is_constant(x):
            return Miss("constant", node.name or "", "a computed value plus a constant")
        if shift.dtype not in PRECISE or len(sizes(shift)) > 1:
            return Miss("constant", shift.name or "", "a float32 or float64 number or vector")
        behind = dense_of(x)
        if isinstance(behind, Dense) and behind.bias is not None and len(x.uses()) == 1 and not x.is_graph_output():
            return _checked(node, (behind,), x, shift, before=False)
        ahead = [dense_at(reader) for reader in node.outputs[0].consumers()]
        layers = tuple(layer for layer in ahead if isinstance(layer, Dense) and layer.x is node.outputs[0])
        if not layers or len(layers) != len(node.outputs[0].uses()) or node.outputs[0].is_graph_output():
            return Miss("layers", node.outputs[0].name or "", "a biased layer before it, or only such layers behind it")
        if any(layer.bias is None for layer in layers):
            return Miss("layers", node.outputs[0].name or "", "layers that have a bias")
        return _checked(node, layers, x, shift, before=True)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Shifted)
        for layer in found.layers:
            tape = Tape()
            product = tape("MatMul", found.x, layer.weight) if found.before else layer.product.outputs[0]
            result = tape("Add", product, _bias(tape, layer, found))
            old = layer.output if found.before else found.node.outputs[0]
            matched = [node for node in (found.node, layer.add) if node is not None]
            replace(tape, [old], [result], matched=[*matched, layer.product] if found.before else matched)


def _checked(node: ir.Node, layers: tuple[Dense, ...], x: ir.Value, shift: ir.Value, *, before: bool) -> Match | Miss:
    if not np.isfinite(numbers(shift)).all():
        return Miss("constant", shift.name or "", "finite numbers")
    for layer in layers:
        missed = fits(shift, x, layer, before=before)
        if missed is not None:
            return missed
    return Shifted(node=node, layers=layers, before=before, x=x, shift=shift)


def _bias(tape: Tape, layer: Dense, found: Shifted) -> ir.Value:
    bias, shift, weight = layer.bias, numbers(found.shift).reshape(-1), layer.weight
    assert bias is not None
    dtype = bias.dtype
    assert dtype is not None

    def compute() -> Array:
        if not found.before:
            return cast(numbers(bias) + shift, dtype)
        matrix = numbers(weight)
        return cast(numbers(bias) + np.broadcast_to(shift, matrix.shape[:1]) @ matrix, dtype)

    return tape.lazy(derived(bias.name or "bias", sizes(bias), dtype, compute))
