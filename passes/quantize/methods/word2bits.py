"""Word2Bits: two or four numbers around zero.

    1 bit    1/3 where w >= 0, else -1/3
    2 bits   3/4 where w > 1/2, 1/4 where 1/2 >= w >= 0, -1/4 where 0 > w >= -1/2, else -3/4

Lam, Word2Bits: Quantized Word Vectors, 2018, section 3.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from ...numerics.table import check, single
from ...weights import Codebook

Fit = Literal["none", "tensor", "rows"]

_LEVELS = {1: np.array([-1, 1]) / 3, 2: np.array([-3, -1, 1, 3]) / 4}


def word2bits(weight: Array, *, bits: int = 1, fit: Fit = "rows") -> Codebook:
    """s * Q(w / s), Q as above; weight: [rows, columns], rows being words where each has a scale; bits: 1 or 2.

    fit: `none` is the paper's function, s = 1, which suits vectors that were trained with it; `tensor` and `rows`
    choose the s of the least squared error, for the tensor or for each row, exactly: for one bit s = 3 mean|w|. A row
    of zeros has the scale zero.

    Raises ValueError for a weight that is no matrix of finite floats, and for other bits and fits.

    >>> word2bits(np.array([[1.0, -2.0]])).dense().tolist()
    [[1.5, -1.5]]
    """
    wide = check(weight, bits)
    if bits > 2:
        raise ValueError(f"expected 1 or 2 bits, found {bits}")
    if fit not in ("none", "tensor", "rows"):
        raise ValueError(f"expected none, tensor or rows, found {fit}")
    levels = _LEVELS[bits]
    if fit == "none":
        return single(_indices(wide, np.ones((1, 1)), bits), levels, weight, bits)
    scale = _least_squares(np.abs(wide if fit == "rows" else wide.reshape(1, -1)), bits)
    held = scale.astype(weight.dtype)
    indices = _indices(wide, held.astype(np.float64), bits)
    if fit == "tensor":
        return single(indices, levels * scale[0, 0], weight, bits)
    return single(indices, levels, weight, bits, scale=held)


def _indices(wide: Floats, scale: Floats, bits: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Which level each weight gets."""
    positive = wide >= 0
    if bits == 1:
        return positive.astype(np.uint8)
    # |w| = s / 2 counts as small
    return np.where(positive, 2 + (wide > scale / 2), wide >= -scale / 2).astype(np.uint8)


def _least_squares(sizes: Floats, bits: int) -> Floats:
    """The scale of each line of magnitudes [lines, n] with the least squared error, [lines, 1]."""
    lines, size = sizes.shape
    if not size:
        return np.zeros((lines, 1))
    if bits == 1:
        return np.asarray(3 * sizes.mean(1, keepdims=True))
    # the m largest get 3/4 and the rest 1/4: s = <w, q> / <q, q>, and the squared error is <w, w> - <w, q>^2 / <q, q>
    ordered = -np.sort(-sizes, axis=1)
    large = np.arange(1, size + 1)
    product = np.cumsum(ordered, axis=1) / 2 + sizes.sum(1, keepdims=True) / 4
    square = large / 2 + size / 16
    best = np.argmax(product**2 / square, axis=1, keepdims=True)
    return np.asarray(np.take_along_axis(product, best, 1) / square[best])
