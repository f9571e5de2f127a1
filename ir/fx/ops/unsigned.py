"""Which lowering an op has where it is given uint16, uint32 or uint64, which torch stores but hardly computes with.

The op runs on other numbers instead. 16 and 32 bits fit one signed type wider, where every result is exact, and
dropping the upper bits afterwards wraps around as ONNX does. 64 bits have no wider type, so what they are taken for
depends on what the op asks of them:

    RING     the same bits as int64: sums, products and selections come out the same, modulo 2^64
    ORDER    less 2^63, which keeps the order: comparisons, extremes, sorting
    REAL     float64, for any width, where the op leaves the integers anyway
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

import torch

from ..lowering import Function, Key, Lowering, Table
from .elementwise import power

Tensor = torch.Tensor


class Read(Enum):
    """What unsigned numbers are taken for."""

    RING = "ring"
    ORDER = "order"
    REAL = "real"


_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64}
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_LEAST = -(2**63)


def widened(x: Tensor, read: Read) -> Tensor:
    """An unsigned tensor as numbers torch computes with; other tensors as they are."""
    if x.dtype not in _UNSIGNED:
        return x
    if read is Read.REAL:
        return x.double()
    if x.dtype in _WIDER:
        return x.to(_WIDER[x.dtype])
    bits = x.view(torch.int64)
    return bits ^ _LEAST if read is Read.ORDER else bits


def narrowed(y: Tensor, dtype: torch.dtype, read: Read) -> Tensor:
    """What `widened` made of an unsigned type, back in it."""
    if read is Read.REAL or dtype in _WIDER:
        return y.to(dtype)
    return (y ^ _LEAST if read is Read.ORDER else y).view(torch.uint64)


def _divided(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Quotient and remainder of uint64, given and returned as int64 of the same bits."""
    # a >> 1 is not negative, and twice its quotient falls short of the quotient of a by at most 1; a divisor of 2^63
    # or more, negative here, goes in at most once
    half = torch.div((a >> 1) & ~_LEAST, torch.where(b < 0, 1, b), rounding_mode="floor") << 1
    quotient = torch.where(b < 0, 0, half)
    rest = a - quotient * b
    more = (rest ^ _LEAST) >= (b ^ _LEAST)
    return quotient + more.to(torch.int64), torch.where(more, rest - b, rest)


def div(a: Tensor, b: Tensor) -> Tensor:
    x, y = widened(a, Read.RING), widened(b, Read.RING)
    wide = _divided(x, y)[0] if a.dtype is torch.uint64 else torch.div(x, y, rounding_mode="trunc")
    return narrowed(wide, a.dtype, Read.RING)


def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """The two kinds of remainder differ in signs alone, which there are none of."""
    x, y = widened(a, Read.RING), widened(b, Read.RING)
    return narrowed(_divided(x, y)[1] if a.dtype is torch.uint64 else torch.remainder(x, y), a.dtype, Read.RING)


def pow_(base: Tensor, exponent: Tensor) -> Tensor:
    """Only the exponent can be unsigned."""
    return power(base, widened(exponent, Read.RING))


def absolute(x: Tensor) -> Tensor:
    return x


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """The slope is for negative numbers."""
    return x


def sign(x: Tensor) -> Tensor:
    return (x != 0).to(x.dtype)


_READS = {
    **dict.fromkeys(
        (
            *("Add", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Col2Im", "Compress"),
            *("CumProd", "CumSum", "Einsum", "GatherElements", "GatherND", "Gemm", "MatMul", "NonZero", "OneHot"),
            *("Pad", "ReduceL1", "ReduceProd", "ReduceSum", "ReduceSumSquare", "ReverseSequence", "Scatter"),
            *("ScatterElements", "ScatterND", "Slice", "Sub", "TensorScatter", "Trilu"),
        ),
        Read.RING,
    ),
    **dict.fromkeys(
        (
            *("ArgMax", "ArgMin", "Clip", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min"),
            *("ReduceMax", "ReduceMin", "TopK", "Unique"),
        ),
        Read.ORDER,
    ),
    **dict.fromkeys(
        ("GridSample", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "Resize", "Shrink", "Upsample"),
        Read.REAL,
    ),
}
_OWN: dict[str, Function] = {
    "Abs": absolute,
    "Div": div,
    "Mod": mod,
    "Pow": pow_,
    "PRelu": prelu,
    "Sign": sign,
}
_LIKE = {"OneHot": 2}
"""The input whose type the first output has, where it is not the first."""
_FIXED = ("ArgMax", "ArgMin", "NonZero")
"""Ops whose outputs are places."""


def unsigned_table(device: Table) -> Table:
    """The rows for unsigned integers, given those for all tensors."""
    rows: dict[Key, Lowering] = {}
    for key, row in device.items():
        domain, op, since = key
        if domain == "" and op in _OWN:
            rows[key] = replace(row, function=_OWN[op])
        elif domain == "" and op in _READS:
            function = _through(row.function, op, _READS[op])
            # FX writes calls by module and name, pickle finds functions by them
            function.__name__ = function.__qualname__ = f"{op}_{since}"
            function.__module__ = __name__
            globals()[function.__name__] = function
            rows[key] = replace(row, function=function)
    return rows


def _through(function: Function, op: str, usual: Read) -> Function:
    like = _LIKE.get(op, 0)

    def run(*args: object, **keywords: object) -> object:
        read = Read.ORDER if keywords.get("reduction") in ("max", "min") else usual
        found = function(*(widened(arg, read) if isinstance(arg, Tensor) else arg for arg in args), **keywords)
        kind = args[like]
        if op in _FIXED or not isinstance(kind, Tensor) or kind.dtype not in _UNSIGNED:
            return found
        # of several outputs only the first has the input's type
        first = found[0] if isinstance(found, tuple) else found
        assert isinstance(first, Tensor)
        if first.dtype is not torch.bool:
            first = narrowed(first, kind.dtype, read)
        return (first, *found[1:]) if isinstance(found, tuple) else first

    return run
