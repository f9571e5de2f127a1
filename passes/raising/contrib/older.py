"""Spellings of standard ops that are older than the standard, and small arithmetic under one name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ...base import Miss
from ...edit import Tape
from .call import Build, Call, Table, alike, like, named, one, rank, size, small


def _trilu(call: Call) -> Build:
    given = [value for value in (call.need(0), call[1]) if value is not None]
    return lambda tape: [one(tape, "Trilu", given, call.kept("upper"))]


def _expand_dims(call: Call) -> Build:
    """Unsqueeze by one axis, a number."""
    x, axis = call.need(0), call.need(1)
    known = small(axis, 1)

    def build(tape: Tape) -> list[ir.Value]:
        if known is not None:
            return [tape("Unsqueeze", x, tape.constant([int(known.item())], "axes"))]
        wide = tape("Cast", axis, to=ir.DataType.INT64)
        return [tape("Unsqueeze", x, tape("Reshape", wide, tape.constant([1], "shape")))]

    return build


def _gather_nd(call: Call) -> Build:
    data, indices = call.need(0), call.need(1)

    def build(tape: Tape) -> list[ir.Value]:
        wide = indices if indices.dtype == ir.DataType.INT64 else tape("Cast", indices, to=ir.DataType.INT64)
        return [tape("GatherND", data, wide)]

    return build


def _embedding(call: Call) -> Build:
    """Rows of a table; its other inputs are of training."""
    return lambda tape: [tape("Gather", call.need(0), call.need(1), axis=0)]


#: Their names before opset 20, and since.
_MODES = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}


def _grid_sample(call: Call) -> Build | Miss:
    mode = call.text("mode", "bilinear")
    if mode not in _MODES:
        return Miss("mode", mode, f"one of {', '.join(_MODES)}")
    attributes = {"mode": _MODES[mode], **call.kept("align_corners", "padding_mode")}
    return lambda tape: [one(tape, "GridSample", [call.need(0), call.need(1)], attributes)]


def _flat(tape: Tape, value: ir.Value, axes: int) -> ir.Value:
    """A value of one row, or a number, with `axes` axes: 0 or 1."""
    if rank(value) == axes:
        return value
    return tape("Reshape", value, tape.constant(np.array([-1] * axes, np.int64), "shape"))


def _pad(call: Call) -> Build | Miss:
    """Pads [2 rank] or [1, 2 rank], what is filled in [] or [1]."""
    data, pads, value, mode = call.need(0), call.need(1), call[2], call.text("mode", "constant")
    if mode not in ("constant", "edge", "reflect"):
        return Miss("mode", mode, "one of constant, edge, reflect")

    def build(tape: Tape) -> list[ir.Value]:
        filled = [] if value is None else [_flat(tape, value, 0)]
        return [tape("Pad", data, _flat(tape, pads, 1), *filled, mode=mode)]

    return build


def _range(call: Call) -> Build:
    """Its ends and its step [] or [1]."""
    start, limit, delta = call.need(0), call.need(1), call[2]

    def build(tape: Tape) -> list[ir.Value]:
        step = like(tape, 1, start) if delta is None else delta
        return [tape("Range", *(_flat(tape, value, 0) for value in (start, limit, step)))]

    return build


def _unique(call: Call) -> Build:
    """In the order they come in; which one each element is; how many there are of each."""

    def build(tape: Tape) -> list[ir.Value]:
        values, _, which, counts = tape.node("Unique", [call.need(0)], {"sorted": 0}, outputs=4).outputs
        return [values, which, counts]

    return build


def _cdist(call: Call) -> Build | Miss:
    """|a - b|^2 = |a|^2 - 2 a b + |b|^2 of each row of a [m, k] with each of b [n, k], or its root."""
    a, b, metric = call.need(0), call.need(1), call.text("metric", "sqeuclidean")
    if metric not in ("sqeuclidean", "euclidean"):
        return Miss("metric", metric, "sqeuclidean or euclidean, as ONNX Runtime has them")

    def build(tape: Tape) -> list[ir.Value]:
        axes = tape.constant([1], "axes")
        left = tape("ReduceSumSquare", a, axes, keepdims=1)
        right = tape("Unsqueeze", tape("ReduceSumSquare", b, axes, keepdims=0), tape.constant([0], "axes"))
        mixed = tape("Gemm", a, b, tape("Add", left, right), alpha=-2.0, transB=1)
        mixed.type = a.type
        # what cancels may fall below zero
        squares = tape("Max", mixed, like(tape, 0.0, a))
        return [squares if metric == "sqeuclidean" else tape("Sqrt", squares)]

    return build


def _conv_transpose(call: Call) -> Build | Miss:
    """Its pads an attribute, where they are known."""
    given = call[2]
    pads = None if given is None else small(given)
    if given is not None and pads is None:
        return Miss("pads", given.name or "", "constant pads, which ConvTranspose holds as an attribute")
    names = call.kept("auto_pad", "dilations", "group", "kernel_shape", "output_padding", "strides")
    attributes = {**names, "pads": None if pads is None else [int(amount) for amount in pads.reshape(-1)]}
    inputs = [value for value in (call.need(0), call.need(1), call[3]) if value is not None]
    return lambda tape: [one(tape, "ConvTranspose", inputs, attributes)]


def _complex(sign: int) -> Callable[[Call], Build | Miss]:
    """(p + qi)(r + si), or by the conjugate of the second, numbers being pairs on the last axis"""

    def expand(call: Call) -> Build | Miss:
        sides = call.need(0), call.need(1)
        if any(size(side, -1) != 2 for side in sides):
            return Miss("pairs", f"{sides[0].name}, {sides[1].name}", "real and imaginary parts on a last axis of 2")

        def build(tape: Tape) -> list[ir.Value]:
            cut = (tape.node("Split", [side], {"axis": -1, "num_outputs": 2}, outputs=2).outputs for side in sides)
            (p, q), (r, s) = cut
            plus, minus = ("Sub", "Add") if sign > 0 else ("Add", "Sub")
            real = tape(plus, tape("Mul", p, r), tape("Mul", q, s))
            crossed = tape("Mul", q, r), tape("Mul", p, s)
            return [tape("Concat", real, tape(minus, *crossed), axis=-1)]

        return build

    return expand


def _scaled_silu(call: Call) -> Build:
    """z * sigmoid(z) of z = scale * x"""
    x, scale, alpha = call.need(0), call[1], call.number("alpha", 1.0)

    def build(tape: Tape) -> list[ir.Value]:
        z = x
        if scale is not None:
            factor = scale if scale.dtype == x.dtype else tape("CastLike", scale, x)
            z = alike(tape("Mul", x, _flat(tape, factor, 0)), x)
        elif alpha != 1.0:
            z = alike(tape("Mul", x, like(tape, alpha, x)), x)
        return [alike(tape("Mul", z, alike(tape("Sigmoid", z), x)), x)]

    return build


def _gated_add(call: Call) -> Build:
    """x + y * gate"""
    x, y, gate = (call.need(index) for index in range(3))
    return lambda tape: [alike(tape("Add", x, alike(tape("Mul", y, gate), y)), x)]


OLDER: Table = named(
    {
        "Trilu": _trilu,
        "ExpandDims": _expand_dims,
        "GatherND": _gather_nd,
        "GridSample": _grid_sample,
        "Pad": _pad,
        "Range": _range,
        "Unique": _unique,
        "TorchEmbedding": _embedding,
        "CDist": _cdist,
        "ConvTransposeWithDynamicPads": _conv_transpose,
        "ComplexMul": _complex(1),
        "ComplexMulConj": _complex(-1),
        "ScaledSiLU": _scaled_silu,
        "GatedAdd": _gated_add,
    }
)
