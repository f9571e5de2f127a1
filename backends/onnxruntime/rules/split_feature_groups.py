"""Linear layers whose activation has a grid for each group of features: a product on integers for each group.

    before   DequantizeLinear{axis=-1}(QuantizeLinear{axis=-1}(x, s, z), s, z) @ DequantizeLinear(W, scale) + b
    after    x_1, x_2, .. = Split(Gather(x, order))                   features of one grid side by side
             Sum over g of MatMulIntegerToFloat(QuantizeLinear(x_g, s_g, z_g), W_g, s_g, scale, z_g), b in the first

Exact: x W = sum x_g W_g. ONNX Runtime has no product of integers whose scale changes along the sum, and fuses one that
fails when it is run. Where there are more groups than are worth a product each, or the weight is not int8 by column,
the round trip is spelled in arithmetic instead, (Cast(q) - z) * s, which nothing fuses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Array, Tape, attribute, constant_of, is_op, replace
from .linear import DOMAIN, Linear, outermost

#: More groups are not worth a product each.
_MOST = 16


@dataclass(frozen=True, kw_only=True)
class Grids(Match):
    """The round trip, scale and zero point of each feature, and the layer where it becomes several."""

    there: ir.Node
    scale: Array
    zero: Array
    layer: Linear | None


@dataclass(frozen=True, kw_only=True)
class SplitFeatureGroups(Rewrite):
    """activations with grids for groups of features -> a MatMulIntegerToFloat for each"""

    name: ClassVar[str] = "onnxruntime-split-feature-groups"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("MatMul", "DequantizeLinear")

    def match(self, node: ir.Node) -> Match | Miss:
        back = node if node.op_type == "DequantizeLinear" else _producer(node.inputs[0])
        there = _producer(back.inputs[0]) if is_op(back, "DequantizeLinear") else None
        if not is_op(back, "DequantizeLinear") or not is_op(there, "QuantizeLinear"):
            return Miss("activation", node.name or "", "an activation that is rounded", far=True)
        scale, zero = constant_of(back.inputs[1]), constant_of(back.inputs[2]) if len(back.inputs) > 2 else None
        if scale is None or scale.ndim != 1 or not _is_last(back) or attribute(back, "block_size", 0):
            return Miss("axis", node.name or "", "a scale for each feature of the last axis", far=True)
        if list(there.inputs[1:]) != list(back.inputs[1:]):
            return Miss("grid", node.name or "", "integers read by the scale and zero point that they were made with")
        zero = np.zeros(scale.shape, np.uint8) if zero is None else zero
        layer = outermost(node) if node.op_type == "MatMul" else None
        if node.op_type == "MatMul" and (layer is None or not _splits(layer, scale, zero)):
            need = f"int8 columns, activations of uint8 and at most {_MOST} groups"
            return Miss("layer", node.name or "", need)
        if node.op_type == "DequantizeLinear" and any(
            self._splits_at(reader) for reader in node.outputs[0].consumers()
        ):
            return Miss("readers", node.name or "", "readers that are not split")
        return Grids(node=node, there=there, scale=scale, zero=zero, layer=layer)

    def _splits_at(self, reader: ir.Node) -> bool:
        return is_op(reader, "MatMul") and not isinstance(self.match(reader), Miss)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Grids)
        if found.layer is None:
            _spell(found)
        else:
            _split(found, found.layer)


def _split(found: Grids, layer: Linear) -> None:
    tape, x = Tape(), found.there.inputs[0]
    pairs = np.stack([found.scale.astype(np.float64), found.zero.astype(np.float64)])
    _, members = np.unique(pairs, axis=1, return_inverse=True)
    members = members.reshape(-1)
    order = np.argsort(members, kind="stable")
    sizes = np.bincount(members)
    if (np.diff(order) < 0).any():
        x = tape("Gather", x, tape.constant(order, "order"), axis=-1)
    split = tape.node("Split", [x, tape.constant(sizes, "sizes")], {"axis": -1}, outputs=len(sizes))
    weight, bias, products = constant_of(layer.weight), layer.bias, []
    assert weight is not None
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for group, part in enumerate(split.outputs):
        rows = order[starts[group] : starts[group + 1]]
        scale = tape.constant(np.asarray(found.scale[rows[0]]), "scale")
        zero = tape.constant(np.asarray(found.zero[rows[0]]), "zero_point")
        codes = tape("QuantizeLinear", part, scale, zero)
        stored = tape.weight(np.ascontiguousarray(weight[rows]), f"{layer.weight.name}_{group}")
        inputs = (codes, stored, scale, layer.scale, zero, None, bias if not group else None)
        products.append(tape("MatMulIntegerToFloat", *inputs, domain=DOMAIN))
    total = products[0] if len(products) == 1 else tape("Sum", *products)
    replace(tape, [layer.output], [total], matched=[*layer.nodes])


def _spell(found: Grids) -> None:
    tape, node = Tape(), found.node
    wide = tape("Cast", node.inputs[0], to=int(ir.DataType.from_numpy(found.scale.dtype)))
    if found.zero.astype(np.float32).any():
        wide = tape("Sub", wide, tape.constant(found.zero.astype(found.scale.dtype), "zero_point"))
    replace(tape, node.outputs, [tape("Mul", wide, node.inputs[1])])


def _splits(layer: Linear, scale: Array, zero: Array) -> bool:
    """Whether a product for each group of features is worth it."""
    pairs = {*zip(scale.tolist(), zero.astype(np.float64).tolist(), strict=True)}
    return layer.scale is not None and layer.codes is None and zero.dtype == np.uint8 and len(pairs) <= _MOST


def _is_last(node: ir.Node) -> bool:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axis = attribute(node, "axis", 1)
    return axis == -1 or (shape is not None and axis == len(shape) - 1)


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()
