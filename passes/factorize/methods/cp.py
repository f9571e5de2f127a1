"""CP, canonical polyadic: a tensor as a sum of products of vectors.

    A[i, j, k] ~= sum over r of U[i, r] V[j, r] W[k, r]        Hitchcock, 1927; Carroll and Chang, 1970; Harshman, 1970

By alternating least squares: each factor is the best given the others, drawn a little to the one before, so that normal
equations are never singular and the error never grows (Li, Kindermann and Navasca, Some convergence results on the
regularized alternating least-squares method, 2013, equation 2). The best of several starts counts: of leading singular
vectors, and of drawn ones. TensorLy's `parafac` solves the plain normal equations, and fails where they are singular.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from .network import Factor, summed
from .spectra import svd, unfolding

#: Rounds from each start, rounds that decide which start goes on, and the gain below which one stops.
_ROUNDS, _HEAT, _GAIN = 60, 5, 1e-6
#: How much a factor is drawn to the one before, as a share of the mean of the diagonal of the normal equations: from
#: the first at first to the second.
_DRAWN = 1e-3, 1e-10


def cp(tensor: Array, rank: int, *, starts: int = 2, rounds: int = _ROUNDS, seed: int = 0) -> list[Floats]:
    """The factors, [size, rank] for each axis, with columns of one length across the axes.

    starts: how many, the first of singular vectors. Raises ValueError for a rank below 1 or above full (the numbers of
    the tensor over its largest axis), for fewer than one start, and for NaN and infinity.
    """
    wide = np.asarray(tensor, np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("the tensor holds NaN or infinity")
    if not 1 <= rank <= most(wide.shape) or starts < 1 or wide.ndim < 2:
        raise ValueError(f"expected a rank from 1 to {most(wide.shape)} and a start, found {rank} and {starts}")
    norm = float(np.linalg.norm(wide))
    if norm == 0:
        return [np.zeros((size, rank)) for size in wide.shape]
    rng = np.random.default_rng(seed)
    tried = [_Run(wide / norm, _start(wide, rank, rng, drawn=number > 0)) for number in range(starts)]
    for run in tried:
        run.go(min(_HEAT, rounds) if starts > 1 else rounds)
    best = min(tried, key=lambda run: run.error)
    best.go(rounds - best.rounds)
    return _even([best.factors[0] * norm, *best.factors[1:]])


def most(shape: Sequence[int]) -> int:
    """A rank that always suffices.

    >>> most((4, 3, 5))
    12
    """
    return math.prod(shape) // max(shape)


def product(factors: Sequence[Floats]) -> Floats:
    """The tensor that factors stand for."""
    labels = [str(axis) for axis in range(len(factors))]
    return summed([Factor(each, (label, "r")) for each, label in zip(factors, labels, strict=True)], tuple(labels))


class _Run:
    """Alternating least squares from one start."""

    def __init__(self, tensor: Floats, factors: list[Floats]) -> None:
        self.tensor, self.factors, self.rounds, self.error = tensor, factors, 0, math.inf
        self._drawn = _DRAWN[0]

    def go(self, rounds: int) -> None:
        """So many rounds, fewer where nothing is gained any more."""
        for _ in range(rounds):
            before, self.rounds = self.error, self.rounds + 1
            for axis in range(self.tensor.ndim):
                self._solve(axis)
            self._drawn = max(self._drawn / 2, _DRAWN[1])
            if before - self.error < _GAIN * before and self._drawn <= _DRAWN[1]:
                break

    def _solve(self, axis: int) -> None:
        others = [factor for at, factor in enumerate(self.factors) if at != axis]
        gram: Floats = math.prod(other.T @ other for other in others)  # type: ignore[assignment]
        right = _khatri_rao_times(self.tensor, self.factors, axis)
        damping = self._drawn * float(np.trace(gram)) / len(gram) + np.finfo(np.float64).tiny
        raised = gram + damping * np.eye(len(gram))
        # min |A - U K|^2 + damping |U - U0|^2:  U (K K.T + damping) = A K.T + damping U0
        found = np.asarray(np.linalg.solve(raised, (right + damping * self.factors[axis]).T).T, np.float64)
        self.factors[axis] = found
        # |A - U K|^2 = |A|^2 - 2 <U, A K.T> + <U.T U, K K.T>, with |A| = 1
        error = 1.0 - 2 * float((found * right).sum()) + float(((found.T @ found) * gram).sum())
        self.error = max(error, 0.0)
        if axis < self.tensor.ndim - 1:
            length: Floats = np.sqrt(np.sum(found**2, axis=0))
            scale = np.where(length > 0, length, 1.0)
            self.factors[axis], self.factors[-1] = found / scale, self.factors[-1] * scale


def _khatri_rao_times(tensor: Floats, factors: Sequence[Floats], axis: int) -> Floats:
    """The unfolding of one axis times the Khatri-Rao product of the other factors, [size, rank]."""
    # the largest first: it leaves least
    first, *others = sorted((at for at in range(tensor.ndim) if at != axis), key=lambda at: -tensor.shape[at])
    found: Floats = np.tensordot(tensor, factors[first], (first, 0))
    left = [at for at in range(tensor.ndim) if at != first]
    for other in others:
        letters = string.ascii_lowercase[: len(left)]
        summed_over = letters[left.index(other)]
        kept = letters.replace(summed_over, "")
        found = np.einsum(f"{letters}z,{summed_over}z->{kept}z", found, factors[other])
        left.remove(other)
    return found


def _start(tensor: Floats, rank: int, rng: np.random.Generator, *, drawn: bool) -> list[Floats]:
    found = []
    for axis, size in enumerate(tensor.shape):
        factor = rng.standard_normal((size, rank)) / math.sqrt(size)
        if not drawn:
            left = svd(unfolding(tensor, [axis]))[0][:, :rank]
            factor[:, : left.shape[1]] = left
        found.append(factor)
    return found


def _even(factors: Sequence[Floats]) -> list[Floats]:
    """The same products with columns that are as long on each axis."""
    lengths = np.stack([np.linalg.norm(factor, axis=0) for factor in factors])
    mean = np.exp(np.log(np.where(lengths > 0, lengths, 1.0)).mean(0)) * (lengths > 0).all(0)
    return [
        factor * (mean / np.where(length > 0, length, 1.0)) for factor, length in zip(factors, lengths, strict=True)
    ]
