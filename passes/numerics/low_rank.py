"""A weight as the product of two thinner ones, of all of their rank those of least error.

    W ~= A B        minimises |L (W - A B) R|^2         L W R = U s V.T        A = L^-1 U_r s_r,  B = V_r.T R^-1

What is lost is what is left of the spectrum, sum of s_k^2 for k > r: Eckart and Young, The approximation of one matrix
by another of lower rank, 1936; Mirsky, 1960. L and R say what an error of an input's row or an output's column costs:

    svd         L = 1, R = 1                     the weight as such
    scaled      L = diag(mean |x|)^(1/2)         ASVD: Yuan et al., 2023, arXiv 2312.05821, section 3.2
    fisher      L = diag(sum_j F_ij)^(1/2)       FWSVD: Hsu et al., 2022, arXiv 2207.00112, equation 7
    whitened    L.T L = X.T X                    SVD-LLM: Wang et al., 2024, arXiv 2403.07378, section 3.1; the least
                                                 |X W - X A B|^2 there is
    kronecker   L.T L = X.T X, R R.T = E[g g.T]  both factors of the curvature: Chekalina et al., Generalized
                                                 Fisher-Weighted SVD, 2025, arXiv 2505.17974; Martens and Grosse,
                                                 K-FAC, 2015
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..edit import Array
from .arrays import F, Floats, check, matmul, vector
from .gram import check_gram, damped


@dataclass(frozen=True)
class LowRank:
    """weight = left @ right. left: [in, rank]. right: [rank, out]."""

    left: Floats
    right: Floats

    @property
    def rank(self) -> int:
        """Columns of the left factor and rows of the right one."""
        return int(self.left.shape[1])

    def dense(self) -> Floats:
        """The weight that it stands for, [in, out]."""
        found: Floats = matmul(self.left, self.right)
        return found

    def evened(self) -> LowRank:
        """The same product, each column of the left as long as the row of the right that it meets."""
        columns, rows = np.linalg.norm(self.left, axis=0), np.linalg.norm(self.right, axis=1)
        ratio = np.sqrt(np.divide(rows, columns, out=np.ones_like(rows), where=columns > 0))
        return LowRank(self.left * ratio, self.right / ratio[:, None])


@dataclass(frozen=True)
class Spectrum:
    """A weight taken apart: sum over k of left[:, k] right[k], of which each adds its value squared to the error.

    values: [most], largest first. left: [in, most]. right: [most, out]; most = min(in, out).
    """

    values: Floats
    left: Floats
    right: Floats

    @property
    def most(self) -> int:
        """The rank from which on nothing is lost."""
        return len(self.values)

    @property
    def lost(self) -> Floats:
        """The error of each rank from 0 to `most`, [most + 1]."""
        return tails(self.values**2)

    def factors(self, rank: int) -> LowRank:
        """The best factors of that rank, each column of the left as long as the row of the right that it meets.

        Raises ValueError for a rank below 1 or above `most`.
        """
        if not 1 <= rank <= self.most:
            raise ValueError(f"expected a rank from 1 to {self.most}, found {rank}")
        return LowRank(self.left[:, :rank] * self.values[:rank], self.right[:rank]).evened()

    def weighed(self, inputs: Floats | None = None, outputs: Floats | None = None) -> Floats:
        """The error of each rank from 0 to `most` as others weigh it: |L E R|^2, [most + 1].

        inputs: L.T L, [in, in]. outputs: R R.T, [out, out]; the identity unless given.
        """
        before = self.left if inputs is None else inputs @ self.left
        after = self.right if outputs is None else self.right @ outputs
        # E is what is left of the sum: its square has a term for each pair of those
        pairs = np.outer(self.values, self.values) * (self.left.T @ before) * (after @ self.right.T)
        tails = np.cumsum(np.cumsum(pairs[::-1, ::-1], axis=0), axis=1)
        return np.append(np.maximum(np.diagonal(tails)[::-1], 0.0), 0.0)

    def rank_of(self, energy: float) -> int:
        """The least rank, 1 at least, that keeps this share of the sum of squares.

        Raises ValueError for a share that is not above 0 and at most 1.
        """
        if not 0 < energy <= 1:
            raise ValueError(f"expected a share of energy above 0 and at most 1, found {energy}")
        lost = self.lost
        # what rounding leaves of nothing is nothing
        enough = lost <= (1 - energy) * lost[0] + np.finfo(np.float64).eps * lost[0]
        return max(int(np.argmax(enough)), 1)


def tails(squares: Floats) -> Floats:
    """What is left of a sum of squares from each rank on, from 0 to all, [most + 1]."""
    tail: Floats = np.cumsum(squares[::-1])[::-1]
    return np.append(tail, 0.0)


def spectrum(
    weight: Array, *, inputs: Array | None = None, outputs: Array | None = None, damping: float = 0.0
) -> Spectrum:
    """The spectrum of L W R.

    weight: W, [in, out]. inputs: L, [in], above zero, or the Gram matrix L.T L, [in, in]; the identity unless given.
    outputs: R, [out], or R R.T, [out, out]. damping: what is added to the diagonal of a Gram matrix, as a share of its
    mean; raised tenfold, up to one, where the matrix is singular. The factors are optimal for the damped ones. Raises
    ValueError for other shapes, numbers that are not finite and matrices that are no Gram matrices.
    """
    wide = check(weight)
    before, after = Side.of(inputs, len(wide), damping), Side.of(outputs, wide.shape[1], damping)
    # torch's LAPACK takes a fraction of the time of the one in numpy's wheels; imported when it is needed
    import torch

    turned, values, across = torch.linalg.svd(
        torch.from_numpy(np.ascontiguousarray(before.times(after.times(wide.T).T))), full_matrices=False
    )
    return Spectrum(values.numpy(), before.solve(turned.numpy()), after.solve(across.numpy().T).T)


@dataclass(frozen=True)
class Side:
    """L: None for the identity, [n] for a diagonal, [n, n] for an upper triangular matrix."""

    root: NDArray[np.floating] | None

    @classmethod
    def of(cls, importance: Array | None, size: int, damping: float = 0.0) -> Side:
        """Of L, [size], at least 0, or of L.T L, [size, size]; the identity without either."""
        if importance is None:
            return cls(None)
        if importance.ndim == 2:
            return cls(np.ascontiguousarray(damped(check_gram(importance, size), damping)[1].T))
        scales = vector(importance, size, "importance")
        if scales.min(initial=np.inf) < 0:
            raise ValueError(f"expected an importance of at least 0, found {scales.min():.3g}")
        live = scales[scales > 0]
        # what never mattered counts as the least that did, so that it can be solved for
        return cls(np.maximum(scales, live.min()) if live.size else np.ones(size))

    def single(self) -> Side:
        """The same in float32."""
        return Side(None if self.root is None else self.root.astype(np.float32))

    def times(self, array: Floats) -> Floats:
        """L times an array, [n, any]."""
        if self.root is None:
            return array
        found: Floats = (
            self.root[:, None] * array
            if self.root.ndim == 1
            else matmul(self.root.astype(np.float64, copy=False), array)
        )
        return found

    def solve(self, array: NDArray[F], *, turned: bool = False) -> NDArray[F]:
        """What L, or L.T, times gives the array, [n, any], in its type."""
        if self.root is None:
            return array
        root: NDArray[np.floating] = self.root.astype(array.dtype, copy=False)
        if root.ndim == 1:
            return (array / root[:, None]).astype(array.dtype)
        import torch

        factor = torch.from_numpy(root)
        right = torch.from_numpy(np.ascontiguousarray(array))
        solved: NDArray[F] = torch.linalg.solve_triangular(
            factor.T if turned else factor, right, upper=not turned
        ).numpy()
        return solved
