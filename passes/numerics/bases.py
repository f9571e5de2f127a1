"""One basis for several weights: W_i ~= B C_i with the columns of B stored once.

    minimises sum of |L_i (W_i - B C_i) R_i|^2         L [W_1 R_1, W_2 R_2, ..] = U s V.T        B = L^-1 U_r

L.T L is the mean of all L_i.T L_i, the Gram matrices of what each weight reads; with one for all, this is the least
there is (Eckart and Young). Where they differ, each C_i is the best for the basis by its own L_i:

    C_i = argmin |L_i (W_i - B C_i)|^2 = T_r^-1 Q_r.T L_i W_i        L_i B = Q T

whatever R_i is, and all ranks follow from one factorisation, as the first r columns of Q span those of L_i B_r.
Source: Wang et al., Basis Sharing: Cross-Layer Parameter Sharing for Large Language Model Compression, 2024, arXiv
2410.03765, section 3, with the sum of Gram matrices and without the fit of C_i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..edit import Array
from .arrays import Floats, check
from .gram import check_gram
from .low_rank import Side


@dataclass(frozen=True)
class Bases:
    """vectors: B of all ranks, [in, most], those that matter most first. lost: what each rank from 0 on loses of each
    weight, [weights, most + 1].
    """

    vectors: Floats
    lost: Floats
    _triangles: tuple[Floats, ...]
    _products: tuple[Floats, ...]

    @property
    def most(self) -> int:
        """The rank from which on nothing is lost."""
        return int(self.vectors.shape[1])

    @property
    def numbers(self) -> int:
        """How many it holds."""
        held = {id(each): each.size for each in (self.vectors, self.lost, *self._triangles, *self._products)}
        return sum(held.values())

    def factors(self, rank: int) -> tuple[Floats, list[Floats]]:
        """B, [in, rank], and each C, [rank, out].

        Raises ValueError for a rank below 1 or above `most`.
        """
        if not 1 <= rank <= self.most:
            raise ValueError(f"expected a rank from 1 to {self.most}, found {rank}")
        made = [
            _upper(triangle[:rank, :rank], product[:rank])
            for triangle, product in zip(self._triangles, self._products, strict=True)
        ]
        left = self.vectors[:, :rank]
        # each column as long as the rows that it meets are in the mean, so that neither side leaves a narrow type
        columns = np.linalg.norm(left, axis=0)
        rows = np.sqrt(np.mean([np.sum(each**2, axis=1) for each in made], axis=0))
        ratio = np.sqrt(np.divide(rows, columns, out=np.ones_like(rows), where=(columns > 0) & (rows > 0)))
        return left * ratio, [each / ratio[:, None] for each in made]


def bases(
    weights: Sequence[Array],
    *,
    inputs: Sequence[Array] | None = None,
    outputs: Sequence[Array] | None = None,
    damping: float = 0.0,
    leading: int = 0,
) -> Bases:
    """Bases of every rank for weights [in, out_i].

    inputs: the Gram matrix L_i.T L_i of each, [in, in]; the identity without. outputs: R_i R_i.T of each, [out_i,
    out_i]. damping: what is added to the diagonals, as a share of their means; raised tenfold, up to one, where a
    matrix is singular. leading: how many of the weights, the first ones, decide the basis; 0 for all. Those behind are
    fitted to it, and may lose something at every rank. Raises ValueError for no weights, weights of other inputs, other
    shapes, numbers that are not finite and matrices that are no Gram matrices.
    """
    wide = [check(weight) for weight in weights]
    if not wide or len({len(weight) for weight in wide}) != 1:
        raise ValueError(f"expected weights of one number of inputs, found {[len(weight) for weight in wide]}")
    for given in (inputs, outputs):
        if given is not None and len(given) != len(wide):
            raise ValueError(f"expected a Gram matrix for each of {len(wide)} weights, found {len(given)}")
    size = len(wide[0])
    grams = None if inputs is None else [check_gram(gram, size) for gram in inputs]
    alike = grams is None or all(gram is grams[0] or np.array_equal(gram, grams[0]) for gram in grams)
    pooled = Side.of(None if grams is None else sum(grams[1:], grams[0]) / len(grams), size, damping)
    right = [Side.of(None if outputs is None else outputs[at], each.shape[1], damping) for at, each in enumerate(wide)]
    turned = [side.times(each.T).T for side, each in zip(right, wide, strict=True)]
    deciding = turned[: leading or len(turned)]
    vectors = pooled.solve(_directions(np.concatenate([pooled.times(each) for each in deciding], axis=1)))
    own = [pooled if alike or grams is None else Side.of(grams[at], size, damping) for at in range(len(wide))]
    triangles, products, lost = list[Floats](), list[Floats](), list[Floats]()
    for side, each, behind in zip(own, turned, right, strict=True):
        if not alike or not triangles:
            around, triangle = _orthogonal(side.times(vectors))
        seen = side.times(each)
        product: Floats = around.T @ seen
        kept = np.cumsum(np.concatenate([[0.0], np.sum(product**2, axis=1)]))
        # rounding may keep more than there was
        lost.append(np.maximum(np.sum(seen**2) - kept, 0.0))
        triangles.append(triangle)
        # T^-1 (Q.T L W R) R^-1: what is behind is the same for every rank
        products.append(behind.solve(product.T).T)
    return Bases(vectors, np.stack(lost), tuple(triangles), tuple(products))


def _directions(matrix: Floats) -> Floats:
    """The left singular vectors, [in, most]."""
    # torch's LAPACK takes a fraction of the time of the one in numpy's wheels; imported when it is needed
    import torch

    found: Floats = torch.linalg.svd(torch.from_numpy(np.ascontiguousarray(matrix)), full_matrices=False)[0].numpy()
    return found


def _orthogonal(matrix: Floats) -> tuple[Floats, Floats]:
    """Q, [in, most], and the upper triangle T of Q T."""
    import torch

    around, triangle = torch.linalg.qr(torch.from_numpy(np.ascontiguousarray(matrix)))
    return around.numpy(), triangle.numpy()


def _upper(triangle: Floats, right: Floats) -> Floats:
    """What the triangle times gives the right."""
    import torch

    found: Floats = torch.linalg.solve_triangular(
        torch.from_numpy(np.ascontiguousarray(triangle)), torch.from_numpy(np.ascontiguousarray(right)), upper=True
    ).numpy()
    return found
