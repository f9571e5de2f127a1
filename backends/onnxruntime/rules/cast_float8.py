"""Activations rounded to 8-bit floats, by a Cast instead of nodes that the runtime takes for integers.

    before   QuantizeLinear(x, s)                after   Cast(x / s)
             DequantizeLinear(x8, s)                     Cast(x8) * s

Exact. ONNX Runtime's fusions of quantized layers do not look at the type: a Relu before a QuantizeLinear is dropped as
if the type had no negative numbers, a Gemm or Conv between becomes one of integers, which then does not load. Left
alone: other types, constants (`widen_float8`), scales that are no single constant, and zero points other than zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Tape, attribute, constant_of, is_constant, is_op, replace

_TYPES = (ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2)


@dataclass(frozen=True, kw_only=True)
class Rounded(Match):
    """What is rounded or was, its scale, and the type that the node gives."""

    value: ir.Value
    scale: ir.Value
    to: ir.DataType


@dataclass(frozen=True, kw_only=True)
class CastFloat8(Rewrite):
    """QuantizeLinear and DequantizeLinear of 8-bit floats -> Cast"""

    name: ClassVar[str] = "onnxruntime-cast-float8"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("QuantizeLinear", "DequantizeLinear")

    def match(self, node: ir.Node) -> Match | Miss:
        value, scale, zero = (*node.inputs, None)[:3]
        assert value is not None and scale is not None
        narrow, wide = node.outputs[0].dtype, scale.dtype
        if is_op(node, "DequantizeLinear"):
            narrow, wide = value.dtype, narrow
        if narrow not in _TYPES or wide is None or is_constant(value):
            kind = "a constant" if is_constant(value) else "" if narrow is None else narrow.name.lower()
            return Miss("dtype", kind, "activations of 8-bit floats", far=True)
        if scale.dtype != wide or (is_op(node, "QuantizeLinear") and value.dtype != wide):
            return Miss("dtype", "" if scale.dtype is None else scale.dtype.name.lower(), "scales of the numbers' type")
        factor = constant_of(scale)
        if factor is None or factor.size != 1 or attribute(node, "block_size", 0):
            return Miss("scale", scale.name or "", "one constant scale")
        offset = None if zero is None else constant_of(zero)
        if zero is not None and (offset is None or offset.astype("float32").any()):
            return Miss("zero point", zero.name or "", "a zero point of zero")
        return Rounded(node=node, value=value, scale=scale, to=wide if is_op(node, "DequantizeLinear") else narrow)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Rounded)
        tape = Tape()
        if is_op(found.node, "DequantizeLinear"):
            new = tape("Mul", tape("Cast", found.value, to=int(found.to)), found.scale)
        else:
            saturate = attribute(found.node, "saturate", 1)
            new = tape("Cast", tape("Div", found.value, found.scale), to=int(found.to), saturate=saturate)
        replace(tape, found.node.outputs, [new])
