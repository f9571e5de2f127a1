"""Products with weights in float8, float4 or a few bits, and what is fused around them (domain com.microsoft).

None of them has a CPU kernel in ONNX Runtime: they are written for CUDA or WebGPU.
"""

from __future__ import annotations

import torch

from ...dtypes import torch_dtype
from ...lowering import Lowering, Table, standard
from .arithmetic import activated
from .nbits import matmul_nbits, unpack
from .norm import skip_rms_norm

Tensor = torch.Tensor
Maybe = torch.Tensor | None
_FLOAT = 1
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def _normed(x: Tensor, skip: Maybe, scale: Maybe, epsilon: float) -> tuple[Tensor, Tensor]:
    """RMS norm of x + skip, where there is a scale, and that sum."""
    if scale is None:
        return x, x
    total = x if skip is None else x + skip
    y = skip_rms_norm(x, torch.zeros_like(x) if skip is None else skip, scale, epsilon=epsilon, outputs=1)
    assert isinstance(y, Tensor)
    return y, total


def matmul_nbits_qkv(
    x: Tensor,
    skip: Maybe,
    scale: Tensor,
    query: Tensor,
    query_scales: Tensor,
    query_bias: Maybe,
    key: Tensor,
    key_scales: Tensor,
    key_bias: Maybe,
    value: Tensor,
    value_scales: Tensor,
    value_bias: Maybe = None,
    *,
    k: int,
    nq: int,
    nkv: int,
    bits: int = 4,
    block_size: int,
    epsilon: float = 1e-6,
    accuracy_level: int = 0,
    outputs: int,
) -> object:
    """RMS norm of x + skip, then three products; the fourth output is that sum."""
    y, total = _normed(x, skip, scale, epsilon)
    parts = (
        (query, query_scales, query_bias, nq),
        (key, key_scales, key_bias, nkv),
        (value, value_scales, value_bias, nkv),
    )
    found = tuple(
        matmul_nbits(y, packed, scales, bias=bias, k=k, n=n, bits=bits, block_size=block_size)
        for packed, scales, bias, n in parts
    )
    return found[0] if outputs == 1 else (*found, total)[:outputs]


def matmul_nbits_mlp(
    x: Tensor,
    skip: Maybe,
    scale: Maybe,
    gate: Tensor,
    gate_scales: Tensor,
    gate_bias: Maybe,
    up: Tensor,
    up_scales: Tensor,
    up_bias: Maybe = None,
    *,
    k: int,
    n: int,
    activation: str,
    bits: int = 4,
    block_size: int,
    epsilon: float = 1e-5,
    accuracy_level: int = 0,
    outputs: int,
) -> object:
    """activation(gate) * up, both products of x or of the RMS norm of x + skip; the second output is that sum."""
    y, total = _normed(x, skip, scale, epsilon)
    opened, lifted = (
        matmul_nbits(y, packed, scales, bias=bias, k=k, n=n, bits=bits, block_size=block_size)
        for packed, scales, bias in ((gate, gate_scales, gate_bias), (up, up_scales, up_bias))
    )
    result = activated(opened, activation) * lifted
    return result if outputs == 1 else (result, total)


def matmul_fp8(
    x: Tensor, weight: Tensor, scales: Tensor, x_scale: Maybe = None, bias: Maybe = None, *, block_size: int = 128
) -> Tensor:
    """x [..., k] times float8 weight [n, k] with a scale for each `block_size` inputs; x is rounded to float8 in units
    of its scale where it has one."""
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    if x_scale is not None:
        unit = x_scale.to(wide)
        most = torch.finfo(torch.float8_e4m3fn).max
        x = ((x.to(wide) / unit).clamp(-most, most).to(torch.float8_e4m3fn).to(wide) * unit).to(x.dtype)
    return _scaled_product(x, weight.to(wide), scales.to(wide), bias, block_size)


def matmul_fp4(
    x: Tensor,
    packed: Tensor,
    scales: Tensor,
    scale: Tensor,
    x_scale: Maybe = None,
    bias: Maybe = None,
    *,
    block_size: int = 16,
) -> Tensor:
    """x [..., k] times float4 (e2m1) weight, uint8 [n, k / 2], the first of a byte in its low bits; float8 scales as
    bytes [n, blocks], times one scale for all."""
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    values = torch.tensor(_E2M1, dtype=wide, device=packed.device)[unpack(packed, 4).int()]
    units = scales.view(torch.float8_e4m3fn).to(wide) * scale.to(wide)
    return _scaled_product(x, values, units, bias, block_size)


def _scaled_product(x: Tensor, weight: Tensor, scales: Tensor, bias: Maybe, block: int) -> Tensor:
    weight = weight * scales.repeat_interleave(block, 1)[:, : weight.shape[1]]
    y = x.to(weight.dtype) @ weight.T
    return (y if bias is None else y + bias.to(y.dtype)).to(x.dtype)


def gemm_float8(
    a: Tensor,
    b: Tensor,
    c: Maybe = None,
    a_scale: Maybe = None,
    b_scale: Maybe = None,
    y_scale: Maybe = None,
    *,
    activation: str = "NONE",
    alpha: float = 1.0,
    beta: float = 0.0,
    dtype: int = _FLOAT,
    trans_a: int = 0,
    trans_b: int = 0,
) -> Tensor:
    """activation(alpha * a A * b B + beta C) in float32, of type `dtype`."""
    if y_scale is not None:
        raise ValueError("scaleY is not lowered; let GemmFloat8 give floats and quantize them after it")
    if activation not in ("NONE", "RELU", "GELU"):
        raise ValueError(f"activation is {activation!r}, expected NONE, RELU or GELU")
    wide = torch.float64 if a.dtype is torch.float64 else torch.float32
    left, right = (part.to(wide) for part in (a.T if trans_a else a, b.T if trans_b else b))
    y = alpha * (left @ right)
    for scale in (a_scale, b_scale):
        y = y if scale is None else y * scale.to(wide)
    if c is not None and beta:
        y = y + beta * c.to(wide)
    target = wide if wide is torch.float64 and dtype == _FLOAT else torch_dtype(dtype)
    return activated(y, "" if activation == "NONE" else activation).to(target)


BLOCKS: Table = standard(
    {
        "MatMulNBitsQkv": Lowering(function=matmul_nbits_qkv, many=True),
        "MatMulNBitsMlp": Lowering(function=matmul_nbits_mlp, many=True),
        "MatMulBlockQuantizedFp8Weight": matmul_fp8,
        "MatMulBlockQuantizedFp4Weight": matmul_fp4,
        "GemmFloat8": gemm_float8,
    },
    domain="com.microsoft",
)
