"""Elementwise ops: arithmetic, comparison, logic, activations."""

from __future__ import annotations

import functools
import math

import torch
from torch.nn import functional

from ..dtypes import FLOAT8
from ..lowering import Lowering, Table, merged, standard

Number = torch.Tensor | float | int

# float attributes are float32, and so are their defaults
_FIFTH = 0.20000000298023224
_HUNDREDTH = 0.009999999776482582
_MOST = 3.4028234663852886e38


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


def div(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Integers divide toward zero; the least one by -1 is itself."""
    if a.is_floating_point() or a.is_complex():
        return a / b
    if a.dtype not in (torch.int32, torch.int64):
        return torch.div(a, b, rounding_mode="trunc")
    # the processor traps where a quotient does not fit these types
    negated = b == -1
    return torch.where(negated, -a, torch.div(a, torch.where(negated, 1, b), rounding_mode="trunc"))


def mod(a: torch.Tensor, b: torch.Tensor, *, fmod: int = 0) -> torch.Tensor:
    """The remainder has the sign of b, or of a where `fmod`."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def power(base: torch.Tensor, exponent: Number | list[Number]) -> torch.Tensor:
    """The result has the type of the base, whatever the exponent's; of integers to negative powers too."""
    if isinstance(exponent, list) or not (base.is_floating_point() or isinstance(exponent, torch.Tensor)):
        exponent = torch.tensor(exponent, device=base.device)
    if isinstance(exponent, torch.Tensor) and exponent.dtype != base.dtype:
        # left to itself torch has a base without axes follow the exponent's type
        wide = torch.promote_types(base.dtype, exponent.dtype)
        if wide.is_floating_point and not base.is_floating_point():
            # float32 has not all integers
            wide = torch.float64
        base, exponent, kept = base.to(wide), exponent.to(wide), base.dtype
        return torch.pow(base, exponent).to(kept)
    return torch.pow(base, exponent).to(base.dtype)


def maximum(*values: torch.Tensor) -> torch.Tensor:
    return functools.reduce(torch.maximum, values)


def minimum(*values: torch.Tensor) -> torch.Tensor:
    return functools.reduce(torch.minimum, values)


def total(*values: torch.Tensor) -> torch.Tensor:
    return functools.reduce(torch.add, values)


def mean(*values: torch.Tensor) -> torch.Tensor:
    return total(*values) / len(values)


def clip_6(x: torch.Tensor, *, min: float = -_MOST, max: float = _MOST) -> torch.Tensor:
    """Before opset 11: without bounds of its own it still has the ends of float32, infinities become them."""
    most = torch.finfo(x.dtype).max
    low, high = (bound if abs(bound) <= most else math.copysign(math.inf, bound) for bound in (min, max))
    return torch.clamp(x, low, high)


def clip(x: torch.Tensor, min: Number | None = None, max: Number | None = None) -> torch.Tensor:
    """Both bounds, one or none; the upper one wins where they cross."""
    if min is not None:
        low = _scalar(min)
        x = torch.maximum(x, low) if isinstance(low, torch.Tensor) else torch.clamp(x, min=low)
    if max is not None:
        high = _scalar(max)
        x = torch.minimum(x, high) if isinstance(high, torch.Tensor) else torch.clamp(x, max=high)
    return x


def _scalar(bound: object) -> Number:
    """A bound without axes; files exist that write it as a vector of one, which ONNX Runtime takes too."""
    if isinstance(bound, torch.Tensor):
        return bound.reshape(()) if bound.dim() else bound
    while isinstance(bound, list):
        if len(bound) != 1:
            raise ValueError(f"a bound is {bound}; expected one number")
        bound = bound[0]
    assert isinstance(bound, int | float)
    return bound


def where(condition: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.where(condition, a, b)


def erf(x: torch.Tensor) -> torch.Tensor:
    """Integers stay what they are."""
    return torch.erf(x) if x.is_floating_point() else torch.erf(x).to(x.dtype)


def gelu(x: torch.Tensor, *, approximate: str = "none") -> torch.Tensor:
    return functional.gelu(x, approximate=approximate)


def leaky_relu(x: torch.Tensor, *, alpha: float = _HUNDREDTH) -> torch.Tensor:
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


def sign(x: torch.Tensor) -> torch.Tensor:
    """Of NaN, NaN: torch has zero there."""
    return torch.where(torch.isnan(x), x, torch.sign(x)) if x.is_floating_point() else torch.sign(x)


def hard_sigmoid(x: torch.Tensor, *, alpha: float = _FIFTH, beta: float = 0.5) -> torch.Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def hard_swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.clamp(x / 6 + 0.5, 0, 1)


def swish(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    return x * torch.sigmoid(alpha * x)


def swiglu(gate: torch.Tensor, x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    return swish(gate, alpha=alpha) * x


def softplus(x: torch.Tensor) -> torch.Tensor:
    return torch.logaddexp(x, torch.zeros_like(x))


def thresholded_relu(x: torch.Tensor, *, alpha: float = 1.0) -> torch.Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


def shrink(x: torch.Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> torch.Tensor:
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x))).to(x.dtype)


def is_inf(x: torch.Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> torch.Tensor:
    x = x.float() if x.dtype in FLOAT8 else x
    found = torch.isinf(x)
    if not detect_negative:
        found = found & (x > 0)
    if not detect_positive:
        found = found & (x < 0)
    return found


def bit_shift(a: torch.Tensor, b: torch.Tensor, *, direction: str) -> torch.Tensor:
    """Bits that leave on either side are lost; the sign fills from the left. A shift by no number of bits that the type
    has, negative or too large, leaves what fills."""
    word, by = (x.view(torch.int64) if x.dtype is torch.uint64 else x.to(torch.int64) for x in (a, b))
    outside = (by < 0) | (by >= 8 * a.element_size())
    by = torch.where(outside, 0, by)
    if direction == "LEFT":
        shifted = torch.where(outside, 0, word << by)
    elif direction != "RIGHT":
        raise ValueError(f"direction is {direction!r}, expected LEFT or RIGHT")
    elif a.dtype is torch.uint64:
        # the first step clears the sign that these bits have as int64
        shifted = torch.where(by > 0, ((word >> 1) & (2**63 - 1)) >> (by - 1).clamp(min=0), word)
        shifted = torch.where(outside, 0, shifted)
    else:
        shifted = torch.where(outside, word >> 63, word >> by)
    return shifted.view(torch.uint64) if a.dtype is torch.uint64 else shifted.to(a.dtype)


_ANY: Table = standard(
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
        "Ceil": torch.ceil,
        "Celu": celu,
        "Cos": torch.cos,
        "Cosh": torch.cosh,
        "Div": div,
        "Elu": elu,
        "Equal": torch.eq,
        "Erf": erf,
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
        "Sign": sign,
        "Sin": torch.sin,
        "Sinh": torch.sinh,
        "Softplus": softplus,
        "Softsign": functional.softsign,
        "Sqrt": torch.sqrt,
        "Sub": torch.sub,
        "Sum": total,
        "SwiGLU": swiglu,
        "Swish": swish,
        "Tan": torch.tan,
        "Tanh": torch.tanh,
        "ThresholdedRelu": thresholded_relu,
        "Where": where,
        "Xor": torch.logical_xor,
        "Pow": Lowering(function=power, numbers=(1,)),
        "Clip": clip_6,
    }
)
_SINCE_11: Table = standard({"Clip": Lowering(function=clip, numbers=(1, 2))}, since=11)
ELEMENTWISE: Table = merged(_ANY, _SINCE_11)
