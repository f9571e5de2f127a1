"""What the methods share that spell a weight by a few numbers: its check, and the codebook of one table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..edit import Array
from ..weights import Codebook
from . import arrays
from .arrays import Floats


def check(weight: Array, bits: int, *, least: int = 1) -> Floats:
    """The weight in float64. Raises ValueError where it is no matrix of finite floats, or for bits not in least..8."""
    if not least <= bits <= 8:
        raise ValueError(f"expected {least} to 8 bits, found {bits}")
    if weight.dtype.kind in "biuc":
        raise ValueError(f"expected a weight of floats, found {weight.dtype}")
    return arrays.check(weight)


def single(labels: Array, levels: Floats, weight: Array, bits: int, *, scale: Array | None = None) -> Codebook:
    """The codebook that holds `levels` [entries], looked up by `labels` [rows, columns], in the weight's dtype."""
    rows, columns = weight.shape
    indices = np.ascontiguousarray(labels, np.uint8).reshape(1, rows, columns)
    return Codebook(indices, levels.astype(weight.dtype).reshape(1, -1, 1), (rows, columns), bits, scale)


def nearest(points: Floats, levels: Floats) -> NDArray[np.uint8]:
    """The nearest of the levels, which are in order, for each point; of two that are equally near, the lower."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, points).astype(np.uint8)
