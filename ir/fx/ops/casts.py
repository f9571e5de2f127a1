"""Casts between all of ONNX's number types, those that torch stores unpacked among them."""

from __future__ import annotations

import math

import onnx_ir as oir
import torch

from ..dtypes import FLOAT8, TORCH, torch_dtype
from ..lowering import Lowering, Table, standard

_LIMITS = {
    oir.DataType.INT4: (-8, 7),
    oir.DataType.UINT4: (0, 15),
    oir.DataType.INT2: (-2, 1),
    oir.DataType.UINT2: (0, 3),
}
_MINIFLOATS = {
    oir.DataType.FLOAT4E2M1: (2, 1),
    oir.DataType.FLOAT6E2M3: (2, 3),
    oir.DataType.FLOAT6E3M2: (3, 2),
}
"""Bits of exponent and mantissa of the floats that torch has no type for; they have no infinity and no NaN."""


def cast(x: torch.Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> torch.Tensor:
    """To another type: floats to integers drop the fraction, to float8 they saturate unless told not to."""
    dtype, code = torch_dtype(to), oir.DataType(to)
    if x.dtype is torch.float8_e8m0fnu:
        if dtype is torch.bool:
            # the type has no zero
            return x.view(torch.uint8) >= 0
        x = x.float()
    if code in _LIMITS:
        return _narrow(x, code).to(dtype)
    if code in _MINIFLOATS:
        return _minifloat(x.float(), *_MINIFLOATS[code])
    if code is oir.DataType.FLOAT8E8M0:
        return _float8_e8m0(x.float(), saturate, round_mode)
    if dtype in FLOAT8:
        return _float8(x.float(), dtype, saturate)
    return x != 0 if dtype is torch.bool else x.to(dtype)


def cast_like(
    x: torch.Tensor, like: torch.Tensor, *, saturate: int = 1, round_mode: str = "up", dtype: int | None = None
) -> torch.Tensor:
    """To the type of another tensor, `dtype` where it is known, as torch lacks some."""
    code = dtype if dtype is not None else next(code.value for code, held in TORCH.items() if held is like.dtype)
    return cast(x, to=code, saturate=saturate, round_mode=round_mode)


def _narrow(x: torch.Tensor, code: oir.DataType) -> torch.Tensor:
    """To 2 or 4 bits: floats drop the fraction; the bits that do not fit are dropped."""
    low, high = _LIMITS[code]
    return torch.remainder(x.to(torch.int32) - low, high - low + 1) + low


def _minifloat(x: torch.Tensor, exponent: int, mantissa: int) -> torch.Tensor:
    """The nearest number with so many bits of each, ties to the even code; the largest beyond it, zero for NaN."""
    steps, bias = 2**mantissa, 2 ** (exponent - 1) - 1
    levels = [step / steps * 2.0 ** (1 - bias) for step in range(steps)]
    levels += [(1 + step / steps) * 2.0 ** (e - bias) for e in range(1, 2**exponent) for step in range(steps)]
    table, magnitude = x.new_tensor(levels), x.abs()
    middles = (table[1:] + table[:-1]) / 2
    code = torch.bucketize(magnitude, middles)
    # bucketize puts a tie below, where the code may be odd; the one above is even then
    at = code.clamp(max=len(levels) - 2)
    tie = (magnitude == middles[at]) & (code % 2 == 1)
    return torch.copysign(torch.where(x.isnan(), table[0], table[torch.where(tie, at + 1, code)]), x)


_BEYOND = {
    # halfway to the next number is rounded to the even code, the next one's, but in the first type its own
    torch.float8_e4m3fn: (464 + 2**-15, math.nan),
    torch.float8_e4m3fnuz: (248.0, math.nan),
    torch.float8_e5m2: (61440.0, math.inf),
    torch.float8_e5m2fnuz: (61440.0, math.nan),
}
"""The least number that is rounded to one beyond the largest, and what becomes of it unless it saturates."""


def _float8(x: torch.Tensor, dtype: torch.dtype, saturate: int) -> torch.Tensor:
    # whether torch's own conversion saturates depends on its version
    info, (least, beyond) = torch.finfo(dtype), _BEYOND[dtype]
    y = x.clamp(info.min, info.max)
    if not saturate:
        y = torch.where(x.abs() >= least, torch.copysign(x.new_tensor(beyond), x), y)
    return y.to(dtype)


def _float8_e8m0(x: torch.Tensor, saturate: int, round_mode: str) -> torch.Tensor:
    """A power of two: exponent of |x|, rounded as told."""
    if round_mode not in ("up", "down", "nearest"):
        raise ValueError(f"round_mode is {round_mode!r}, expected up, down or nearest")
    mantissa, exponent = torch.frexp(x.abs())
    if round_mode == "up":
        exponent = exponent - (mantissa == 0.5).int()
    elif round_mode == "nearest":
        exponent = exponent - (mantissa < 0.75).int()
    else:
        exponent = exponent - 1
    bits = torch.where(x == 0, 0, exponent + 127)
    beyond = (bits > 254) | x.isinf()
    bits = torch.where(beyond, 254 if saturate else 255, bits.clamp(min=0))
    return torch.where(x.isnan(), 255, bits).to(torch.uint8).view(torch.float8_e8m0fnu)


CASTS: Table = standard({"Cast": cast, "CastLike": Lowering(function=cast_like, typed=1)})
