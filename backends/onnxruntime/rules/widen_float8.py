"""Widen weights of 8-bit floats once, when the model is loaded.

    before   DequantizeLinear(W8, scale)
    after    Cast(W8) * scale

Exact: ONNX Runtime computes what depends on constants alone at load, but leaves dequantization to its kernels, of which
it has none for these types: it would widen the whole weight at every run, and cannot look up rows of it. Left alone:
what is not constant, other types, and scales of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Array, Tape, attribute, constant_of, is_constant, replace

_TYPES = (ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2)


@dataclass(frozen=True, kw_only=True)
class Narrow(Match):
    """The stored weight, and its scales as they meet each number."""

    weight: ir.Value
    scale: Array


@dataclass(frozen=True, kw_only=True)
class WidenFloat8(Rewrite):
    """DequantizeLinear of 8-bit floats -> Cast and Mul"""

    name: ClassVar[str] = "onnxruntime-widen-float8"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("DequantizeLinear",)

    def match(self, node: ir.Node) -> Match | Miss:
        weight, scale = node.inputs[0], constant_of(node.inputs[1])
        if weight is None or not is_constant(weight) or weight.dtype not in _TYPES:
            kind = "" if weight is None or weight.dtype is None else weight.dtype.name.lower()
            return Miss("dtype", kind, "a constant of 8-bit floats", far=True)
        if len(node.inputs) > 2 or scale is None or scale.ndim > 1 or weight.shape is None:
            return Miss("scale", node.inputs[1].name or "" if node.inputs[1] else "", "constant scales of channels")
        shape = [1] * len(weight.shape)
        if scale.size > 1:
            shape[attribute(node, "axis", 1)] = scale.size
        return Narrow(node=node, weight=weight, scale=scale.reshape(shape))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Narrow)
        tape = Tape()
        wide = tape("Cast", found.weight, to=int(ir.DataType.from_numpy(found.scale.dtype)))
        scale = tape.weight(np.ascontiguousarray(found.scale), f"{found.weight.name}_scale")
        replace(tape, found.node.outputs, [tape("Mul", wide, scale)])
