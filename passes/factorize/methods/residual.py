"""Low rank and what it leaves: the factors and a rest of another form, each the best for the other in turn.

    W ~= A B + R        A B the best of its rank for W - R, R the best of its form for W - A B, and again

diagonal     diag(d), solved for: (G o H) d = diag(G E H), E = W - A B         Saunderson et al., Diagonal and Low-Rank
             Matrix Decompositions, 2012, for the form; the normal equations of |L (E - diag(d)) R|^2
sparse       the entries of E that cost the most, E_ij^2 G_ii H_jj             Zhou and Tao, GoDec, 2011
quantized    E rounded to a grid                                               Li et al., LoftQ, 2023, algorithm 1

G = L.T L and H = R R.T say what errors cost, as in `numerics.low_rank`. What is kept of all rounds is the best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...numerics.arrays import Floats
from ...numerics.grid import Scheme, nearest
from ...numerics.low_rank import LowRank, Spectrum
from ...weights import Masked, Quantized

#: Of a weight, the factors of every rank.
Apart = Callable[[Floats], Spectrum]
#: What is kept in another form: a diagonal, [n], few entries, or all of them in few bits.
Kept = Floats | Masked | Quantized
#: Of a weight, what of it is kept, and that as a matrix.
Rest = Callable[[Floats], tuple[Kept, Floats]]


@dataclass(frozen=True)
class Metric:
    """What an error E costs, |L E R|^2. inputs: L as [in], or L.T L, [in, in]. outputs: R R.T; the identity unless
    given.
    """

    inputs: Floats | None = None
    outputs: Floats | None = None

    def times(self, error: Floats) -> Floats:
        """G E H."""
        before = self.inputs
        turned = error
        if before is not None:
            turned = np.square(before)[:, None] * error if before.ndim == 1 else before @ error
        found: Floats = turned if self.outputs is None else turned @ self.outputs
        return found

    def cost(self, error: Floats) -> float:
        """|L E R|^2."""
        return float(np.sum(error * self.times(error)))

    def diagonals(self, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        """What an error costs by its row, [in], and by its column, [out]."""
        rows, columns = shape
        before, after = self.inputs, self.outputs
        down: Floats = np.ones(rows)
        if before is not None:
            down = np.square(before) if before.ndim == 1 else np.diagonal(before)
        across = np.ones(columns) if after is None else np.diagonal(after)
        return np.asarray(down, np.float64), np.asarray(across, np.float64)


@dataclass(frozen=True)
class Sum:
    """weight = factors + rest. rest: None where nothing is kept beside the factors. error: what is lost, as counted."""

    factors: LowRank
    rest: Kept | None = None
    error: float = 0.0

    def dense(self) -> Floats:
        """The weight that it stands for, [in, out]."""
        if self.rest is None:
            return self.factors.dense()
        rest = np.diag(self.rest) if isinstance(self.rest, np.ndarray) else self.rest.dense()
        found: Floats = self.factors.dense() + np.asarray(rest, np.float64)
        return found


def alternated(weight: Floats, rank: int, apart: Apart, rest: Rest, metric: Metric, *, rounds: int) -> Sum:
    """The best of so many rounds, the first with nothing kept yet. weight: [in, out]."""
    kept, best = np.zeros_like(weight), None
    for _ in range(rounds):
        factors = apart(weight - kept).factors(rank)
        left = weight - factors.dense()
        held, kept = rest(left)
        error = metric.cost(left - kept)
        if best is None or error < best.error:
            best = Sum(factors, held, error)
    assert best is not None  # there is a round
    return best


def diagonal(metric: Metric) -> Rest:
    """The diagonal of least error, [n], of a square matrix."""

    def solve(left: Floats) -> tuple[Kept, Floats]:
        if left.shape[0] != left.shape[1]:
            raise ValueError(f"expected a square weight, found {left.shape}")
        size = len(left)
        before, after = metric.inputs, metric.outputs
        down: Floats = np.eye(size)
        if before is not None:
            down = np.diag(np.square(before)) if before.ndim == 1 else before
        across = np.eye(size) if after is None else after
        # of matrices without a full rank the least solution
        found = np.linalg.lstsq(np.asarray(down * across, np.float64), np.diagonal(metric.times(left)), rcond=None)[0]
        return found, np.diag(found)

    return solve


def sparse(metric: Metric, share: float, dtype: np.dtype[np.generic]) -> Rest:
    """The costliest entries, a share of all above 0 and at most 1, kept in `dtype` as `Masked`."""
    if not 0 < share <= 1:
        raise ValueError(f"expected a share above 0 and at most 1, found {share}")

    def pick(left: Floats) -> tuple[Kept, Floats]:
        down, across = metric.diagonals(left.shape)
        costs = np.square(left) * down[:, None] * across
        count = max(1, round(share * left.size))
        mask = np.zeros(left.size, np.bool_)
        mask[np.argpartition(costs.reshape(-1), left.size - count)[left.size - count :]] = True
        held = Masked.of(left.astype(dtype), mask.reshape(left.shape))
        return held, np.asarray(held.dense(), np.float64)

    return pick


def quantized(scheme: Scheme, dtype: np.dtype[np.generic]) -> Rest:
    """All entries, rounded to a grid whose scales are of `dtype`, as `Quantized`."""

    def rounded(left: Floats) -> tuple[Kept, Floats]:
        held: Quantized = nearest(left.astype(dtype), scheme)
        return held, np.asarray(held.dense(), np.float64)

    return rounded
