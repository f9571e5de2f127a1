"""Product and residual quantization: tables of short vectors, side by side or added up.

Gong et al., Compressing Deep Convolutional Networks using Vector Quantization, 2014, sections 3.3 and 3.4.

    product    W = [W_1 ... W_s], blocks of `width` columns; each row of a block becomes the center nearest to it
    residual   w = c_1 + c_2 + ...; each c is the center nearest to what the ones before it leave of the row
"""

from __future__ import annotations

import numpy as np

from ..edit import Array
from ..weights import Codebook
from .arrays import Floats
from .table import check, single
from .vectors import cluster

#: Vectors on which centers are found, for each center.
_SAMPLE = 128


def product(
    weight: Array, *, bits: int = 8, width: int = 4, shared: bool = True, iterations: int = 20, seed: int = 0
) -> Codebook:
    """Product quantization of a weight [rows, columns] by runs of `width` columns, `bits` for each run.

    bits: 1 to 8, tables of 2^bits vectors, or of as many as there are runs. shared: one table for all runs; else one
    for each block of columns, as in the paper, which costs 2^bits * columns numbers and as many searches as there are
    blocks. Columns that do not fill the last run are filled up with zeros. Centers are found by Lloyd's iteration from
    k-means++ seeds, at most 128 runs for each center taking part; the same seed gives the same tables.

    Raises ValueError for a weight that is no matrix of finite floats, other bits, and no columns in a run.
    """
    return _sum(weight, bits, 1, width, shared, iterations, seed)


def residual(
    weight: Array, *, bits: int = 8, stages: int = 2, width: int = 0, iterations: int = 20, seed: int = 0
) -> Codebook:
    """Residual quantization of a weight [rows, columns]: `stages` tables whose vectors add up.

    width: columns of a vector; 0 for whole rows, as in the paper. bits: 1 to 8, for each stage of each vector. stages:
    at least 1; more of them never have a larger squared error but for rounding, as long as every vector takes part in
    finding the centers. The rest as for `product`, with shared tables.

    Raises ValueError as `product` does, and for no stages.
    """
    if stages < 1:
        raise ValueError(f"expected at least one stage, found {stages}")
    if width < 0:
        raise ValueError(f"expected at least one column in a vector, or 0 for whole rows, found {width}")
    columns = weight.shape[-1] if weight.ndim else 0
    return _sum(weight, bits, stages, width or max(columns, 1), True, iterations, seed)


def _sum(weight: Array, bits: int, stages: int, width: int, shared: bool, iterations: int, seed: int) -> Codebook:
    wide = check(weight, bits)
    if width < 1 or iterations < 0:
        raise ValueError(f"expected at least one column and zero iterations, found {width} and {iterations}")
    rows, columns = wide.shape
    if not wide.size:
        return single(np.zeros(wide.shape), np.zeros(1), weight, bits)
    runs = -(-columns // width)
    left = np.zeros((rows, runs * width))
    left[:, :columns] = wide
    # [tables, vectors of a table, width]
    vectors = left.reshape(1, rows * runs, width) if shared else left.reshape(rows, runs, width).swapaxes(0, 1).copy()
    entries = min(1 << bits, vectors.shape[1])
    books, indices = [], []
    for _ in range(stages):
        tables, labels = [], []
        for number, part in enumerate(vectors):
            unit = _unit(part)
            centers, nearest = cluster(
                part / unit, entries, iterations=iterations, sample=_SAMPLE * entries, seed=seed + number
            )
            tables.append((centers * unit).astype(weight.dtype))
            labels.append(nearest)
            part -= tables[-1].astype(np.float64)[nearest]
        books.append(np.concatenate(tables))
        found = np.stack(labels).astype(np.uint8)
        indices.append(found.reshape(rows, runs) if shared else found.T)
    stored = max((entries - 1).bit_length(), 1)
    tile = (0, 0) if shared or runs == 1 else (0, 1)
    return Codebook(np.stack(indices), np.stack(books), (rows, columns), stored, tile=tile)


def _unit(part: Floats) -> float:
    """A power of two near the largest magnitude, by which squares neither overflow nor vanish."""
    return float(np.ldexp(1.0, int(np.frexp(np.abs(part).max())[1]) - 1))
