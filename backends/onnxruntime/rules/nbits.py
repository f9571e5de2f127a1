"""Rows of few bits as ONNX Runtime's kernels want them: unsigned, the first of a byte lowest, scales by block.

Weights are [rows, columns] here, with blocks along the columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ....passes.weights import Quantized

Bytes = NDArray[np.uint8]

#: What the kernels take.
BITS = (2, 4, 8)
BLOCKS = (16, 32, 64, 128, 256)


def packed(weight: Quantized, block: int) -> Bytes:
    """The integers, [rows, bytes of the columns]; columns are filled up to whole blocks."""
    codes = weight.values.astype(np.int16) + _middle(weight)
    return _bytes(np.pad(codes, ((0, 0), (0, -codes.shape[1] % block))).astype(np.uint8), weight.bits)


def scales(weight: Quantized, count: int) -> NDArray[np.float32]:
    """[rows, blocks], `count` of them; a row's or the weight's one scale is repeated."""
    given = weight.scale if weight.block else weight.scale.reshape(-1, 1)
    return np.ascontiguousarray(np.broadcast_to(given, (len(weight.values), count)), np.float32)


def zeros(weight: Quantized, count: int) -> Bytes:
    """[rows, bytes of the zero points of all blocks]."""
    zero = np.zeros(1, np.int16) if weight.zero is None else weight.zero.astype(np.int16)
    given = zero if weight.block and zero.ndim == 2 else zero.reshape(-1, 1)
    every = np.broadcast_to(given + _middle(weight), (len(weight.values), count)).astype(np.uint8)
    return _bytes(np.pad(every, ((0, 0), (0, -count % (8 // weight.bits)))), weight.bits)


def _middle(weight: Quantized) -> int:
    """What makes signed integers unsigned."""
    return 1 << (weight.bits - 1) if weight.values.dtype.kind == "i" else 0


def _bytes(codes: Bytes, bits: int) -> Bytes:
    """Codes of the last axis, as many in a byte as fit."""
    share = 8 // bits
    apart = codes.reshape(*codes.shape[:-1], -1, share) << (bits * np.arange(share, dtype=np.uint8))
    return np.asarray(np.bitwise_or.reduce(apart, axis=-1), np.uint8)
