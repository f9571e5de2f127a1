"""Weights fitted anew to the inputs that reach a layer after what feeds it was approximated."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..edit import Array
from .arrays import Floats, check, matmul, vector
from .gram import check_gram, damped


class Means(NamedTuple):
    """Means of a layer's inputs, and how many samples the Gram matrices are sums over.

    before: [in]. now: [in now]. samples: 1 where the matrices are means too.
    """

    before: Array
    now: Array
    samples: float


class Repaired(NamedTuple):
    """A weight, [in now, out], and a bias, [out]; None where there was none and no means to find one from."""

    weight: Array
    bias: Array | None


class Fitted(NamedTuple):
    """A weight, [in, out], and a bias, [out]; None without means to find one from."""

    weight: Floats
    bias: Floats | None


def repair(
    weight: Array,
    gram: Array,
    cross: Array,
    *,
    bias: Array | None = None,
    means: Means | None = None,
    ridge: float = 0.3,
    toward: Array | None = None,
) -> Repaired:
    """The weight W' (and bias b') by which the inputs X' that there are now give nearest to what X gave with W and b.

        minimises |X W + b - X' W' - b'|^2 + r |W' - T|^2        W' = T + (X'.T X' + r)^-1 (X'.T X W - X'.T X' T)

    weight: W, [in, out]. gram: X'.T @ X', [in now, in now]. cross: X'.T @ X, [in now, in]. X' may have fewer features,
    for instance those that pruning left. bias: b, [out]. means: of the features of X and X'; with them the bias is
    fitted too (and one comes to be where there was none), without them it stays.
    ridge: r, as a share of the mean of the Gram matrix' diagonal; raised tenfold, up to one, where that matrix is
    singular. A small one needs many samples: without, it fits the noise that approximation put into X', and the error
    on other samples grows past that of keeping W. toward: T, [in now, out], what W' is drawn to where the inputs say
    little; None for W itself, or zero where X' is of another size.

    With the ridge as it is given, the penalised error is the least there is, so with T = W the error is at most that
    of keeping W. Where X' = X and T = W, W' = W but for rounding. Raises ValueError for other shapes, numbers that are
    not finite, and a Gram matrix that is none. Sources: ridge regression; for a layer that makes up for the ones before
    it, the asymmetric reconstruction of Zhang et al., Accelerating Very Deep Convolutional Networks for Classification
    and Detection, 2015; for pruned features, He, Zhang and Sun, Channel Pruning for Accelerating Very Deep Neural
    Networks, 2017.

    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> repair(np.array([[1.0], [2.0]]), 4 * x.T @ x, 2 * x.T @ x, ridge=0).weight.round(9).tolist()
    [[0.5], [1.0]]
    """
    wide = check(weight)
    kept = None if bias is None else vector(bias, wide.shape[1], "bias")
    if cross.ndim != 2 or cross.shape[1] != len(wide):
        raise ValueError(f"expected a cross matrix [in now, {len(wide)}], found {cross.shape}")
    if not np.isfinite(np.asarray(cross, np.float64)).all():
        raise ValueError("the cross matrix holds NaN or infinity")
    rows, columns = len(cross), wide.shape[1]
    start = _start(wide, rows, toward)
    moments = None
    if means is not None:
        was = vector(means.before, len(wide), "mean of the inputs before")
        moments = means._replace(before=was @ wide)
    found = fitted(gram, matmul(np.asarray(cross, np.float64), wide), start, means=moments, ridge=ridge)
    if found.bias is not None:
        kept = (np.zeros(columns) if kept is None else kept) + found.bias
    return Repaired(found.weight.astype(weight.dtype), None if kept is None else kept.astype(weight.dtype))


def fitted(gram: Array, joint: Array, toward: Array, *, means: Means | None = None, ridge: float = 0.3) -> Fitted:
    """The weight W' (and bias b') by which inputs X' give nearest to outputs Y, whatever these come from.

        minimises |Y - X' W' - b'|^2 + r |W' - T|^2        W' = T + (X'.T X' + r)^-1 (X'.T Y - X'.T X' T)

    gram: X'.T @ X', [in, in]. joint: X'.T @ Y, [in, out]. toward: T, [in, out]. means: of Y (before) and of X' (now);
    with them the bias that fits best is given too. ridge, errors: as of `repair`. In float64.
    """
    start = check(toward)
    now, wanted = check_gram(gram, len(start)), check(joint)
    if wanted.shape != start.shape:
        raise ValueError(f"expected products of inputs and outputs {start.shape}, found {wanted.shape}")
    if means is None:
        return Fitted(start + _solve(now, wanted - matmul(now, start), ridge), None)
    if not 0 < means.samples < np.inf:
        raise ValueError(f"expected means over at least one sample, found {means.samples}")
    was = vector(means.before, start.shape[1], "mean of the outputs")
    moved = vector(means.now, len(start), "mean of the inputs now")
    # the best bias for any W' moves the means of both sides to zero
    now = now - means.samples * np.outer(moved, moved)
    wanted = wanted - means.samples * np.outer(moved, was)
    weight = start + _solve(now, wanted - matmul(now, start), ridge)
    return Fitted(weight, was - moved @ weight)


def _solve(gram: Floats, right: Floats, ridge: float) -> Floats:
    """(G + r)^-1 R by the Cholesky factor, which torch's LAPACK makes and solves with in a tenth of numpy's time."""
    import torch

    lower = torch.from_numpy(damped(gram, ridge)[1])
    found: Floats = torch.cholesky_solve(torch.from_numpy(np.ascontiguousarray(right)), lower).numpy()
    return found


def _start(weight: Floats, rows: int, toward: Array | None) -> Floats:
    if toward is None:
        return weight if len(weight) == rows else np.zeros((rows, weight.shape[1]))
    target = check(toward)
    if target.shape != (rows, weight.shape[1]):
        raise ValueError(f"expected a weight to draw to of shape {(rows, weight.shape[1])}, found {target.shape}")
    return target
