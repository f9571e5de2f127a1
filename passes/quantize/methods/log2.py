"""Powers of two: a sign and an exponent for each weight.

    w' = sign(w) 2^e    e = round(log2 |w|), cut off at the full scale; w' = 0 where w is or e would be too small

Miyashita et al., Convolutional Neural Networks using Logarithmic Data Representation, 2016, section 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import Floats
from ...numerics.table import check
from ...weights import Codebook

Exponents = NDArray[np.int16]

#: Below the exponent of any float.
_NONE = -(1 << 14)


def log2(weight: Array, *, bits: int = 4, rows: bool = False, search: bool = False) -> Codebook:
    """The power of two whose logarithm is nearest, or zero: 2^(bits-1) - 1 powers of either sign, 2^bits - 1 numbers.

    weight: [rows, columns]; in any orientation unless `rows`. bits: 2 to 8, the sign counted. The largest power, the
    full scale, is the one nearest to the largest magnitude of the tensor as logarithms go, or with `rows` to that of
    each row, whose scale it then is. search: it may lie lower, wherever the squared error is least. What is nearer to
    the power below the least than to the least becomes zero. A tensor or row of zeros has the full scale one.

    Raises ValueError for a weight that is no matrix of finite floats and for other bits.

    >>> log2(np.array([[1.0, -0.3, 0.1, 3.0]]), bits=3).dense().tolist()
    [[1.0, 0.0, 0.0, 4.0]]
    """
    wide = check(weight, bits, least=2)
    count = (1 << (bits - 1)) - 1
    lines = wide if rows else wide.reshape(1, -1)
    exponents = _exponents(lines)
    highest = exponents.max(1, keepdims=True, initial=_NONE)
    # the power above the largest float is infinite
    kind = weight.dtype.type
    most = int(np.frexp(float(np.nextafter(kind(np.inf), kind(0))))[1]) - 1
    full: Exponents = np.where(highest > _NONE, np.minimum(highest, most), 0).astype(np.int16)
    if search:
        full = full - _lowered(lines, exponents, full, count)
    below = np.maximum(full - exponents, 0)
    # entry 0 is zero, entry 1 + 2 i is 2^-i and entry 2 + 2 i is -2^-i
    indices = np.where(below < count, 1 + 2 * below + (lines < 0), 0).astype(np.uint8)
    powers = np.exp2(-np.arange(count, dtype=np.float64))
    table = np.concatenate([[0.0], np.stack([powers, -powers], 1).reshape(-1)])
    largest = np.exp2(full.astype(np.float64))
    scale = largest.astype(weight.dtype) if rows else None
    books = (table if rows else table * largest).astype(weight.dtype).reshape(1, -1, 1)
    return Codebook(indices.reshape(1, *wide.shape), books, wide.shape, bits, scale)


def _exponents(lines: Floats) -> Exponents:
    """round(log2 |w|), and _NONE for zero."""
    logarithms = np.log2(np.abs(lines), out=np.full(lines.shape, float(_NONE)), where=lines != 0)
    return np.rint(logarithms).astype(np.int16)


def _lowered(lines: Floats, exponents: Exponents, full: Exponents, count: int) -> Exponents:
    """By how many powers below `full` the full scale of each line has the least squared error, [lines, 1]."""
    # sum (a - 2^-r)^2 = sum a^2 - sum (2 2^-r a - 4^-r), a in units of the full scale, r the power below it that a gets
    kinds = 2 * count + 1
    below = np.clip(full - exponents, 0, kinds - 1)
    cells = (below + np.arange(len(lines))[:, None] * kinds).reshape(-1)
    size = len(lines) * kinds
    units = (np.abs(lines) / np.exp2(full.astype(np.float64))).reshape(-1)
    total = np.bincount(cells, units, minlength=size).reshape(-1, kinds)
    number = np.bincount(cells, minlength=size).reshape(-1, kinds)
    powers = np.exp2(-np.arange(kinds, dtype=np.float64))
    gains = [
        (2 * got * total[:, : lowered + count] - got**2 * number[:, : lowered + count]).sum(1)
        for lowered in range(count + 1)
        for got in [np.minimum(powers[: lowered + count], powers[lowered])]
    ]
    found: Exponents = np.argmax(np.stack(gains, 1), axis=1, keepdims=True).astype(np.int16)
    return found
