"""Tensor trains: a tensor as a chain of small ones, each with the ranks of its two cuts.

    A[i1, .., id] ~= sum over r1 .. of G1[1, i1, r1] G2[r1, i2, r2] .. Gd[r(d-1), id, 1]

TT-SVD cuts off one mode after another by singular value decompositions. What each cut k discards, e_k, adds up:

    |A - TT|^2 <= sum of e_k^2        Oseledets, Tensor-Train Decomposition, SIAM J. Sci. Comput. 33, 2011, theorem 2.2

and no tensor train of these ranks is nearer than 1 / sqrt(d - 1) of that (corollary 2.4). Modes of a matrix are its
digits in pairs, A[(i1, j1), ..]: Novikov et al., Tensorizing Neural Networks, 2015, equation 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from ...numerics.low_rank import tails
from .network import Factor, Network, folded
from .spectra import squares, sum_of, svd, unfolding, within


def tensor_train(tensor: Array, ranks: Sequence[int]) -> tuple[list[Floats], Floats]:
    """The cores, [r, n, r'] each, and what each cut discarded, [d - 1].

    ranks: of the cuts. Raises ValueError for ranks below 1 or above full, for another number of them, and for NaN and
    infinity.
    """
    wide, shape = _checked(tensor), tensor.shape
    _check(ranks, shape)
    cores: list[Floats] = []
    lost = np.zeros(max(tensor.ndim - 1, 0))
    rest, before = wide.reshape(1, -1), 1
    for at, size in enumerate(shape[:-1]):
        left, values, right = svd(rest.reshape(before * size, -1))
        # the cuts before may have left fewer
        rank = min(ranks[at], len(values))
        lost[at] = math.sqrt(tails(values**2)[rank])
        cores.append(left[:, :rank].reshape(before, size, rank))
        rest, before = values[:rank, None] * right[:rank], rank
    cores.append(rest.reshape(before, shape[-1], 1))
    return cores, lost


def most(shape: Sequence[int]) -> list[int]:
    """The full rank of each cut of a tensor.

    >>> most((4, 3, 5))
    [4, 5]
    """
    return [min(math.prod(shape[:at]), math.prod(shape[at:])) for at in range(1, len(shape))]


def ranks_within(tensors: Sequence[Array], numbers: float) -> tuple[int, ...] | None:
    """The ranks of tensors of one shape that lose least by the bound, each within so many numbers; None where rank one
    takes more.
    """
    shape = tensors[0].shape
    spectra = [sum_of(squares(unfolding(each, range(at))) for each in tensors) for at in range(1, len(shape))]

    def held(ranks: tuple[int, ...]) -> int:
        ends = (1, *ranks, 1)
        return sum(ends[at] * size * ends[at + 1] for at, size in enumerate(shape))

    return within(spectra, held, numbers)


def tt_matrix(matrix: Array, modes: tuple[Sequence[int], Sequence[int]], ranks: Sequence[int]) -> Network:
    """A matrix as a train whose cores have a digit of the rows and one of the columns each.

    modes: as many numbers for rows as for columns; a one is no digit. Raises ValueError for modes that are not as many
    or too small, and as `tensor_train` does.
    """
    ins, outs = modes
    if len(ins) != len(outs) or len(ins) < 2:
        raise ValueError(f"expected as many modes of rows as of columns, at least two, found {len(ins)}, {len(outs)}")
    cores, _ = tensor_train(paired(folded(matrix, ins, outs), ins, outs), ranks)
    factors = []
    for at, core in enumerate(cores):
        axes = [(f"r{at}", core.shape[0]), (f"i{at}", ins[at]), (f"j{at}", outs[at]), (f"r{at + 1}", core.shape[2])]
        kept = [(label, size) for label, size in axes if size > 1]
        factors.append(Factor(core.reshape([size for _, size in kept]), tuple(label for label, _ in kept)))
    return Network(tuple(factors), _digits("i", ins), _digits("j", outs), (matrix.shape[0], matrix.shape[1]))


def paired(tensor: Array, ins: Sequence[int], outs: Sequence[int]) -> Array:
    """A tensor [*ins, *outs] with each mode of the rows beside one of the columns, [i1 * j1, i2 * j2, ..]."""
    count = len(ins)
    turned = tensor.transpose([axis for at in range(count) for axis in (at, count + at)])
    return turned.reshape([each * other for each, other in zip(ins, outs, strict=True)])


def _digits(letter: str, modes: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{letter}{at}" for at, size in enumerate(modes) if size > 1)


def _checked(tensor: Array) -> Floats:
    wide = np.asarray(tensor, np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("the tensor holds NaN or infinity")
    return wide


def _check(ranks: Sequence[int], shape: Sequence[int]) -> None:
    full = most(shape)
    if len(ranks) != len(full) or any(not 1 <= rank <= top for rank, top in zip(ranks, full, strict=False)):
        raise ValueError(f"expected ranks from 1 to {full}, found {list(ranks)}")
