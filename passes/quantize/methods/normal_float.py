"""NormalFloat: levels that are quantiles of the normal distribution, and a scale for each block.

Dettmers et al., QLoRA, 2023, section 3 and appendix E.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from ...numerics.table import check, nearest
from ...weights import Codebook, Quantized

#: Scales that share a scale of their own where they are quantized (QLoRA, section 3).
_SHARED = 256


def levels(bits: int) -> Floats:
    """The 2^bits levels of NormalFloat in order, from -1 to 1 with an exact zero; bits: 2 to 8.

    2^(bits-1) + 1 quantiles of the upper half of the normal distribution and 2^(bits-1) of the lower, which share zero,
    at equal steps of probability from 1/2 to 1 - (1 / (2 (2^bits - 1)) + 1 / (2 2^bits)) / 2, over the largest. For
    four bits these are the sixteen numbers of QLoRA's appendix E.

    >>> [round(float(level), 4) for level in levels(2)]
    [-1.0, 0.0, 0.4358, 1.0]
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"expected 2 to 8 bits, found {bits}")
    half = 1 << (bits - 1)
    last = 1 - (1 / (2 * (2 * half - 1)) + 1 / (4 * half)) / 2
    normal = NormalDist()
    above = [normal.inv_cdf(0.5 + (last - 0.5) * (step / half)) for step in range(1, half + 1)]
    below = [-normal.inv_cdf(0.5 + (last - 0.5) * (step / (half - 1))) for step in range(half - 1, 0, -1)]
    found: Floats = np.array([*below, 0.0, *above]) / above[-1]
    return found


def normal_float(weight: Array, *, bits: int = 4, block: int = 64, double: bool = False) -> Codebook:
    """The nearest level times the largest magnitude of each block of a row: s = max|w|, q = nearest(w / s).

    weight: [rows, columns], rows being output channels or words. bits: 2 to 8. block: columns of a row that share a
    scale, the last may be fewer (the paper's blocks run through the flat tensor); 0 for whole rows. double: scales are
    stored in 8 bits, with a scale for each 256 of them in their order, and weights are rounded to what those stand for.
    The paper takes their mean off and rounds them to 8-bit floats; here they are unsigned integers, so that a scale is
    off by at most the largest of its 256 over 510. A block of zeros has the scale zero.

    Raises ValueError for a weight that is no matrix of finite floats, other bits and a negative block.
    """
    wide = check(weight, bits, least=2)
    if block < 0:
        raise ValueError(f"expected a block of at least one column, or 0 for whole rows, found {block}")
    rows, columns = wide.shape
    size = block or max(columns, 1)
    starts = np.arange(0, max(columns, 1), size)
    empty = np.zeros((rows, 0 if block else 1))
    largest = np.maximum.reduceat(np.abs(wide), starts, axis=1) if columns else empty
    scale: Array | Quantized = _doubled(largest, weight.dtype) if double else largest.astype(weight.dtype)
    held = (scale.dense() if isinstance(scale, Quantized) else scale).astype(np.float64).reshape(largest.shape)
    spread = held.repeat(size, 1)[:, :columns]
    table = levels(bits).astype(weight.dtype)
    indices = nearest(np.divide(wide, spread, out=np.zeros_like(wide), where=spread > 0), table.astype(np.float64))
    return Codebook(indices[None], table.reshape(1, -1, 1), (rows, columns), bits, scale, block=block)


def _doubled(scale: Floats, dtype: np.dtype[np.generic]) -> Quantized:
    """Scales, none negative, as integers 0 .. 255 times a scale for each 256 of them; none above zero becomes zero."""
    flat = scale.reshape(-1)
    largest = np.maximum.reduceat(flat, np.arange(0, flat.size, _SHARED)) if flat.size else np.zeros(0)
    kind = dtype.type
    least = float(np.nextafter(kind(0), kind(1)))
    step = np.where(largest > 0, np.maximum(largest / 255, least), 1.0).astype(dtype)
    values = np.clip(np.rint(flat / step.astype(np.float64).repeat(_SHARED)[: flat.size]), flat > 0, 255)
    return Quantized(values.astype(np.uint8), step, 0, None, _SHARED)
