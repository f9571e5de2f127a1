"""Products and convolutions with what was fused into them."""

from __future__ import annotations

import onnx_ir as ir

from ...base import Miss
from ...edit import Tape
from ..qdq import CONV
from .activations import Apply, activation
from .call import Build, Call, Table, alike, named, one, rank, times


def _fused_matmul(call: Call) -> Build | Miss:
    """alpha * A B, with axes moved before"""
    sides = _sides(call)
    if isinstance(sides, Miss):
        return sides
    return lambda tape: [_product(tape, call, sides)]


def _fused_matmul_activation(call: Call) -> Build | Miss:
    sides = _sides(call)
    if isinstance(sides, Miss):
        return sides
    if call.text("activation") == "Softmax":
        axis = call.integer("activation_axis", -1)
        return lambda tape: [_softmax(tape, _product(tape, call, sides), axis)]
    follow = _activation(call)
    if isinstance(follow, Miss):
        return follow
    return lambda tape: [follow(tape, _product(tape, call, sides))]


def _softmax(tape: Tape, x: ir.Value, axis: int) -> ir.Value:
    return alike(tape("Softmax", x, axis=axis), x)


def _activation(call: Call) -> Apply | Miss:
    given = [call.number(f"activation_{name}", 0.0) for name in ("alpha", "beta") if _has(call, f"activation_{name}")]
    return activation(call.text("activation"), given)


def _has(call: Call, name: str) -> bool:
    return name in call.node.attributes


def _sides(call: Call) -> tuple[list[int] | None, list[int] | None] | Miss:
    """For each side the order its axes are read in, None for as they are.

    A transposed batch has its axes [m, batch..., k].
    """
    found: list[list[int] | None] = []
    for index, side in enumerate("AB"):
        batch, swap = bool(call.integer(f"transBatch{side}")), bool(call.integer(f"trans{side}"))
        axes = rank(call[index])
        if not batch and not swap:
            found.append(None)
            continue
        if axes is None:
            return Miss("rank", call.need(index).name or "", "a side of known rank, to move its axes")
        order = list(range(axes))
        if batch and axes > 2:
            order.insert(axes - 2, order.pop(0))
        if swap and axes > 1:
            order[-2:] = reversed(order[-2:])
        found.append(None if order == sorted(order) else order)
    return found[0], found[1]


def _product(tape: Tape, call: Call, sides: tuple[list[int] | None, list[int] | None]) -> ir.Value:
    moved = [
        value if order is None else tape("Transpose", value, perm=order)
        for value, order in zip((call.need(0), call.need(1)), sides, strict=True)
    ]
    product = tape("MatMul", *moved)
    product.type = call.need(0).type
    scaled = times(tape, product, call.number("alpha", 1.0))
    scaled.shape = call.node.outputs[0].shape
    return scaled


def _fused_gemm(call: Call) -> Build | Miss:
    follow = _activation(call)
    if isinstance(follow, Miss):
        return follow

    def build(tape: Tape) -> list[ir.Value]:
        attributes = call.kept("alpha", "beta", "transA", "transB")
        product = one(tape, "Gemm", _given(call, 3), attributes)
        product.type, product.shape = call.need(0).type, call.node.outputs[0].shape
        return [follow(tape, product)]

    return build


def _given(call: Call, count: int) -> list[ir.Value | None]:
    found = [call[index] for index in range(count)]
    while found[-1] is None:
        found.pop()
    return found


def _gemm_fast_gelu(call: Call) -> Build:
    def build(tape: Tape) -> list[ir.Value]:
        product = tape("MatMul", call.need(0), call.need(1))
        product.type = call.need(0).type
        bias = call[2]
        return [tape("Gelu", product if bias is None else tape("Add", product, bias), approximate="tanh")]

    return build


def _fused_conv(call: Call) -> Build | Miss:
    """activation(conv(x) + z)"""
    follow = activation(call.text("activation"), call.numbers("activation_params"))
    if isinstance(follow, Miss):
        return follow

    def build(tape: Tape) -> list[ir.Value]:
        made = one(tape, "Conv", _given(call, 3), call.kept(*CONV))
        made.type, made.shape = call.need(0).type, call.node.outputs[0].shape
        residual = call[3]
        return [follow(tape, made if residual is None else alike(tape("Add", made, residual), made))]

    return build


def _nhwc_fused_conv(call: Call) -> Build | Miss:
    """A convolution whose channels come last, those of its weight too where the op says so."""
    axes = rank(call[0])
    follow = activation(call.text("activation"), call.numbers("activation_params"))
    if isinstance(follow, Miss):
        return follow
    if axes is None:
        return Miss("rank", call.need(0).name or "", "an input of known rank, to move its channels")
    first, last = [0, axes - 1, *range(1, axes - 1)], [0, *range(2, axes), 1]

    def build(tape: Tape) -> list[ir.Value]:
        x = tape("Transpose", call.need(0), perm=first)
        inputs = [x, *_given(call, 3)[1:]]
        made = one(tape, "Conv", inputs, call.kept(*CONV))
        made.type = call.need(0).type
        residual = call[3]
        if residual is not None:
            made = tape("Add", made, tape("Transpose", residual, perm=first))
        return [tape("Transpose", follow(tape, made), perm=last)]

    return build


def _nhwc_max_pool(call: Call) -> Build | Miss:
    axes = rank(call[0])
    if axes is None:
        return Miss("rank", call.need(0).name or "", "an input of known rank, to move its channels")
    first, last = [0, axes - 1, *range(1, axes - 1)], [0, *range(2, axes), 1]
    names = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")

    def build(tape: Tape) -> list[ir.Value]:
        pooled = one(tape, "MaxPool", [tape("Transpose", call.need(0), perm=first)], call.kept(*names))
        return [tape("Transpose", pooled, perm=last)]

    return build


PRODUCTS: Table = named(
    {
        "FusedMatMul": _fused_matmul,
        "TransposeMatMul": _fused_matmul,
        "FusedMatMulActivation": _fused_matmul_activation,
        "FusedGemm": _fused_gemm,
        "GemmFastGelu": _gemm_fast_gelu,
        "FusedConv": _fused_conv,
        "NhwcFusedConv": _nhwc_fused_conv,
        "NhwcConv": _nhwc_fused_conv,
        "NhwcMaxPool": _nhwc_max_pool,
    }
)
