"""Integer products, with float results and without (domain com.microsoft)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...kernels.products import integer_product
from ...lowering import Table, standard
from ..quant import dynamic_quantize

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
    y = integer_product(a, b, a_zero, b_zero).to(a_scale.dtype) * (a_scale * b_scale)
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
    product = integer_product(left, right, a_zero, b_zero)
    y = (product if c is None else product + c).double() * (alpha * a_scale.double() * b_scale.double())
    if y_scale is None:
        return y.to(a_scale.dtype)
    low, high = (-128, 127) if y_zero is not None and y_zero.dtype is torch.int8 else (0, 255)
    y = torch.round(y / y_scale.double())
    y = y if y_zero is None else y + y_zero.double()
    return y.clamp(low, high).to(torch.uint8 if y_zero is None else y_zero.dtype)


INTEGER: Table = standard(
    {
        "MatMulIntegerToFloat": matmul_integer_to_float,
        "DynamicQuantizeMatMul": dynamic_quantize_matmul,
        "MatMulInteger16": matmul_integer16,
        "MulInteger": mul_integer,
        "ReduceSumInteger": reduce_sum_integer,
        "QGemm": qgemm,
    },
    domain="com.microsoft",
)
