"""Integer products with float results."""

from __future__ import annotations

import onnx_ir as ir

from ...base import Miss
from ...edit import Tape
from ..qdq import alone, dequantized, quantized, scalar
from .call import Build, Call, Table, named


def _matmul_integer_to_float(call: Call) -> Build | Miss:
    """(a - a_zero)(b - b_zero) * a_scale * b_scale + bias"""
    refused = _rows(call.need(2))
    if refused is not None:
        return refused

    def build(tape: Tape) -> list[ir.Value]:
        left = dequantized(tape, call.need(0), call.need(2), call[4])
        right = dequantized(tape, call.need(1), call.need(3), call[5], axis=-1)
        return [_biased(tape, tape("MatMul", left, right), call[6])]

    return build


def _dynamic_quantize_matmul(call: Call) -> Build:
    """The left side quantized over its own range first."""

    def build(tape: Tape) -> list[ir.Value]:
        x = call.need(0)
        integers, scale, zero = tape.node("DynamicQuantizeLinear", [x], outputs=3).outputs
        scale.type, scale.shape = x.type, ir.Shape([])
        left = dequantized(tape, integers, scale, zero)
        right = dequantized(tape, call.need(1), call.need(2), call[3], axis=-1)
        return [_biased(tape, tape("MatMul", left, right), call[4])]

    return build


def _biased(tape: Tape, y: ir.Value, bias: ir.Value | None) -> ir.Value:
    return y if bias is None else tape("Add", y, bias)


def _rows(scale: ir.Value) -> Miss | None:
    if scale.shape is None or not alone(scale):
        return Miss("scale", scale.name or "", "one scale for the whole left side")
    return None


def _qgemm(call: Call) -> Build | Miss:
    """alpha * (A B + C), C in units of both scales, float or quantized"""
    refused = _rows(call.need(1))
    if refused is not None:
        return refused

    def build(tape: Tape) -> list[ir.Value]:
        a, a_scale, a_zero, b, b_scale = (call.need(index) for index in range(5))
        columns = 0 if call.integer("transB") else 1
        sides = [dequantized(tape, a, a_scale, a_zero), dequantized(tape, b, b_scale, call[5], axis=columns)]
        bias = call[6]
        if bias is not None:
            unit = tape("Mul", scalar(tape, a_scale), scalar(tape, b_scale))
            sides.append(tape("Mul", tape("CastLike", bias, a_scale), unit))
        alpha = call.number("alpha", 1.0)
        y = tape(
            "Gemm", *sides,
            alpha=None if alpha == 1.0 else alpha, beta=None if alpha == 1.0 or bias is None else alpha,
            transA=call.integer("transA") or None, transB=call.integer("transB") or None,
        )  # fmt: skip
        scale = call[7]
        return [y if scale is None else quantized(tape, y, scale, call[8], None)]

    return build


INTEGER: Table = named(
    {
        "MatMulIntegerToFloat": _matmul_integer_to_float,
        "DynamicQuantizeMatMul": _dynamic_quantize_matmul,
        "QGemm": _qgemm,
    }
)
