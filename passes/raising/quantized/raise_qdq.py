"""Raise products and convolutions of integers to float ones between QuantizeLinear and DequantizeLinear.

    before   y = QLinearMatMul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)
             y = Cast{to=float}(MatMulInteger(a, b, a_zero, b_zero)) * (a_scale * b_scale)
    after    y = QuantizeLinear(MatMul(DequantizeLinear(a, ...), DequantizeLinear{axis}(b, ...)), y_scale, y_zero)

Exact: (a - a_zero)(b - b_zero) a_scale b_scale is the product of what the integers stand for. A scale that comes from
the node that quantized the left side (DynamicQuantizeLinear) belongs to that side, any other factor to the constant
side. Left alone: integer products that are read as integers, scales for each row of the left side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.content import Element, dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Tape, is_op, only_reader, replace
from ..contrib.call import Build, Call, one
from ..contrib.qlinear import conv
from ..qdq import CONV, alone, dequantized, quantized


@dataclass(frozen=True, kw_only=True)
class Quantized(Match):
    """What records the float op, and the value that it gives."""

    build: Build
    output: ir.Value


@dataclass(frozen=True, kw_only=True)
class RaiseQdq(Rewrite):
    """QLinear and integer ops -> float ops between quantizations"""

    name: ClassVar[str] = "raise-qdq"
    anchors: ClassVar[tuple[str, ...]] = ("QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger")

    def match(self, node: ir.Node) -> Match | Miss:
        call = Call(node)
        if node.op_type in ("MatMulInteger", "ConvInteger"):
            return _integer(call)
        build = conv(call) if node.op_type == "QLinearConv" else _qlinear_matmul(call)
        return build if isinstance(build, Miss) else Quantized(node=node, build=build, output=node.outputs[0])

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Quantized)
        tape = Tape()
        (made,) = found.build(tape)
        assert made is not None
        replace(tape, [found.output], [made], matched=[found.node])


def _qlinear_matmul(call: Call) -> Build | Miss:
    for index, side in ((1, "left side"), (6, "result")):
        if call.need(index).shape is None or not alone(call.need(index)):
            return Miss("scale", call.need(index).name or "", f"one scale for the whole {side}")
    for value in (call.need(4), call[5]):
        if not _in_columns(value):
            return Miss("columns", "" if value is None else value.name or "", "one number, or one for each column")

    def build(tape: Tape) -> list[ir.Value]:
        left = dequantized(tape, call.need(0), call.need(1), call[2])
        right = dequantized(tape, call.need(3), call.need(4), call[5], axis=-1)
        return [quantized(tape, tape("MatMul", left, right), call.need(6), call[7], None)]

    return build


def _integer(call: Call) -> Quantized | Miss:
    """An integer product, made float and scaled."""
    node, left, right = call.node, call.need(0), call.need(1)
    zero = call[2]
    if zero is not None and (zero.shape is None or not alone(zero)):
        return Miss("zeros", zero.name or "", "one zero point for the whole left side")
    if not _in_columns(call[3]):
        return Miss("zeros", (call[3].name if call[3] else None) or "", "one zero point, or one for each column")
    cast = only_reader(node.outputs[0])
    if not is_op(cast, "Cast") or cast.attributes["to"].as_int() != ir.DataType.FLOAT or cast.graph is not node.graph:
        return Miss("result", node.outputs[0].name or "", "to be read as float32 alone")
    value, factors = _scaled(cast)
    if not factors:
        return Miss("scale", value.name or "", "a product with the scales of both sides")
    own = _own_scale(left, factors)
    others = [factor for factor in factors if factor is not own]
    columns = [factor for factor in others if not alone(factor)]
    if len(columns) > 1 or not all(_fits(factor, call) for factor in columns):
        return Miss("scale", ", ".join(f"{factor.name}: {dimensions(factor)}" for factor in columns), "one per column")

    def build(tape: Tape) -> list[ir.Value]:
        one_ = tape.constant(np.array(1.0, np.float32), "scale")
        mine = others[0] if own is None and len(others) > 1 and alone(others[0]) else own
        rest = [factor for factor in others if factor is not mine]
        scale = _multiplied(tape, rest) if rest else one_
        if mine is not None and rest:
            tape.constants.remove(one_)
        activation = dequantized(tape, left, mine if mine is not None else one_, zero)
        if node.op_type == "MatMulInteger":
            weight = dequantized(tape, right, scale, call[3], axis=-1)
            return [tape("MatMul", activation, weight)]
        weight = dequantized(tape, right, scale, call[3], axis=0)
        return [one(tape, "Conv", [activation, weight], call.kept(*CONV))]

    return Quantized(node=node, build=build, output=value)


def _scaled(cast: ir.Node) -> tuple[ir.Value, list[ir.Value]]:
    """The last of the products behind a cast, and what it is multiplied by."""
    value, factors = cast.outputs[0], list[ir.Value]()
    while len(factors) < 2:
        reader = only_reader(value)
        if not is_op(reader, "Mul") or reader.graph is not cast.graph:
            break
        other = reader.inputs[1] if reader.inputs[0] is value else reader.inputs[0]
        if other is None or other is value or other.shape is None or not _is_scale(other, dimensions(value)):
            break
        factors += _factors(other)
        value = reader.outputs[0]
    return value, factors


def _in_columns(value: ir.Value | None) -> bool:
    """Whether it is one number or a vector: in a batch of weights each may have its own, which no axis names."""
    return value is None or alone(value) or len(dimensions(value) or ()) == 1


def _is_scale(value: ir.Value, product: Sequence[Element] | None) -> bool:
    """Whether it is one number, or as many as one axis of the product is long, and gives that no more axes."""
    dims = dimensions(value) or ()
    return sum(dim != 1 for dim in dims) <= 1 and len(dims) <= (1 if product is None else len(product))


def _factors(value: ir.Value) -> list[ir.Value]:
    """The two sides of a product of scales, or the scale itself."""
    node = value.producer()
    if is_op(node, "Mul"):
        sides = [side for side in node.inputs if side is not None and side.shape is not None]
        if len(sides) == 2 and any(alone(side) for side in sides):
            return sides
    return [value]


def _own_scale(left: ir.Value, factors: list[ir.Value]) -> ir.Value | None:
    """The scale that the node gives which quantized the left side."""
    node = left.producer()
    if not is_op(node, "DynamicQuantizeLinear"):
        return None
    return next((factor for factor in factors if factor is node.outputs[1]), None)


def _fits(factor: ir.Value, call: Call) -> bool:
    """Whether a vector of scales has one for each column of a weight, or each channel of a kernel's result."""
    dims, weight = dimensions(factor), dimensions(call[1])
    if dims is None or weight is None:
        return False
    if call.node.op_type == "MatMulInteger":
        return len(weight) == 2 and dims[-1] == weight[-1] not in (None, 1)
    place = len(dims) - (len(weight) - 1)
    return place >= 0 and dims[place] == weight[0] not in (None, 1)


def _multiplied(tape: Tape, factors: list[ir.Value]) -> ir.Value:
    """One scale, a scalar or a vector."""
    value = factors[0]
    for factor in factors[1:]:
        product = tape("Mul", value, factor)
        product.type, product.shape = value.type, (factor if alone(value) else value).shape
        value = product
    if alone(value) or len(value.shape or ()) == 1:
        return value
    vector = tape("Reshape", value, tape.constant([-1], "vector"))
    vector.type = value.type
    vector.shape = ir.Shape([next(dim for dim in value.shape or () if dim != 1)])
    return vector
