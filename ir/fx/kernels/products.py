"""Low-bit products: torch's own kernels where they are exact enough and fast, the plain product elsewhere.

Each function says when its kernel is used; everything else takes the plain way, with the same result. Measured on an
AVX2 CPU without VNNI (torch 2.13): `_int_mm` and the weight-only kernels in float32 are plain loops there, 5 to 60
times slower than the float product, the weight-only kernels in bfloat16 up to 3 times faster than the bfloat16 product.
So the former are not used on such a CPU. No kernel here has a derivative: what needs one takes the plain way.

The kernels' names begin with an underscore in torch (tried on 2.13; the same since 2.8).
"""

from __future__ import annotations

from functools import cache

import torch
from torch.nn import functional

Tensor = torch.Tensor
Maybe = torch.Tensor | None

INT4_GROUPS = (32, 64, 128, 256)
_INNER = 8
_FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)


# asked once, here: a compiler that traces the functions below sees constants
_CPU = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
_VECTORS = torch.backends.cpu.get_cpu_capability() != "DEFAULT"


def has_vnni() -> bool:
    """The CPU multiplies 8-bit integers into 32-bit sums without passing through 16 bits."""
    return any(_CPU.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


@cache
def _capability(index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def _trained(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def integer_product(a: Tensor, b: Tensor, a_zero: Maybe = None, b_zero: Maybe = None) -> Tensor:
    """(a - a_zero)(b - b_zero), exact, in int32.

    a [..., m, k] and b [..., k, n] of int8 or uint8; zero points are one, or one per row of a [m], per column of b
    [n], or broadcast already. `torch._int_mm` where b is a matrix, the zero points are one (a) and one or per column
    (b), and the device is a CPU with VNNI, or CUDA with k and n multiples of 8; else float64, which is exact as
    255 * 255 * k < 2^53.
    """
    if _int_mm_can(a, b, a_zero, b_zero):
        return _int_mm(a, b, a_zero, b_zero)
    return (_centred(a, a_zero, rows=True) @ _centred(b, b_zero, rows=False)).to(torch.int32)


def _int_mm_can(a: Tensor, b: Tensor, a_zero: Maybe, b_zero: Maybe) -> bool:
    if b.dim() != 2 or a.dim() < 2 or {a.dtype, b.dtype} - {torch.int8, torch.uint8}:
        return False
    if (a_zero is not None and a_zero.numel() != 1) or (b_zero is not None and b_zero.dim() > 1):
        return False
    if a.device.type == "cuda":
        return b.shape[0] % 8 == 0 and b.shape[1] % 8 == 0 and _capability(a.device.index) >= (7, 5)
    return a.device.type == "cpu" and has_vnni()


def _int_mm(a: Tensor, b: Tensor, a_zero: Maybe, b_zero: Maybe) -> Tensor:
    """(a - p)(b - q) = ab - p sum_k(b) - q sum_k(a) + k p q, after uint8 was moved down by 128."""
    rows = a.flatten(0, -2)
    left, p = _signed(rows, a_zero)
    right, q = _signed(b, b_zero)
    # CUDA's kernel wants more than 16 rows
    padded = functional.pad(left, (0, 0, 0, 16)) if a.device.type == "cuda" else left
    product = torch._int_mm(padded, right)[: left.shape[0]]
    if p is not None:
        product = product - p * right.sum(0, dtype=torch.int32)
    if q is not None:
        product = product - left.sum(1, keepdim=True, dtype=torch.int32) * q
    if p is not None and q is not None:
        product = product + a.shape[-1] * p * q
    return product.reshape(*a.shape[:-1], b.shape[-1])


def _signed(x: Tensor, zero: Maybe) -> tuple[Tensor, Maybe]:
    """As int8 with its zero point in int32; None where that is known to be 0."""
    point = None if zero is None else zero.to(torch.int32)
    point = point.reshape(()) if point is not None and point.numel() == 1 else point
    if x.dtype is torch.int8:
        return x, point
    moved = torch.bitwise_xor(x, 128).view(torch.int8)
    shift = torch.tensor(128, dtype=torch.int32, device=x.device)
    return moved, -shift if point is None else point - shift


def _centred(x: Tensor, zero: Maybe, *, rows: bool) -> Tensor:
    if zero is None:
        return x.double()
    if rows and zero.dim() == 1 and zero.numel() > 1:
        zero = zero.unsqueeze(-1)
    return x.double() - (zero.reshape(()) if zero.numel() == 1 else zero).double()


def int4_fits(rows: int, columns: int, group: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `int4_linear` has a fast kernel for a weight [rows, columns] with one scale per `group` columns.

    CPU: bfloat16 (others are plain loops), AVX2 or better, rows a multiple of 16. CUDA: bfloat16, compute capability 8
    or better, rows a multiple of 8, columns of 128. Groups of 32, 64, 128 or 256.
    """
    if dtype is not torch.bfloat16 or group not in INT4_GROUPS or columns % group:
        return False
    if device.type == "cuda":
        return rows % 8 == 0 and columns % (16 * _INNER) == 0 and _capability(device.index) >= (8, 0)
    return device.type == "cpu" and rows % 16 == 0 and _VECTORS


def int4_pack(codes: Tensor, scales: Tensor, zeros: Tensor) -> tuple[Tensor, Tensor]:
    """Codes 0..15 [rows, columns], scales and zero points [rows, groups] as the kernel of their device wants them: the
    weight, and pairs (scale, (8 - zero) scale) [groups, rows, 2]: the kernel has (code - 8) scale + offset."""
    pairs = torch.stack([scales, (8 - zeros.to(scales.dtype)) * scales], -1).transpose(0, 1).contiguous()
    if codes.device.type == "cuda":
        bytes_ = ((codes[:, ::2] << 4) | codes[:, 1::2]).to(torch.uint8)
        return torch.ops.aten._convert_weight_to_int4pack(bytes_, _INNER), pairs
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1), pairs


def int4_linear(x: Tensor, weight: Tensor, pairs: Tensor, *, group: int) -> Tensor:
    """x [..., columns] times a weight that `int4_pack` packed, [..., rows], in x's type; the product is in the type of
    the pairs."""
    if _trained(x):
        # the product of the unit matrix is the weight
        unit = torch.eye(x.shape[-1], dtype=pairs.dtype, device=x.device)
        return x @ _int4_mm(unit, weight, pairs, group).to(x.dtype)
    rows = x.reshape(-1, x.shape[-1]).to(pairs.dtype)
    return _int4_mm(rows, weight, pairs, group).reshape(*x.shape[:-1], pairs.shape[1]).to(x.dtype)


def _int4_mm(rows: Tensor, weight: Tensor, pairs: Tensor, group: int) -> Tensor:
    ops = torch.ops.aten
    kernel = ops._weight_int4pack_mm if rows.device.type == "cuda" else ops._weight_int4pack_mm_for_cpu
    y: Tensor = kernel(rows, weight, group, pairs)
    return y


def int8_linear(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """x [..., columns] times int8 weight [rows, columns] with a scale per row [rows].

    `_weight_int8pack_mm` where x is bfloat16 on a CPU with AVX2 or better and columns are a multiple of 16: the kernel
    reads whole vectors, with AVX-512 beyond the end of a row. Else a float product, scaled after it.
    """
    if not _trained(x, scales) and _int8_fits(x):
        rows = x.reshape(-1, x.shape[-1])
        y: Tensor = torch.ops.aten._weight_int8pack_mm(rows, weight, scales.to(x.dtype))
        return y.reshape(*x.shape[:-1], weight.shape[0])
    return (x @ weight.to(x.dtype).mT) * scales.to(x.dtype)


def _int8_fits(x: Tensor) -> bool:
    return x.dtype is torch.bfloat16 and x.device.type == "cpu" and _VECTORS and x.shape[-1] % 16 == 0


def float8_product(a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, *, dtype: torch.dtype) -> Tensor:
    """a [..., m, k] times b [k, n], both float8 with one scale each.

    `_scaled_mm` where the device is CUDA of compute capability 8.9 or better, k and n are multiples of 16 and not both
    are e5m2; else a float32 product, scaled after it.
    """
    if not _trained(a_scale, b_scale) and _scaled_mm_can(a, b):
        column_major = b if b.stride(0) == 1 else b.t().contiguous().t()
        left, right = a_scale.reshape(()).float(), b_scale.reshape(()).float()
        flat = torch._scaled_mm(a.reshape(-1, a.shape[-1]), column_major, left, right, out_dtype=dtype)
        return flat.reshape(*a.shape[:-1], b.shape[-1])
    return ((a.float() @ b.float()) * (a_scale.float() * b_scale.float())).to(dtype)


def _scaled_mm_can(a: Tensor, b: Tensor) -> bool:
    if a.device.type != "cuda" or b.dim() != 2 or {a.dtype, b.dtype} - set(_FLOAT8):
        return False
    mixed = not (a.dtype is b.dtype is torch.float8_e5m2)
    return mixed and b.shape[0] % 16 == 0 and b.shape[1] % 16 == 0 and _capability(a.device.index) >= (8, 9)
