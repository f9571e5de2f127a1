"""Low-rank factors that give back most of what quantizing a weight lost."""

from __future__ import annotations

import numpy as np

from ...edit import Array
from ...numerics.arrays import check, vector
from ...numerics.low_rank import spectrum
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
    rank = min(rank, *error.shape)
    if not rank:
        none = np.zeros((len(error), 0), weight.dtype), np.zeros((0, error.shape[1]), weight.dtype)
        return Corrected(quantized, *none)
    if magnitudes is not None:
        magnitudes = vector(magnitudes, len(wide), "magnitudes of the inputs")
    found = spectrum(error, inputs=gram if magnitudes is None else magnitudes, damping=damping).factors(rank)
    return Corrected(quantized, found.left.astype(weight.dtype), found.right.astype(weight.dtype))
