"""A matrix as a sum of Kronecker products.

    W ~= sum over t of A_t (x) B_t        W[(i1, i2), (j1, j2)] = sum over t of A[t, i1, j1] B[t, i2, j2]

The nearest with so many terms is the leading part of the singular value decomposition of the rearranged matrix
R[(i1, j1), (i2, j2)] = W[(i1, i2), (j1, j2)], and what is lost is the rest of its spectrum: Van Loan and Pitsianis,
Approximation with Kronecker products, 1993, theorem 2.1 and corollary 2.2; Van Loan, The ubiquitous Kronecker product,
2000, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from .network import folded
from .spectra import svd


def rearranged(matrix: Array, ins: Sequence[int], outs: Sequence[int]) -> Floats:
    """R, [i1 * j1, i2 * j2]. Raises ValueError for modes that are not two of rows and two of columns, or too small."""
    if len(ins) != 2 or len(outs) != 2:
        raise ValueError(f"expected two modes of rows and two of columns, found {len(ins)} and {len(outs)}")
    turned = folded(matrix, ins, outs).transpose(0, 2, 1, 3)
    return turned.reshape(ins[0] * outs[0], ins[1] * outs[1])


def kronecker(matrix: Array, ins: Sequence[int], outs: Sequence[int], terms: int) -> tuple[Floats, Floats]:
    """A [terms, i1, j1] and B [terms, i2, j2], each product shared evenly between its two.

    Raises ValueError for terms below 1 or above full, and for NaN and infinity.
    """
    wide = np.asarray(matrix, np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("the matrix holds NaN or infinity")
    turned = rearranged(wide, ins, outs)
    if not 1 <= terms <= min(turned.shape):
        raise ValueError(f"expected 1 to {min(turned.shape)} terms, found {terms}")
    left, values, right = svd(turned)
    roots = np.sqrt(values[:terms, None])
    first = (left[:, :terms].T * roots).reshape(terms, ins[0], outs[0])
    return first, (right[:terms] * roots).reshape(terms, ins[1], outs[1])
