"""Elementwise ops: arithmetic, comparison, logic, activations, casts."""

from __future__ import annotations

import functools
import math

import onnx_ir as oir
import torch
from torch.nn import functional

from ..errors import UnsupportedError
from .dtypes import FLOAT8, torch_dtype
from .lowering import Lowering, Table, standard

Number = torch.Tensor | float | int


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


def div(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Integers divide toward zero."""
    return a / b if a.is_floating_point() or a.is_complex() else torch.div(a, b, rounding_mode="trunc")


def mod(a: torch.Tensor, b: torch.Tensor, *, fmod: int = 0) -> torch.Tensor:
    """The remainder has the sign of b, or of a where `fmod`."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def power(base: torch.Tensor, exponent: Number) -> torch.Tensor:
    """The result has the type of the base, whatever the exponent's."""
    return torch.pow(base, exponent).to(base.dtype)


def maximum(*values: torch.Tensor) -> torch.Tensor:
    return functools.reduce(torch.maximum, values)


def minimum(*values: torch.Tensor) -> torch.Tensor:
    return functools.reduce(torch.minimum, values)


def total(*values: torch.Tensor) -> torch.Tensor:
    return functools.reduce(torch.add, values)


def mean(*values: torch.Tensor) -> torch.Tensor:
    return total(*values) / len(values)


def clip(x: torch.Tensor, min: Number | None = None, max: Number | None = None) -> torch.Tensor:
    """Both bounds, one or none; the upper one wins where they cross."""
    if min is not None:
        x = torch.maximum(x, min) if isinstance(min, torch.Tensor) else torch.clamp(x, min=_scalar(min))
    if max is not None:
        x = torch.minimum(x, max) if isinstance(max, torch.Tensor) else torch.clamp(x, max=_scalar(max))
    return x


def _scalar(value: object) -> float:
    while isinstance(value, list):
        value = value[0]
    assert isinstance(value, int | float)
    return value


def where(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(condition, a, b)


def cast(x: torch.Tensor, *, to: int, saturate: int = 1, round_mode: str = "up") -> torch.Tensor:
    """To another type: floats to integers drop the fraction, to float8 they saturate unless told not to."""
    dtype, code = torch_dtype(to), oir.DataType(to)
    if code in _RANGES:
        return _narrow(x, code).to(dtype)
    if code is oir.DataType.FLOAT4E2M1:
        return _float4(x.float())
    if code is oir.DataType.FLOAT8E8M0:
        return _float8_e8m0(x.float(), saturate, round_mode)
    if dtype in FLOAT8:
        return _float8(x, dtype, saturate)
    if dtype is torch.bool:
        return x != 0
    if x.dtype is torch.float8_e8m0fnu:
        x = x.float()
    return x.to(dtype)


_RANGES = {
    oir.DataType.INT4: (-8, 7),
    oir.DataType.UINT4: (0, 15),
    oir.DataType.INT2: (-2, 1),
    oir.DataType.UINT2: (0, 3),
}


def _narrow(x: torch.Tensor, code: oir.DataType) -> torch.Tensor:
    """To 2 or 4 bits: floats drop the fraction; the bits that do not fit are dropped."""
    low, high = _RANGES[code]
    return torch.remainder(x.to(torch.int32) - low, high - low + 1) + low


_FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def _float4(x: torch.Tensor) -> torch.Tensor:
    """The nearest of float4e2m1's 16 values, ties to the even code, as float32."""
    magnitude = x.abs()
    levels = x.new_tensor(_FLOAT4)
    middles = (levels[1:] + levels[:-1]) / 2
    code = torch.bucketize(magnitude, middles)
    # bucketize puts a tie below; the even code is above where the lower code is odd
    at = code.clamp(max=len(_FLOAT4) - 2)
    tie = (magnitude == middles[at]) & (code % 2 == 1)
    return torch.copysign(torch.where(x.isnan(), levels[0], levels[torch.where(tie, at + 1, code)]), x)


def _float8(x: torch.Tensor, dtype: torch.dtype, saturate: int) -> torch.Tensor:
    wide = x.float()
    info = torch.finfo(dtype)
    if saturate:
        return torch.clamp(wide, info.min, info.max).to(dtype)
    # the nearest float8 of a value beyond the largest is infinity where the type has one, else NaN
    beyond = math.inf if dtype is torch.float8_e5m2 else math.nan
    step = 2.0 ** (math.floor(math.log2(info.max)) - (2 if "e5m2" in str(dtype) else 3))
    over = wide.abs() >= info.max + step / 2
    return torch.where(over, torch.copysign(torch.full_like(wide, beyond), wide), wide.clamp(info.min, info.max)).to(
        dtype
    )


def _float8_e8m0(x: torch.Tensor, saturate: int, round_mode: str) -> torch.Tensor:
    """A power of two: exponent of |x|, rounded as told."""
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


def cast_like(x: torch.Tensor, like: torch.Tensor, *, saturate: int = 1, round_mode: str = "up") -> torch.Tensor:
    code = next(code for code, dtype in _CODES.items() if dtype is like.dtype)
    return cast(x, to=code, saturate=saturate, round_mode=round_mode)


_CODES = {
    code.value: torch_dtype(code)
    for code in oir.DataType
    if code not in (oir.DataType.UNDEFINED, oir.DataType.STRING, *_RANGES, oir.DataType.FLOAT4E2M1)
    and code.name not in ("FLOAT6E2M3", "FLOAT6E3M2")
}


def gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    return functional.gelu(x, approximate=approximate)


def leaky_relu(x: torch.Tensor, *, alpha: float = 0.01) -> torch.Tensor:
    return torch.where(x < 0, x * alpha, x)


def prelu(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x < 0, x * slope, x)


def elu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    return functional.elu(x, alpha)


def celu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    return functional.celu(x, alpha)


def selu(
    x: torch.Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> torch.Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


def hard_sigmoid(x: torch.Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> torch.Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def hard_swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.clamp(x / 6 + 0.5, 0, 1)


def swish(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    return x * torch.sigmoid(alpha * x)


def softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def thresholded_relu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def shrink(x: torch.Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> torch.Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))


def is_inf(x: torch.Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> torch.Tensor:
    found = torch.isinf(x)
    if not detect_negative:
        found = found & (x > 0)
    if not detect_positive:
        found = found & (x < 0)
    return found


def bit_shift(a: torch.Tensor, b: torch.Tensor, *, direction: str) -> torch.Tensor:
    """Unsigned shifts, done one type wider where torch has no kernel."""
    wide = a.dtype if a.dtype is torch.uint8 else torch.int64
    shifted = a.to(wide) << b.to(wide) if direction == "LEFT" else a.to(wide) >> b.to(wide)
    return shifted.to(a.dtype)


def dropout(x: torch.Tensor, ratio: Number = 0.5, training: object = False, *, seed: int = 0, outputs: int) -> object:
    """Inference: x itself, and a mask that keeps all of it. Training is refused: it has no one right answer."""
    if bool(training) and ratio != 0:
        raise UnsupportedError("Dropout in training mode is random; set training_mode to false")
    return x if outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))


ELEMENTWISE: Table = standard(
    {
        "Abs": torch.abs,
        "Acos": torch.acos,
        "Acosh": torch.acosh,
        "Add": torch.add,
        "And": torch.logical_and,
        "Asin": torch.asin,
        "Asinh": torch.asinh,
        "Atan": torch.atan,
        "Atanh": torch.atanh,
        "BitShift": bit_shift,
        "BitwiseAnd": torch.bitwise_and,
        "BitwiseNot": torch.bitwise_not,
        "BitwiseOr": torch.bitwise_or,
        "BitwiseXor": torch.bitwise_xor,
        "Cast": cast,
        "CastLike": cast_like,
        "Ceil": torch.ceil,
        "Celu": celu,
        "Cos": torch.cos,
        "Cosh": torch.cosh,
        "Div": div,
        "Elu": elu,
        "Equal": torch.eq,
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Floor": torch.floor,
        "Gelu": gelu,
        "Greater": torch.gt,
        "GreaterOrEqual": torch.ge,
        "HardSigmoid": hard_sigmoid,
        "HardSwish": hard_swish,
        "Identity": identity,
        "IsInf": is_inf,
        "IsNaN": torch.isnan,
        "LeakyRelu": leaky_relu,
        "Less": torch.lt,
        "LessOrEqual": torch.le,
        "Log": torch.log,
        "Max": maximum,
        "Mean": mean,
        "Min": minimum,
        "Mish": functional.mish,
        "Mod": mod,
        "Mul": torch.mul,
        "Neg": torch.neg,
        "Not": torch.logical_not,
        "Or": torch.logical_or,
        "PRelu": prelu,
        "Reciprocal": torch.reciprocal,
        "Relu": torch.relu,
        "Round": torch.round,
        "Selu": selu,
        "Shrink": shrink,
        "Sigmoid": torch.sigmoid,
        "Sign": torch.sign,
        "Sin": torch.sin,
        "Sinh": torch.sinh,
        "Softplus": softplus,
        "Softsign": functional.softsign,
        "Sqrt": torch.sqrt,
        "Sub": torch.sub,
        "Sum": total,
        "Swish": swish,
        "Tan": torch.tan,
        "Tanh": torch.tanh,
        "ThresholdedRelu": thresholded_relu,
        "Where": where,
        "Xor": torch.logical_xor,
        "Pow": Lowering(function=power, numbers=(1,)),
        "Dropout": Lowering(function=dropout, numbers=(1, 2), many=True),
        "Clip": Lowering(function=clip, numbers=(1, 2)),
    }
)
