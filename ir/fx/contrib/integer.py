"""Integer products with float results, and LSTM with 8-bit weights (domain com.microsoft)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..lowering import Lowering, Table, standard
from ..quant import centred, dynamic_quantize
from ..recurrent import lstm

Tensor = torch.Tensor
Maybe = torch.Tensor | None


def matmul_integer_to_float(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero: Maybe = None,
    b_zero: Maybe = None,
    bias: Maybe = None,
) -> Tensor:
    """(a - a_zero)(b - b_zero) * a_scale * b_scale + bias"""
    product = centred(a, a_zero, rows=True) @ centred(b, b_zero)
    y = (product * (a_scale.double() * b_scale.double())).to(a_scale.dtype)
    return y if bias is None else y + bias


def dynamic_quantize_matmul(a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Maybe = None, bias: Maybe = None) -> Tensor:
    """A quantized over its own range, then an integer product."""
    parts = dynamic_quantize(a, outputs=3)
    assert isinstance(parts, tuple)
    quantized, a_scale, a_zero = parts
    return matmul_integer_to_float(quantized, b, a_scale, b_scale, a_zero, b_zero, bias)


def matmul_integer16(a: Tensor, b: Tensor) -> Tensor:
    """16 bits times 16 bits in 32, the low ones where they overflow: the sum is exact in int64."""
    return (a.long() @ b.long()).to(torch.int32)


def mul_integer(a: Tensor, a_zero: Maybe, b: Maybe = None, b_zero: Maybe = None) -> Tensor:
    """(a - a_zero)(b - b_zero) in int32, element by element."""
    if b is None:
        raise ValueError("MulInteger needs its third input")
    left, right = a.to(torch.int32), b.to(torch.int32)
    left = left if a_zero is None else left - a_zero.to(torch.int32)
    return left * (right if b_zero is None else right - b_zero.to(torch.int32))


def reduce_sum_integer(x: Tensor, *, axes: Sequence[int], keepdims: int) -> Tensor:
    return x.sum(list(axes), keepdim=bool(keepdims), dtype=torch.int64).to(
        torch.int32 if x.dtype is torch.int8 else torch.uint32
    )


def qgemm(
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Maybe = None,
    c: Maybe = None,
    y_scale: Maybe = None,
    y_zero: Maybe = None,
    *,
    alpha: float = 1.0,
    trans_a: int = 0,
    trans_b: int = 0,
) -> Tensor:
    """alpha * A B + C in units of a_scale * b_scale, float or quantized; scales and zeros of b per column of the
    product."""
    left, right = (a.T if trans_a else a), (b.T if trans_b else b)
    product = centred(left, a_zero) @ centred(right, b_zero)
    if c is not None:
        product = product + c.double()
    y = product * (alpha * a_scale.double() * b_scale.double())
    if y_scale is None:
        return y.to(a_scale.dtype)
    low, high = (-128, 127) if y_zero is not None and y_zero.dtype is torch.int8 else (0, 255)
    y = torch.round(y / y_scale.double())
    y = y if y_zero is None else y + y_zero.double()
    return y.clamp(low, high).to(torch.uint8 if y_zero is None else y_zero.dtype)


def dynamic_quantize_lstm(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Maybe,
    lengths: Maybe,
    initial_h: Maybe,
    initial_c: Maybe,
    peepholes: Maybe,
    w_scale: Tensor,
    w_zero: Tensor,
    r_scale: Tensor,
    r_zero: Tensor,
    *,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    activations: Sequence[str] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    outputs: int,
) -> object:
    """LSTM with weights [directions, input or hidden, 4 hidden] in 8 bits.

    ONNX Runtime also rounds the input and each step's state to 8 bits, over ranges that depend on how it batches its
    products; here they stay as they are, which is nearer to the float model.
    """
    return lstm(
        x,
        _dequantized(weight, w_scale, w_zero),
        _dequantized(recurrence, r_scale, r_zero),
        bias,
        lengths,
        initial_h,
        initial_c,
        peepholes,
        activation_alpha=activation_alpha,
        activation_beta=activation_beta,
        activations=activations,
        clip=clip,
        direction=direction,
        hidden_size=hidden_size,
        input_forget=input_forget,
        outputs=outputs,
    )


def _dequantized(weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """[directions, in, gates] with scales [directions] or [directions, gates] -> float [directions, gates, in]"""
    scale, zero = (part.reshape(weight.shape[0], 1, -1) for part in (scale, zero))
    return ((weight.to(torch.int32) - zero.to(torch.int32)).to(scale.dtype) * scale).mT


INTEGER: Table = standard(
    {
        "MatMulIntegerToFloat": matmul_integer_to_float,
        "DynamicQuantizeMatMul": dynamic_quantize_matmul,
        "MatMulInteger16": matmul_integer16,
        "MulInteger": mul_integer,
        "ReduceSumInteger": reduce_sum_integer,
        "QGemm": qgemm,
        "DynamicQuantizeLSTM": Lowering(function=dynamic_quantize_lstm, many=True),
    },
    domain="com.microsoft",
)
