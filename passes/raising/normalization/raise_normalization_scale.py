"""Take the scale and bias that follow a normalisation into it, where it has none of its own.

    before   LayerNormalization(x, ones) --> Mul(_, scale) --> Add(_, bias)
    after    LayerNormalization(x, scale, bias)

Exact: 1 * scale = scale, 0 + bias = bias; the bias of RMSNormalization, which has none, stays an Add. Left alone, with
the reason: a scale other than ones, a bias other than zeros, a normalisation that something else reads, factors that
are not one for each element of a row or of another dtype, and what the model's user may override.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Tape, attribute, constant_of, is_op, only_reader, replace
from .scaling import along


@dataclass(frozen=True, kw_only=True)
class Scaled(Match):
    """The Mul or Add that reads a normalisation, and what it multiplies by or adds."""

    reader: ir.Node
    operand: ir.Value
    sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RaiseNormalizationScale(Rewrite):
    """LayerNormalization(x, ones) * scale + bias -> LayerNormalization(x, scale, bias)"""

    name: ClassVar[str] = "raise-normalization-scale"
    anchors: ClassVar[tuple[str, ...]] = ("LayerNormalization", "RMSNormalization")

    def match(self, node: ir.Node) -> Match | Miss:
        y = node.outputs[0]
        dims, axis = dimensions(node.inputs[0]), attribute(node, "axis", -1)
        sizes = [] if dims is None or not -len(dims) <= axis < len(dims) else dims[axis % len(dims) :]
        known = tuple(size for size in sizes if isinstance(size, int))
        if not known or len(known) != len(sizes):
            return Miss("shape", f"{y.name}: {sizes}", "rows of known size")
        if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
            return Miss("statistics", y.name or "", "mean and deviation that nobody reads")
        reader = only_reader(y)
        if not is_op(reader, "Mul", "Add") or reader.graph is not node.graph:
            scaled = any(is_op(user, "Mul") for user in y.consumers()) and _holds(node.inputs[1], 1.0)
            return Miss("reader", y.name or "", "a Mul or an Add that alone reads it", far=not scaled)
        operand = reader.inputs[1] if reader.inputs[0] is y else reader.inputs[0]
        assert operand is not None
        # what a residual stream adds to it is no bias
        residual = reader.op_type == "Add" and not _is_row(operand, known)
        if reader.op_type == "Add" and node.op_type != "LayerNormalization":
            return Miss("reader", f"Add at {reader.name}", "a Mul, for the op takes no bias", far=residual)
        if not _is_row(operand, known) or operand.dtype != y.dtype or operand.dtype is None:
            need = f"one for each element of {list(known)}"
            return Miss("factors", f"{operand.name}: {dimensions(operand)}", need, far=residual)
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None and not _holds(bias, 0.0):
            return Miss("bias", bias.name or "", "zeros")
        if reader.op_type == "Mul" and not _holds(node.inputs[1], 1.0):
            return Miss("scale", (node.inputs[1].name if node.inputs[1] else None) or "", "ones")
        return Scaled(node=node, reader=reader, operand=operand, sizes=known)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Scaled)
        node, tape = found.node, Tape()
        row = along(tape, found.operand, found.sizes, found.operand.dtype)
        inputs = [node.inputs[0], row] if found.reader.op_type == "Mul" else [*node.inputs[:2], row]
        made = tape.node(node.op_type, inputs).outputs[0]
        new = made.producer()
        assert new is not None
        new.attributes.update(node.attributes)
        replace(tape, [found.reader.outputs[0]], [made], matched=[node])


def _is_row(value: ir.Value, sizes: tuple[int, ...]) -> bool:
    dims = dimensions(value)
    return dims is not None and dims[-len(sizes) :] == [*sizes] and all(dim == 1 for dim in dims[: -len(sizes)])


def _holds(value: ir.Value | None, number: float) -> bool:
    """Whether a value is a constant that holds one number throughout."""
    array = constant_of(value)
    return array is not None and bool(np.all(np.asarray(array) == number))
