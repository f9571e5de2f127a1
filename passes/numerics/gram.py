"""Gram matrices of a layer's inputs: gram = x.T @ x, [in, in], checked, damped and factored in float64."""

from __future__ import annotations

import numpy as np

from ..edit import Array
from .arrays import Floats

#: An entry and its mirror image may differ by so much of the largest entry, for products are summed in float32.
_ASYMMETRY = 1e-3
#: Of an input's squares, what sums in float32 leave where all of them are its mean's.
_CONSTANT = 1e-6
#: Where no damping is asked for and the matrix needs some, the first that is tried: about the root of float64's eps, so
#: that a solution is off as little by the damping as by rounding.
_LEAST_DAMPING = 1e-8


def check_gram(gram: Array, rows: int) -> Floats:
    """The matrix in float64, exactly symmetric.

    Raises ValueError unless it is [rows, rows], finite, symmetric but for rounding, and without negative numbers on its
    diagonal.
    """
    if gram.shape != (rows, rows):
        raise ValueError(f"expected a Gram matrix [{rows}, {rows}] for a weight of {rows} rows, found {gram.shape}")
    wide = np.asarray(gram, np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("the Gram matrix holds NaN or infinity")
    largest = np.abs(wide).max(initial=0.0)
    if np.abs(wide - wide.T).max(initial=0.0) > _ASYMMETRY * largest:
        raise ValueError("expected a Gram matrix, x.T @ x, found a matrix that is not symmetric")
    least = np.diagonal(wide).min(initial=0.0)
    if least < 0:
        raise ValueError(f"expected a Gram matrix, x.T @ x, found {least:.3g} on its diagonal")
    symmetric: Floats = (wide + wide.T) / 2
    return symmetric


def centred(gram: Floats, count: int, mean: Floats) -> Floats:
    """The Gram matrix of inputs less their mean. gram: over `count` tokens, of which `mean` is the mean, [in].

    Of an input that is the same everywhere rounding leaves what it likes: that is none at all.
    """
    found: Floats = gram - count * np.outer(mean, mean)
    constant = np.diagonal(found) <= _CONSTANT * np.diagonal(gram)
    found[constant] = 0.0
    found[:, constant] = 0.0
    return found


def level(gram: Floats) -> float:
    """The mean of the diagonal over the inputs that are ever other than zero; one where none is."""
    live = np.diagonal(gram)[np.diagonal(gram) > 0]
    return float(live.mean()) if live.size else 1.0


def damped(gram: Floats, damping: float) -> tuple[Floats, Floats]:
    """`gram` with its diagonal raised by `damping * level(gram)`, and the lower Cholesky factor of that.

    Where the matrix is not positive definite then (a pivot is below the rounding of its own diagonal), the damping
    grows tenfold until it is. Raises ValueError for a negative damping, and where a damping of one does not suffice.
    """
    if not 0 <= damping < np.inf:
        raise ValueError(f"expected a damping of at least 0, found {damping}")
    unit, tried = level(gram), damping
    while True:
        raised = gram.copy()
        np.fill_diagonal(raised, np.diagonal(gram) + tried * unit)
        lower = _cholesky(raised)
        if lower is not None:
            return raised, lower
        if tried >= 1:
            raise ValueError(
                f"expected a Gram matrix, x.T @ x, found one that is not positive definite even with its diagonal "
                f"raised by {tried:g} times its mean"
            )
        tried = min(max(10 * tried, _LEAST_DAMPING), 1.0)


def factored(gram: Floats, damping: float) -> tuple[Floats, Floats]:
    """U.T, lower triangular with ones on its diagonal, and D, [in], of the damped matrix U D U.T.

    1 / D_k is what the inverse of the matrix has at k, once the inputs before k are fixed.
    """
    # the lower factor of the matrix read from its end is the upper one of the matrix
    upper = damped(gram[::-1, ::-1], damping)[1][::-1, ::-1]
    pivots = np.diagonal(upper)
    return np.ascontiguousarray((upper / pivots).T), pivots**2


def _cholesky(matrix: Floats) -> Floats | None:
    """The lower factor, None where the matrix is not positive definite in float64."""
    # torch's LAPACK takes a tenth of the time of the one in numpy's wheels; imported when it is needed
    import torch

    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(np.ascontiguousarray(matrix)))
    if failed.item():
        return None
    lower: Floats = factor.numpy()
    rounding = len(matrix) * np.finfo(np.float64).eps * np.diagonal(matrix)
    return lower if (np.diagonal(lower) ** 2 > rounding).all() else None
