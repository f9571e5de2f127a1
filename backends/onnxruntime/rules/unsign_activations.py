"""Activations rounded to unsigned integers, for which there are fast kernels.

    before   DequantizeLinear(QuantizeLinear(x, s, zero), s, zero)                  zero of int8
    after    DequantizeLinear(QuantizeLinear(x, s, zero + 128), s, zero + 128)      of uint8

Exact: the same grid, its integers 128 higher. On x86 ONNX Runtime multiplies int8 by int8 four times slower than uint8
by int8, and has no attention for it. Left alone: what is no constant grid, integers that others read, and those on the
right side of products, where int8 is the faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Array, Tape, attribute, constant_of, is_op, replace
from .sides import only_right


@dataclass(frozen=True, kw_only=True)
class Signed(Match):
    """The nodes that read the integers, and their zero point."""

    back: tuple[ir.Node, ...]
    zero: Array


@dataclass(frozen=True, kw_only=True)
class UnsignActivations(Rewrite):
    """int8 activations -> uint8"""

    name: ClassVar[str] = "onnxruntime-unsign-activations"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("QuantizeLinear",)

    def match(self, node: ir.Node) -> Match | Miss:
        codes = node.outputs[0]
        zero = _zero(node)
        if zero is None or zero.dtype != np.int8:
            return Miss("dtype", codes.name or "", "integers of int8 with a constant zero point", far=True)
        readers = tuple(codes.consumers())
        if codes.is_graph_output() or not all(is_op(reader, "DequantizeLinear") for reader in readers):
            return Miss("readers", codes.name or "", "integers that only DequantizeLinear reads")
        if not all(_same(_zero(reader), zero) and _axis(reader) == _axis(node) for reader in readers):
            return Miss("grid", codes.name or "", "integers read by the zero point that they were made with")
        if readers and all(only_right(reader.outputs[0]) for reader in readers):
            return Miss("side", codes.name or "", "integers that a product reads on the left")
        return Signed(node=node, back=readers, zero=zero)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Signed)
        node, scale = found.node, found.node.inputs[1]
        tape = Tape()
        zero = tape.constant(np.asarray(found.zero.astype(np.int16) + 128, np.uint8), "zero_point")
        kept = {name: attr for name, attr in node.attributes.items() if name in ("axis", "block_size", "saturate")}
        codes = tape.node("QuantizeLinear", [node.inputs[0], scale, zero], kept).outputs[0]
        codes.shape, codes.type = node.outputs[0].shape, ir.TensorType(ir.DataType.UINT8)
        made = [
            tape.node("DequantizeLinear", [codes, each.inputs[1], zero], dict(each.attributes.items()))
            for each in found.back
        ]
        old = [each.outputs[0] for each in found.back]
        replace(tape, old, [each.outputs[0] for each in made], matched=[node, *found.back])


def _zero(node: ir.Node) -> Array | None:
    """The zero point of a round trip's node; zeros where only the type says that they are int8."""
    zero, scale = node.inputs[2] if len(node.inputs) > 2 else None, constant_of(node.inputs[1])
    if zero is not None:
        return constant_of(zero)
    codes = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    if scale is None or codes is None or codes.dtype != ir.DataType.INT8:
        return None
    return np.zeros(scale.shape, np.int8)


def _same(left: Array | None, right: Array) -> bool:
    return left is not None and np.array_equal(left, right)


def _axis(node: ir.Node) -> tuple[int, int]:
    return attribute(node, "axis", 1), attribute(node, "block_size", 0)
