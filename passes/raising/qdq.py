"""Integers and the numbers they stand for, written with QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..edit import Attribute, Tape


def dequantized(
    tape: Tape, x: ir.Value, scale: ir.Value, zero: ir.Value | None = None, *, axis: int | None = None
) -> ir.Value:
    """(x - zero) * scale, one scale for all or one for each index along `axis`."""
    single = alone(scale) and (zero is None or alone(zero))
    given = [x, scalar(tape, scale)]
    if zero is not None:
        given.append(scalar(tape, zero))
        if alone(scale) != alone(zero):
            # one of them is for all, the other for each
            narrow, wide = (1, 2) if alone(scale) else (2, 1)
            given[narrow] = tape("Expand", given[narrow], tape("Shape", given[wide]))
    made = tape("DequantizeLinear", *given, axis=None if single else axis)
    made.type, made.shape = scale.type, x.shape
    return made


def quantized(
    tape: Tape,
    y: ir.Value,
    scale: ir.Value,
    zero: ir.Value | None,
    dtype: ir.DataType | None,
    *,
    axis: int | None = None,
) -> ir.Value:
    """y / scale, rounded half to even, + zero, clamped to the type of zero, or to `dtype` where there is none."""
    given = [y, scalar(tape, scale), *([] if zero is None else [scalar(tape, zero)])]
    into: Attribute = None if zero is not None or dtype in (None, ir.DataType.UINT8) else int(dtype)
    return tape("QuantizeLinear", *given, axis=None if alone(scale) else axis, output_dtype=into)


def alone(value: ir.Value) -> bool:
    """Whether it is one number."""
    return value.shape is not None and all(dim == 1 for dim in value.shape)


def scalar(tape: Tape, value: ir.Value) -> ir.Value:
    """One number as a scalar: of [1], DequantizeLinear would have as many along its axis."""
    if value.shape is None or not len(value.shape) or not alone(value):
        return value
    made = tape("Reshape", value, tape.constant([], "scalar"))
    made.type, made.shape = value.type, ir.Shape([])
    return made


CONV: Sequence[str] = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def bias_of(tape: Tape, bias: ir.Value, left: ir.Value, right: ir.Value) -> ir.Value:
    """An int32 bias [out] in units of the product of two scales."""
    unit = tape("Mul", scalar(tape, left), scalar(tape, right))
    unit.type = left.type
    unit.shape = ir.Shape([]) if alone(left) and alone(right) else None
    made = tape("DequantizeLinear", bias, unit, axis=None if alone(left) and alone(right) else 0)
    made.type, made.shape = left.type, bias.shape
    return made
