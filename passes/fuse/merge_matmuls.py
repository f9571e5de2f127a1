"""Compute in one product what several linear layers make of one activation: Q, K and V, or gate and up.

    before   q = x @ Wq + bq      k = x @ Wk + bk      v = x @ Wv + bv
    after    q, k, v = Split(x @ [Wq Wk Wv] + [bq bk bv])

Exact: columns of a product do not see each other. The joined weight is put together when its bytes are read. Left
alone: layers alone on their activation, tied weights, weights of different types. A runtime that splits slowly may lose
by it: time it (`tersor bench`) before putting it in a pipeline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.constants import tensor_of
from ..base import Match, Miss, Rewrite
from ..edit import Array, Tape, is_op, replace
from .dense import Dense, dense_at, sizes


@dataclass(frozen=True, kw_only=True)
class Siblings(Match):
    """Linear layers of one activation, in groups of several that become one."""

    groups: tuple[tuple[Dense, ...], ...]


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
        beside = _beside(first, self.most)
        leader = next(beside)
        if leader.product is not node:
            # asked once for all layers of an activation, so that the work stays linear in them
            name = leader.product.outputs[0].name or ""
            return Miss("asked", name, "the answer there, which is for all layers of the activation", far=True)
        layers = (leader, *beside)
        groups = tuple(tuple(group) for group in _grouped(layers, self.most) if len(group) > 1)
        if len(layers) < 2:
            return Miss("siblings", first.x.name or "", "another linear layer of the same activation")
        if not groups:
            widths = sorted(layer.width for layer in layers)[:2]
            return Miss("width", " + ".join(map(str, widths)), f"at most {self.most} outputs together")
        return Siblings(node=node, groups=groups)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Siblings)
        for layers in found.groups:
            _merge(layers)


def _beside(first: Dense, most: int) -> Iterator[Dense]:
    """The layers that could be merged with one, itself included, in the order in which they read the activation."""
    for reader in first.x.consumers():
        other = dense_at(reader) if is_op(reader, "MatMul") and reader.graph is first.product.graph else None
        if not isinstance(other, Dense) or other.x is not first.x or other.width > most:
            continue
        if other.weight.dtype is first.weight.dtype:
            yield other


def _grouped(layers: Sequence[Dense], most: int) -> list[list[Dense]]:
    """Each layer in the first group that has room for it, so that no two groups would fit into one."""
    groups: list[list[Dense]] = []
    widths: list[int] = []
    for layer in layers:
        at = next((index for index, width in enumerate(widths) if width + layer.width <= most), len(groups))
        if at == len(groups):
            groups.append([])
            widths.append(0)
        groups[at].append(layer)
        widths[at] += layer.width
    return groups


def _merge(layers: Sequence[Dense]) -> None:
    biased = all(layer.add is not None for layer in layers)
    tape = Tape()
    whole = tape("MatMul", layers[0].x, _joined(tape, [layer.weight for layer in layers], "weight"))
    if biased:
        whole = tape("Add", whole, _joined(tape, [layer.bias for layer in layers if layer.bias is not None], "bias"))
    widths = tape.constant([layer.width for layer in layers], "widths")
    split = tape.node("Split", [whole, widths], {"axis": -1}, outputs=len(layers))
    old = [layer.output if biased else layer.product.outputs[0] for layer in layers]
    matched = [node for layer in layers for node in (layer.product, layer.add) if node is not None]
    replace(tape, old, split.outputs, matched=matched if biased else [layer.product for layer in layers])


def _joined(tape: Tape, parts: Sequence[ir.Value], name: str) -> ir.Value:
    """The constants side by side."""
    tensors = [tensor_of(part) for part in parts]
    first = sizes(parts[0])
    shape = (*first[:-1], sum(sizes(part)[-1] for part in parts))

    def compute() -> Array:
        return np.concatenate([tensor.numpy() for tensor in tensors if tensor is not None], axis=-1)

    assert parts[0].dtype is not None
    return tape.derived(name, shape, parts[0].dtype, compute)
