"""Compute in one product what several linear layers make of one activation: Q, K and V, or gate and up.

    before   q = x @ Wq + bq      k = x @ Wk + bk      v = x @ Wv + bv
    after    q, k, v = Split(x @ [Wq Wk Wv] + [bq bk bv])

Exact: columns of a product do not see each other. The joined weight is put together when its bytes are read. Left
alone: layers alone on their activation, tied weights, weights of different types. A runtime that splits slowly may lose
by it: time it (`tersor bench`) before putting it in a pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..base import Match, Miss, Rewrite
from ..edit import Array, Tape, is_op, replace
from .dense import Dense, dense_at, derived, sizes


@dataclass(frozen=True, kw_only=True)
class Siblings(Match):
    """Linear layers of one activation, in graph order; `biased` where every one of them adds a bias."""

    layers: tuple[Dense, ...]
    biased: bool


@dataclass(frozen=True, kw_only=True)
class MergeMatMuls(Rewrite):
    """x @ A, x @ B -> Split(x @ [A B])

    most: the largest number of outputs of a merged layer.
    """

    name: ClassVar[str] = "merge-matmuls"
    anchors: ClassVar[tuple[str, ...]] = ("MatMul",)
    most: int = 1 << 16

    def match(self, node: ir.Node) -> Match | Miss:
        first = dense_at(node)
        if isinstance(first, Miss):
            return first
        if first.width > self.most:
            return Miss("width", str(first.width), f"at most {self.most} outputs")
        layers, width = [], 0
        for reader in first.x.consumers():
            other = dense_at(reader) if is_op(reader, "MatMul") and reader.graph is node.graph else None
            if not isinstance(other, Dense) or other.weight.dtype is not first.weight.dtype:
                continue
            if other.product.inputs[0] is first.x and width + other.width <= self.most:
                layers.append(other)
                width += other.width
        if len(layers) < 2 or first.product not in [layer.product for layer in layers]:
            return Miss("siblings", first.x.name or "", "another linear layer of the same activation")
        return Siblings(node=node, layers=tuple(layers), biased=all(layer.add is not None for layer in layers))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Siblings)
        tape, layers = Tape(), found.layers
        whole = tape("MatMul", layers[0].x, _joined(tape, [layer.weight for layer in layers], "weight"))
        if found.biased:
            whole = tape(
                "Add", whole, _joined(tape, [layer.bias for layer in layers if layer.bias is not None], "bias")
            )
        widths = tape.constant([layer.width for layer in layers], "widths")
        split = tape.node("Split", [whole, widths], {"axis": -1}, outputs=len(layers))
        old = [layer.output if found.biased else layer.product.outputs[0] for layer in layers]
        matched = [node for layer in layers for node in (layer.product, layer.add) if node is not None]
        replace(tape, old, split.outputs, matched=matched if found.biased else [layer.product for layer in layers])


def _joined(tape: Tape, parts: Sequence[ir.Value], name: str) -> ir.Value:
    """The constants side by side."""
    tensors = [part.const_value for part in parts]
    first = sizes(parts[0])
    shape = (*first[:-1], sum(sizes(part)[-1] for part in parts))

    def compute() -> Array:
        return np.concatenate([tensor.numpy() for tensor in tensors if tensor is not None], axis=-1)

    assert parts[0].dtype is not None
    return tape.lazy(derived(name, shape, parts[0].dtype, compute))
