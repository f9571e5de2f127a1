"""Fold a constant that is added beside a layer into the layer's bias.

    before   (x @ W + b) + c                   after   x @ W + (b + c)                 c: a number or [out]
    before   (x + c) @ W + b                   after   x @ W + (b + c @ W)             c: a number or [in]
    before   LayerNormalization(x, g) + c      after   LayerNormalization(x, g, c)

Exact. Gemm and convolutions are such layers as well, the latter only behind: a border of zeros is not shifted. Left
alone: layers below float32; sums that something other than biased linear layers reads; tied weights; weights that are
not finite, whose product with a zero of c would be NaN, and sums that might leave the range of float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.constants import is_constant
from ..base import Match, Miss, Rewrite
from ..edit import Array, Tape, is_op, replace
from .dense import PRECISE, RANGE, cast, largest, numbers, sizes, unfit
from .layers import Layer, layer_at, layer_of

_Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Shifted(Match):
    """The biased layers that take the constant in, each with what it sees of it; `before` where it is added to x."""

    layers: tuple[Layer, ...]
    shifts: tuple[_Numbers, ...]
    before: bool
    x: ir.Value


@dataclass(frozen=True, kw_only=True)
class FoldBias(Rewrite):
    """(x @ W + b) + c -> x @ W + (b + c)"""

    name: ClassVar[str] = "fold-bias"
    anchors: ClassVar[tuple[str, ...]] = ("Add",)

    def match(self, node: ir.Node) -> Match | Miss:
        left, right = node.inputs
        x, shift = (right, left) if is_constant(left) else (left, right)
        if x is None or shift is None or not is_constant(shift) or is_constant(x):
            return Miss("constant", node.name or "", "a computed value plus a constant", far=True)
        if shift.dtype not in PRECISE:
            return Miss("constant", shift.name or "", "float32 or float64 numbers", far=True)
        result = node.outputs[0]
        behind = layer_of(x)
        alone = len(x.uses()) == 1 and not x.is_graph_output()
        if isinstance(behind, Layer) and behind.takes_bias and alone and behind.node.graph is node.graph:
            return _checked(node, (behind,), x, shift, before=False)
        ahead = [layer_at(reader) for reader in result.consumers() if is_op(reader, "MatMul", "Gemm")]
        layers = tuple(
            layer
            for layer in ahead
            if isinstance(layer, Layer) and layer.x is result and layer.node.graph is node.graph
        )
        if not layers or len(layers) != len(result.uses()) or result.is_graph_output():
            return Miss(
                "layers", result.name or "", "a biased layer before it, or only such layers behind it", far=True
            )
        if not all(layer.takes_bias and layer.ins for layer in layers):
            return Miss("layers", result.name or "", "layers that have a bias")
        return _checked(node, layers, x, shift, before=True)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Shifted)
        for layer, shift in zip(found.layers, found.shifts, strict=True):
            tape = Tape()
            bias = _bias(tape, layer, shift, found.before)
            matched = [found.node, *layer.nodes]
            if found.before:
                replace(tape, [layer.output], [layer.again(tape, found.x, layer.weight, bias)], matched=matched)
            elif layer.add is not None:
                made = tape("Add", layer.node.outputs[0], bias)
                replace(tape, found.node.outputs, [made], matched=[found.node, layer.add])
            else:
                made = layer.again(tape, layer.x, layer.weight, bias)
                replace(tape, found.node.outputs, [made], matched=matched)


def _checked(node: ir.Node, layers: tuple[Layer, ...], x: ir.Value, shift: ir.Value, *, before: bool) -> Match | Miss:
    shifts: list[_Numbers] = []
    for layer in layers:
        seen = layer.per_input(shift, x) if before else layer.per_output(shift)
        if isinstance(seen, Miss):
            return seen
        shifts.append(seen)
    size = largest(shift)
    if not size <= RANGE:
        return Miss("constant", shift.name or "", f"finite numbers, of at most {RANGE:g}")
    for layer in layers:
        inputs = sizes(layer.weight)[layer.ins[0]] if before else 1
        missed = unfit(layer.bias) or (unfit(layer.weight, most=max(size * inputs, 1.0)) if before else None)
        if missed is not None:
            return missed
    return Shifted(node=node, layers=layers, shifts=tuple(shifts), before=before, x=x)


def _bias(tape: Tape, layer: Layer, shift: _Numbers, before: bool) -> ir.Value:
    bias, weight, dtype = layer.bias, layer.weight, layer.weight.dtype
    assert dtype is not None

    def compute() -> Array:
        moved = shift
        if before:
            # [in] @ [in, out], whichever way the weight lies
            matrix = numbers(weight)
            moved = np.tensordot(np.broadcast_to(shift, matrix.shape[layer.ins[0]]), matrix, (0, layer.ins[0]))
        return cast(np.broadcast_to(moved, layer.widths) + (0.0 if bias is None else numbers(bias)), dtype)

    return tape.derived("bias" if bias is None else bias.name or "bias", layer.widths, dtype, compute)
