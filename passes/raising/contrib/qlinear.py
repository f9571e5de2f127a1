"""Float ops between a dequantization and a quantization, 8 bits in and out."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from ...base import Miss
from ...edit import Attribute, Tape
from ..qdq import CONV, alone, bias_of, dequantized, quantized
from .call import Build, Call, Table, named, one, rank

Apply = Callable[[Tape, ir.Value], ir.Value]


def _pair(op: str) -> Callable[[Call], Build]:
    def expand(call: Call) -> Build:
        def build(tape: Tape) -> list[ir.Value]:
            left, right = (_read(tape, call, index) for index in (0, 3))
            return [_written(tape, call, tape(op, left, right), 6)]

        return build

    return expand


def _read(tape: Tape, call: Call, index: int) -> ir.Value:
    """A value with its scale and zero point behind it."""
    return dequantized(tape, call.need(index), call.need(index + 1), call[index + 2])


def _written(tape: Tape, call: Call, y: ir.Value, index: int, like: int = 0) -> ir.Value:
    """Quantized by the scale and the zero point there."""
    return quantized(tape, y, call.need(index), call[index + 1], call.need(like).dtype)


def _single(call: Call, apply: Apply) -> Build:
    return lambda tape: [_written(tape, call, apply(tape, _read(tape, call, 0)), 3)]


def _sigmoid(call: Call) -> Build:
    return _single(call, lambda tape, x: tape("Sigmoid", x))


def _leaky_relu(call: Call) -> Build:
    alpha = call.number("alpha", 0.01)
    return _single(call, lambda tape, x: tape("LeakyRelu", x, alpha=alpha))


def _softmax(call: Call) -> Build | Miss:
    axis, axes = call.integer("axis", -1), rank(call[0])
    if call.integer("opset", 13) < 13 and axis != -1 and (axes is None or axis != axes - 1):
        return Miss("axis", f"axis {axis} as before opset 13", "softmax over one axis")
    return _single(call, lambda tape, x: tape("Softmax", x, axis=axis))


def _reduce_mean(call: Call) -> Build:
    axes, kept = call.integers("axes"), call.integer("keepdims", 1)
    return _single(
        call,
        lambda tape, x: tape("ReduceMean", x, *([tape.constant([*axes], "axes")] if axes else []), keepdims=kept),
    )


def _where(call: Call) -> Build:
    def build(tape: Tape) -> list[ir.Value]:
        return [_written(tape, call, tape("Where", call.need(0), _read(tape, call, 1), _read(tape, call, 4)), 7, 1)]

    return build


def _concat(call: Call) -> Build:
    """Scale and zero point of the result first, then value, scale and zero point of each part."""

    def build(tape: Tape) -> list[ir.Value]:
        parts = [_read(tape, call, index) for index in range(2, len(call.node.inputs), 3)]
        joined = tape("Concat", *parts, axis=call.integer("axis"))
        return [quantized(tape, joined, call.need(0), call[1], call.need(2).dtype)]

    return build


def _pool(op: str, *names: str) -> Callable[[Call], Build | Miss]:
    def expand(call: Call) -> Build | Miss:
        axes, last = rank(call[0]), bool(call.integer("channels_last"))
        if last and axes is None:
            return Miss("rank", call.need(0).name or "", "an input of known rank, to move its channels")
        attributes = call.kept(*names)
        return _single(call, lambda tape, x: _moved(tape, x, axes if last else None, op, attributes))

    return expand


def _moved(tape: Tape, x: ir.Value, axes: int | None, op: str, attributes: dict[str, Attribute]) -> ir.Value:
    """The op over [batch, channels, ...], of x with its channels last where `axes` says how many it has."""
    if axes is None:
        return one(tape, op, [x], attributes)
    inner = one(tape, op, [tape("Transpose", x, perm=[0, axes - 1, *range(1, axes - 1)])], attributes)
    return tape("Transpose", inner, perm=[0, *range(2, axes), 1])


def _conv(call: Call) -> Build | Miss:
    """The standard op, with channels last where asked for."""
    axes, last = rank(call[0]), bool(call.integer("channels_last"))
    if last and axes is None:
        return Miss("rank", call.need(0).name or "", "an input of known rank, to move its channels")
    return conv(call, axes if last else None)


def conv(call: Call, axes: int | None = None) -> Build | Miss:
    """QLinearConv of either domain; `axes` is given where the channels of x come last."""
    if call.need(1).shape is None or not alone(call.need(1)):
        return Miss("scale", call.need(1).name or "", "one scale for the whole input")

    def build(tape: Tape) -> list[ir.Value]:
        x = _read(tape, call, 0)
        weight = dequantized(tape, call.need(3), call.need(4), call[5], axis=0)
        bias = call[8]
        shift = [] if bias is None else [bias_of(tape, bias, call.need(1), call.need(4))]
        if axes is not None:
            x = tape("Transpose", x, perm=[0, axes - 1, *range(1, axes - 1)])
        y = one(tape, "Conv", [x, weight, *shift], call.kept(*CONV))
        if axes is not None:
            y = tape("Transpose", y, perm=[0, *range(2, axes), 1])
        return [_written(tape, call, y, 6)]

    return build


def _quantize(call: Call) -> Build:
    axis = call.integer("axis", 1)
    return lambda tape: [quantized(tape, call.need(0), call.need(1), call[2], None, axis=axis)]


def _dequantize(call: Call) -> Build:
    axis = call.integer("axis", 1)
    return lambda tape: [dequantized(tape, call.need(0), call.need(1), call[2], axis=axis)]


_AVERAGE = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")

QLINEAR: Table = named(
    {
        "QLinearAdd": _pair("Add"),
        "QLinearMul": _pair("Mul"),
        "QLinearSigmoid": _sigmoid,
        "QLinearLeakyRelu": _leaky_relu,
        "QLinearSoftmax": _softmax,
        "QLinearReduceMean": _reduce_mean,
        "QLinearWhere": _where,
        "QLinearConcat": _concat,
        "QLinearAveragePool": _pool("AveragePool", *_AVERAGE),
        "QLinearGlobalAveragePool": _pool("GlobalAveragePool"),
        "QLinearConv": _conv,
        "QuantizeLinear": _quantize,
        "DequantizeLinear": _dequantize,
    }
)
