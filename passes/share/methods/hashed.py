"""The numbers that weights share by a hash, found from weights that were trained apart.

    W_t[i, j] ~= s_t[i] x_t[i, j] v[b_t[i, j]]              x: the sign that a place has, b: its bucket

    without data   v_b = sum of m s x w / sum of m s^2     over the places of b: the best for weights m
    with data      minimises sum of tr(E_t G_t E_t.T)       E_t = W_t - s x v[b], G_t the Gram matrix of the inputs

The latter is linear least squares with one unknown for each number, solved by conjugate gradients that start from the
former. Numbers that share a bucket have nothing in common, so about 1 - K / n of the squares is lost however well v is
chosen: what Chen et al., 2015, report is of networks that were trained with their hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check, vector
from ...numerics.gram import check_gram
from ..hashing import MOST, Places


@dataclass(frozen=True)
class Part:
    """One of the weights that share numbers.

    weight: [rows, columns]. places: below twice the count of numbers, [rows, columns]; the upper half has their
    negatives. scale: [rows, 1], or None. gram: of the columns' inputs, [columns, columns], or None.
    """

    weight: Array
    places: Places
    scale: Array | None = None
    gram: Array | None = None


def hashed(parts: Sequence[Part], count: int, *, iterations: int = 30) -> Floats:
    """The `count` numbers, [count], that weights share best; a number that no weight reads is zero.

    iterations: of conjugate gradients, where Gram matrices are given. Raises ValueError for no weights, a count below 1
    or above what is hashed to, places that do not fit the count, other shapes and numbers that are not finite.
    """
    if not parts or not 0 < count <= MOST:
        raise ValueError(f"expected weights, and 1 to {MOST} numbers, found {len(parts)} and {count}")
    system = [_Term.of(part, count) for part in parts]
    mass = sum(term.gathered(term.masses) for term in system)
    live = mass > 0
    inverse: Floats = np.divide(1.0, mass, out=np.zeros(count), where=live)
    found: Floats = inverse * sum(term.gathered(term.weight * term.diagonal) for term in system)
    if all(term.gram is None for term in system):
        return found
    # preconditioned by the diagonal of the Gram matrices
    residual: Floats = sum(
        (term.gathered(term.weighed(term.weight - term.spread(found))) for term in system), np.zeros(count)
    )
    first = float(np.sqrt(residual @ residual))
    towards = inverse * residual
    along = towards.copy()
    height = float(residual @ towards)
    for _ in range(iterations):
        if height <= 0 or np.sqrt(residual @ residual) <= 1e-12 * first:
            break
        product = sum((term.gathered(term.weighed(term.spread(along))) for term in system), np.zeros(count))
        step = height / float(along @ product)
        found = found + step * along
        residual = residual - step * product
        towards = inverse * residual
        before, height = height, float(residual @ towards)
        along = towards + height / before * along
    return found


@dataclass(frozen=True)
class _Term:
    """A part in float64, and the linear map from the numbers to it."""

    weight: Floats
    bucket: Places
    signs: Floats
    scale: Floats
    gram: Floats | None
    count: int

    @classmethod
    def of(cls, part: Part, count: int) -> _Term:
        wide = check(part.weight)
        if part.places.shape != wide.shape or part.places.min() < 0 or part.places.max() >= 2 * count:
            raise ValueError(f"expected places below {2 * count} of shape {wide.shape}, found {part.places.shape}")
        scale = np.ones((len(wide), 1)) if part.scale is None else vector(part.scale[:, 0], len(wide), "scale")[:, None]
        gram = None if part.gram is None else check_gram(part.gram, wide.shape[1])
        signs = np.where(part.places < count, 1.0, -1.0)
        return cls(wide, part.places % np.int32(count), signs, scale, gram, count)

    @property
    def diagonal(self) -> Floats:
        """What the square of each column's error counts."""
        return np.ones(self.weight.shape[1]) if self.gram is None else np.diagonal(self.gram)

    @property
    def masses(self) -> Floats:
        """s x times the diagonal: gathered, the sum of m s^2."""
        found: Floats = self.signs * self.scale * self.diagonal
        return found

    def spread(self, values: Floats) -> Floats:
        """The weight that numbers stand for."""
        found: Floats = self.signs * self.scale * values[self.bucket]
        return found

    def weighed(self, error: Floats) -> Floats:
        """E G."""
        return error if self.gram is None else error @ self.gram

    def gathered(self, array: Floats) -> Floats:
        """The transpose of `spread`, [count]."""
        each: Floats = self.signs * self.scale * array
        found: Floats = np.bincount(self.bucket.reshape(-1), each.reshape(-1), self.count).astype(np.float64)
        return found
