"""Low-rank factors that give back most of what quantizing a weight lost."""

from __future__ import annotations

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check, vector
from ...numerics.gram import check_gram, damped
from ...weights import Corrected, Quantized


def lqer(
    weight: Array,
    quantized: Quantized,
    rank: int,
    *,
    magnitudes: Array | None = None,
    gram: Array | None = None,
    damping: float = 0.01,
) -> Corrected:
    """W ~= Q + A B: the truncated SVD of the quantization error W - Q, as the inputs weigh it.

        S (W - Q) ~= U_k s_k V_k.T        A B = S^-1 U_k s_k V_k.T

    weight: W, [in, out]. quantized: Q, of W's shape. rank: k, columns of A and rows of B; no more than min(in, out) are
    made. What S is: the identity (LQER) by default; with `magnitudes`, the mean of |x|, [in], the diagonal matrix of
    these (L2QER; inputs that were never other than zero count as the smallest that were); with `gram`, X.T @ X,
    [in, in], a square root of it, S.T S = gram, by which no other A B of rank k leaves a smaller |X (W - Q - A B)|^2.
    damping: what is added to the Gram matrix' diagonal, as a share of that diagonal's mean; raised tenfold, up to one,
    where the matrix is singular. The optimum is that of the damped matrix.

    Each column of A is as long as the row of B that it meets, so that both quantize well: `Corrected` takes quantized
    factors too. Raises ValueError for other shapes and numbers that are not finite, magnitudes below zero, a Gram
    matrix that is none, a rank below zero, and where both magnitudes and a Gram matrix are given. Sources: Zhang et
    al., LQER: Low-Rank Quantization Error Reconstruction for LLMs, 2024, arXiv 2402.02446, section 3 (dividing S by a
    constant, as there, leaves A B as it is); for the square root, Zhang et al., QERA: an Analytical Framework for
    Quantization Error Reconstruction, 2024, arXiv 2410.06040, theorem 1.
    """
    wide = check(weight)
    if quantized.values.shape != wide.shape:
        raise ValueError(f"expected a quantized weight {wide.shape} as the weight is, found {quantized.values.shape}")
    if rank < 0:
        raise ValueError(f"expected a rank of at least 0, found {rank}")
    if magnitudes is not None and gram is not None:
        raise ValueError("expected magnitudes or a Gram matrix, found both")
    error = wide - np.asarray(quantized.dense(), np.float64)
    if gram is not None:
        root = damped(check_gram(gram, len(wide)), damping)[1].T
        left, right = _factors(root @ error, rank)
        left = np.linalg.solve(root, left).astype(np.float64, copy=False)
    elif magnitudes is not None:
        scale = _scale(vector(magnitudes, len(wide), "magnitudes of the inputs"))
        left, right = _factors(scale[:, None] * error, rank)
        left = left / scale[:, None]
    else:
        left, right = _factors(error, rank)
    left, right = _balanced(left, right)
    return Corrected(quantized, left.astype(weight.dtype), right.astype(weight.dtype))


def _factors(error: Floats, rank: int) -> tuple[Floats, Floats]:
    """U_k s_k and V_k.T of the truncated SVD."""
    left, values, right = np.linalg.svd(error, full_matrices=False)
    return left[:, :rank] * values[:rank], right[:rank]


def _scale(magnitudes: Floats) -> Floats:
    if magnitudes.min(initial=0.0) < 0:
        raise ValueError(f"expected magnitudes of at least 0, found {magnitudes.min():.3g}")
    live = magnitudes[magnitudes > 0]
    return np.maximum(magnitudes, live.min()) if live.size else np.ones_like(magnitudes)


def _balanced(left: Floats, right: Floats) -> tuple[Floats, Floats]:
    """The same product, each column of the left as long as the row of the right that it meets."""
    columns, rows = np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1)
    ratio = np.sqrt(np.divide(rows, columns, out=np.ones_like(rows), where=columns > 0))
    return left * ratio, right / ratio[:, None]
