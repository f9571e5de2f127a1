"""Tucker: a small core, and for each mode a few orthonormal vectors.

    A[i, j, k] ~= sum over p, q, r of G[p, q, r] U[i, p] V[j, q] W[k, r]        Tucker, Some mathematical notes on
                                                                               three-mode factor analysis, 1966
The vectors of each mode that are best alone, HOSVD, lose no more than the sum of what each unfolding's spectrum loses
(De Lathauwer et al., A multilinear singular value decomposition, 2000, property 10); from there HOOI, each mode given
the others (De Lathauwer et al., On the best rank-1 and rank-(R1, .., RN) approximation, 2000, algorithm 4.2), never
loses more. Both are TensorLy's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from ....ir.errors import UnsupportedError
from ...edit import Array
from ...numerics.arrays import Floats
from .network import Factor, along
from .spectra import squares, sum_of, unfolding, within

if TYPE_CHECKING:
    import torch

#: Rounds of HOOI, and the gain, as a share of the norm, below which it stops.
_ROUNDS, _GAIN = 20, 1e-5


@dataclass(frozen=True)
class Tucker:
    """core: [ranks]. bases: one for each axis, [size, rank], with orthonormal columns; None for an axis left whole."""

    core: Floats
    bases: tuple[Floats | None, ...]

    def dense(self) -> Floats:
        """The tensor that it stands for."""
        found = self.core
        for axis, basis in enumerate(self.bases):
            found = found if basis is None else along(found, basis, axis)
        return found

    def factors(self, labels: Sequence[str]) -> tuple[Factor, ...]:
        """Of a network, given the labels of the axes."""
        inner = tuple(each if base is None else f"p{each}" for each, base in zip(labels, self.bases, strict=True))
        bases = (
            Factor(base, (label, f"p{label}"))
            for label, base in zip(labels, self.bases, strict=True)
            if base is not None
        )
        return (Factor(self.core, inner), *bases)


def tucker(tensor: Array, ranks: Sequence[int], start: Tucker | None = None, *, rounds: int = _ROUNDS) -> Tucker:
    """The decomposition of these ranks, from the HOSVD on or from a start. An axis of full rank is left whole.

    Raises ValueError for ranks below 1 or above full, and for NaN and infinity; UnsupportedError without TensorLy.
    """
    wide = np.asarray(tensor, np.float64)
    full = most(wide.shape)
    if not np.isfinite(wide).all():
        raise ValueError("the tensor holds NaN or infinity")
    if len(ranks) != wide.ndim or any(not 1 <= rank <= top for rank, top in zip(ranks, full, strict=True)):
        raise ValueError(f"expected ranks from 1 to {full}, found {list(ranks)}")
    cut = [axis for axis, rank in enumerate(ranks) if rank < wide.shape[axis]]
    if not cut:
        return Tucker(wide, (None,) * wide.ndim)
    if not wide.any():
        bases = tuple(np.eye(wide.shape[axis], ranks[axis]) if axis in cut else None for axis in range(wide.ndim))
        return Tucker(np.zeros(tuple(ranks)), bases)
    tensorly, decomposition = _tensorly()
    given: object = "svd"
    if start is not None:
        given = _torch(start.core), [_torch(base) for base in start.bases if base is not None]
    size = [ranks[axis] for axis in cut]
    # numpy's LAPACK gives up on spectra that are cut sharply, as what other blocks leave is
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        (core, found), _ = decomposition.partial_tucker(
            _torch(wide), size, modes=cut, init=given, n_iter_max=rounds, tol=_GAIN, random_state=0
        )
    by_axis = {axis: np.asarray(base, np.float64) for axis, base in zip(cut, found, strict=True)}
    return Tucker(np.asarray(core, np.float64), tuple(by_axis.get(axis) for axis in range(wide.ndim)))


def most(shape: Sequence[int]) -> list[int]:
    """The full rank of each mode.

    >>> most((4, 3, 20))
    [4, 3, 12]
    """
    whole = math.prod(shape)
    return [min(size, whole // size) for size in shape]


def ranks_within(tensors: Sequence[Array], numbers: float, kept: Sequence[int] = ()) -> tuple[int, ...] | None:
    """The ranks of tensors of one shape that lose least by the bound of HOSVD, each within so many numbers; None where
    rank one takes more.

    kept: axes that are left whole.
    """
    shape = tensors[0].shape
    free = [axis for axis in range(len(shape)) if axis not in kept]
    spectra = [sum_of(squares(unfolding(each, [axis])) for each in tensors) for axis in free]

    def spread(ranks: tuple[int, ...]) -> list[int]:
        given = dict(zip(free, ranks, strict=True))
        return [given.get(axis, size) for axis, size in enumerate(shape)]

    found = within(spectra, lambda ranks: held(shape, feasible(spread(ranks), kept)), numbers)
    return None if found is None else feasible(spread(found), kept)


def feasible(ranks: Sequence[int], kept: Sequence[int] = ()) -> tuple[int, ...]:
    """Ranks cut to what the others leave room for: an unfolding of the core has no more than its columns. kept: axes
    that are left whole.

    >>> feasible([9, 2, 3])
    (6, 2, 3)
    """
    found = list(ranks)
    while True:
        whole = math.prod(found)
        cut = [rank if axis in kept else min(rank, whole // rank) for axis, rank in enumerate(found)]
        if cut == found:
            return tuple(found)
        found = cut


def held(shape: Sequence[int], ranks: Sequence[int]) -> int:
    """Numbers of the core and of the bases; an axis of full rank has none."""
    return math.prod(ranks) + sum(size * rank for size, rank in zip(shape, ranks, strict=True) if rank < size)


def _torch(array: Floats) -> torch.Tensor:
    # imported when it is needed
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def _tensorly() -> tuple[ModuleType, ModuleType]:
    """TensorLy and its decompositions, imported when they are needed."""
    try:
        import tensorly
        from tensorly import decomposition
    except ImportError as error:
        raise UnsupportedError(
            "Tucker and block-term decompositions need TensorLy: pip install 'tersor[tensorly]'; the formats tt, cp "
            "and kronecker do without"
        ) from error
    return tensorly, decomposition
