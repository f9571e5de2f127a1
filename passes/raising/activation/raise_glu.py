"""Raise gated linear units to one call each.

    before   Mul(Swish(MatMul(x, w)), MatMul(x, v))     after   tersor.SwiGLU(gate, up)
             Mul(Sigmoid(b), a),  (a, b) = Split(x w)           tersor.GLU(gate, up)

and GeGLU of Gelu, ReGLU of Relu: act(gate) * up (Shazeer, GLU Variants Improve Transformer, 2020, equation 5). Exact.
Gate and up are two linear layers or two parts of one value; what else is multiplied by an activation is left alone, as
are sides of different shape and an activation that something else reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.constants import is_constant
from ....ir.content import Element, dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Tape, is_op, only_reader, replace
from ...functions import Function

_SCALED = (
    "SwiGLU <alpha> (gate, up) => (y) { a = Constant <value_float: float = @alpha> ()  b = CastLike (a, gate)"
    "  c = Mul (gate, b)  s = Sigmoid (c)  h = Mul (gate, s)  y = Mul (h, up) }"
)
_GEGLU = (
    'GeGLU <approximate: string = "none"> (gate, up) => (y)'
    " { h = Gelu <approximate: string = @approximate> (gate)  y = Mul (h, up) }"
)

#: The identity of an activation, with its overload, and the gated unit that it makes.
FUNCTIONS: Mapping[tuple[str, str, str], Function] = {
    ("", "Sigmoid", ""): Function("GLU (gate, up) => (y) { s = Sigmoid (gate)  y = Mul (s, up) }"),
    ("", "Relu", ""): Function("ReGLU (gate, up) => (y) { h = Relu (gate)  y = Mul (h, up) }"),
    ("", "Gelu", ""): Function(_GEGLU),
    ("tersor", "Swish", ""): Function(
        "SwiGLU (gate, up) => (y) { s = Sigmoid (gate)  h = Mul (gate, s)  y = Mul (h, up) }"
    ),
    ("tersor", "Swish", "scaled"): Function(_SCALED, overload="scaled"),
}


@dataclass(frozen=True, kw_only=True)
class Gated(Match):
    """act(gate) * up, `node` being the activation."""

    gate: ir.Value
    up: ir.Value
    product: ir.Node


@dataclass(frozen=True, kw_only=True)
class RaiseGlu(Rewrite):
    """act(gate) * up -> SwiGLU, GeGLU, ReGLU or GLU"""

    name: ClassVar[str] = "raise-glu"
    anchors: ClassVar[tuple[str, ...]] = ("Gelu", "Relu", "Sigmoid", "tersor.Swish")

    def match(self, node: ir.Node) -> Match | Miss:
        gate, y = node.inputs[0], node.outputs[0]
        product = only_reader(y)
        if gate is None or not is_op(product, "Mul") or product.graph is not node.graph:
            alone = not any(is_op(user, "Mul") for user in y.consumers())
            return Miss("reader", y.name or "", "a Mul that alone reads the activation", far=alone)
        up = product.inputs[1] if product.inputs[0] is y else product.inputs[0]
        if up is None or up is y or up is gate:
            return Miss("up", (up.name if up is not None else None) or "", "another value than the gate")
        if not _may_agree(dimensions(gate), dimensions(up)):
            return Miss("shape", f"{dimensions(gate)} and {dimensions(up)}", "a gate and an up of one shape")
        if not _are_parts(gate, up) and not (_is_linear(gate) and _is_linear(up)):
            return Miss("linear", f"{gate.name} and {up.name}", "two linear layers, or two parts of one value")
        return Gated(node=node, gate=gate, up=up, product=product)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Gated)
        node, tape = found.node, Tape()
        function = FUNCTIONS[node.domain, node.op_type, node.overload]
        made = function(tape, found.gate, found.up, **dict(node.attributes))
        replace(tape, [found.product.outputs[0]], [made], matched=[node])


def _may_agree(gate: list[Element] | None, up: list[Element] | None) -> bool:
    """Whether two shapes are one, as far as they are known."""
    if gate is None or up is None or len(gate) != len(up):
        return False
    return all(a == b or a is None or b is None for a, b in zip(gate, up, strict=True))


def _is_linear(value: ir.Value) -> bool:
    """Whether a value is x w, or x w + b, with constant w and b."""
    node = value.producer()
    if is_op(node, "Add"):
        sides = [item for item in node.inputs if item is not None and not is_constant(item)]
        node = sides[0].producer() if len(sides) == 1 else None
    if is_op(node, "Reshape") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return is_op(node, "MatMul", "Gemm") and any(item is not None and _is_weight(item) for item in node.inputs[:2])


def _is_weight(value: ir.Value) -> bool:
    """A constant, or one that a node lays out or dequantizes."""
    node = value.producer()
    if is_op(node, "Transpose", "DequantizeLinear", "Cast", "Identity") and node.inputs[0] is not None:
        value = node.inputs[0]
    return is_constant(value)


def _are_parts(gate: ir.Value, up: ir.Value) -> bool:
    """Whether both are cut from one value."""
    first, second = gate.producer(), up.producer()
    if is_op(first, "Split"):
        return first is second
    return is_op(first, "Slice") and is_op(second, "Slice") and first.inputs[0] is second.inputs[0]
