"""Rows as sums of few atoms of a dictionary: which atoms by orthogonal matching pursuit, the atoms by least squares.

    E = sum_v p_v |t_v - sum_j a_vj D[i_vj]|^2,        `nonzeros` atoms for each word

Faruqui et al., Sparse Overcomplete Word Vector Representations, 2015 (arXiv 1506.02004), equation 2, with a count of
atoms in place of the penalty; pursuit: Rubinstein, Zibulevsky and Elad, Efficient Implementation of the K-SVD Algorithm
using Batch Orthogonal Matching Pursuit, 2008; atoms: Engan, Aase and Husoy, Method of Optimal Directions, 1999. With
vectors of common words for atoms: Chen, Mou, Xu, Li and Jin, Compressing Neural Language Models by Sparse Word
Representations, 2016 (arXiv 1610.03950), section 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...numerics.least_squares import fitted
from ..combined import Combined
from .compositional import weighed

Indices = NDArray[np.int64]

#: Numbers of the projections that are held at once.
_CHUNK = 1 << 23
#: Squared length, as a share of the atom's, below which what an atom adds to those that are there is rounding.
_NOTHING = 1e-6
#: Words on which atoms are learnt, for each atom.
_SAMPLE = 8
_RIDGE = 1e-6
_SWEEPS = 60


def learn(
    table: Array,
    *,
    atoms: int,
    nonzeros: int,
    weights: Array | None = None,
    iterations: int = 6,
    seed: int = 0,
) -> Combined:
    """A dictionary and the sums [words, columns] of its atoms that are nearest to a table.

    atoms: of the dictionary, at most as many as words. nonzeros: atoms of a word. weights: p, [words], above zero.
    iterations: of finding sums on some of the words, 8 for each atom, and atoms given sums in turn; no step of that
    raises their error. Raises ValueError for what does not fit and for a table that is no matrix of finite numbers.
    """
    wide = check(table)
    _check(len(wide), atoms, nonzeros)
    if iterations < 0:
        raise ValueError(f"expected iterations of at least 0, found {iterations}")
    counting = weighed(weights, len(wide))
    random = np.random.default_rng(seed)
    drawn = random.choice(len(wide), min(max(_SAMPLE * atoms, 1 << 12), len(wide)), replace=False)
    some, part = wide[drawn], None if counting is None else counting[drawn]
    found = _unit(some[:atoms])
    state: tuple[Indices, Floats] | None = None
    for _ in range(iterations):
        state = _recoded(some, found, nonzeros, state)
        found = refit(some, *state, found, part)
        found, lengths = _lengths(found)
        state = state[0], state[1] * lengths[state[0]]
        found, state = _revived(some, found, *state)
    index, shares = pursue(wide, found, nonzeros)
    return _stored(table, index, shares, refit(wide, index, shares, found, counting))


def combine(table: Array, common: Indices, *, nonzeros: int, nonnegative: bool = False) -> Combined:
    """Words as sums of few of the common ones, which stay as they are.

    common: their numbers. nonnegative: no word counts less than nothing, as in the paper, which leans on it by a
    penalty. Raises ValueError as `learn` does.
    """
    wide = check(table)
    _check(len(wide), len(common), nonzeros)
    atoms = wide[common]
    unit, lengths = _lengths(atoms)
    index, shares = pursue(wide, unit, nonzeros, nonnegative=nonnegative)
    shares /= lengths[index]
    index[common], shares[common] = 0, 0.0
    index[common, 0], shares[common, 0] = np.arange(len(common)), 1.0
    return _stored(table, index, shares, atoms)


def pursue(vectors: Floats, atoms: Floats, nonzeros: int, *, nonnegative: bool = False) -> tuple[Indices, Floats]:
    """Indices and coefficients [n, nonzeros] by orthogonal matching pursuit; atoms are of length one.

    Each step takes the atom that what is left of a vector has most of, and fits the coefficients of all that are taken
    anew. Where nothing is left, coefficients are zero.
    """
    gram = (atoms @ atoms.T).astype(np.float32)
    index = np.zeros((len(vectors), nonzeros), np.int64)
    shares = np.zeros((len(vectors), nonzeros))
    step = max(_CHUNK // (nonzeros * len(atoms)), 1)
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        index[part], shares[part] = _pursued(vectors[part], atoms, gram, nonzeros, nonnegative)
    return index, shares


def refit(vectors: Floats, index: Indices, shares: Floats, atoms: Floats, weights: Floats | None = None) -> Floats:
    """Atoms of least error for these sums (method of optimal directions); those that nobody takes stay."""
    count = len(atoms)
    gram, joint = np.zeros((count, count)), np.zeros(atoms.shape)
    step = max(_CHUNK // count, 1)
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        spread = np.zeros((len(index[part]), count))
        np.add.at(spread, (np.arange(len(spread))[:, None], index[part]), shares[part])
        counted = spread if weights is None else spread * weights[part, None]
        gram += counted.T @ spread
        joint += counted.T @ vectors[part]
    return fitted(gram, joint, atoms, ridge=_RIDGE).weight


def decoded(index: Indices, shares: Floats, atoms: Floats) -> Floats:
    """The sums, [n, columns]."""
    found = np.zeros((len(index), atoms.shape[1]))
    for place in range(index.shape[1]):
        found += shares[:, place, None] * atoms[index[:, place]]
    return found


def _check(words: int, atoms: int, nonzeros: int) -> None:
    if not 1 <= atoms <= words:
        raise ValueError(f"expected 1 to {words} atoms, as many as there are words, found {atoms}")
    if not 1 <= nonzeros <= atoms:
        raise ValueError(f"expected 1 to {atoms} nonzeros, as many as there are atoms, found {nonzeros}")


def _lengths(atoms: Floats) -> tuple[Floats, Floats]:
    """Atoms of length one, and how long they were; those of none stay."""
    lengths = np.linalg.norm(atoms, axis=1)
    lengths = np.where(lengths > 0, lengths, 1.0)
    return atoms / lengths[:, None], lengths


def _unit(atoms: Floats) -> Floats:
    return _lengths(atoms)[0]


def _recoded(
    vectors: Floats, atoms: Floats, nonzeros: int, state: tuple[Indices, Floats] | None
) -> tuple[Indices, Floats]:
    """Sums anew, where they are nearer than those that are there."""
    index, shares = pursue(vectors, atoms, nonzeros)
    if state is None:
        return index, shares
    before = np.square(vectors - decoded(*state, atoms)).sum(1)
    after = np.square(vectors - decoded(index, shares, atoms)).sum(1)
    keeps = (before < after)[:, None]
    return np.where(keeps, state[0], index), np.where(keeps, state[1], shares)


def _revived(vectors: Floats, atoms: Floats, index: Indices, shares: Floats) -> tuple[Floats, tuple[Indices, Floats]]:
    """Atoms that nobody takes become what the worst sums leave of their vectors."""
    idle = np.setdiff1d(np.arange(len(atoms)), index[shares != 0])
    if idle.size:
        left = vectors - decoded(index, shares, atoms)
        worst = np.argsort(-np.square(left).sum(1), kind="stable")[: len(idle)]
        made = atoms.copy()
        live = np.square(left[worst]).sum(1) > 0
        made[idle[: len(worst)][live]] = _unit(left[worst][live])
        return made, (index, shares)
    return atoms, (index, shares)


def _pursued(
    vectors: Floats, atoms: Floats, gram: NDArray[np.float32], nonzeros: int, nonnegative: bool
) -> tuple[Indices, Floats]:
    words = np.arange(len(vectors))
    # a power of two each: float32 neither overflows nor vanishes
    units = np.ldexp(1.0, np.frexp(np.abs(vectors).max(1, initial=0.0))[1])
    against = ((vectors / units[:, None]) @ atoms.T).astype(np.float32)
    # projections of all atoms onto directions that are orthogonal to each other: of those that are taken
    onto = np.zeros((len(vectors), nonzeros, len(atoms)), np.float32)
    index = np.zeros((len(vectors), nonzeros), np.int64)
    along = np.zeros((len(vectors), nonzeros))
    live = np.zeros((len(vectors), nonzeros), np.bool_)
    first = against.copy()
    for place in range(nonzeros):
        best = (against if nonnegative else np.abs(against)).argmax(1)
        made = gram[best]
        if place:
            here = onto[words, :place, best]
            made -= (here[:, None] @ onto[:, :place])[:, 0]
        squared, most = made[words, best], against[words, best]
        taken = (squared > _NOTHING) & ((most > 0) if nonnegative else (most != 0))
        length = np.sqrt(np.where(taken, squared, 1.0))
        made *= (taken / length)[:, None]
        onto[:, place] = made
        index[:, place], live[:, place] = np.where(taken, best, 0), taken
        along[:, place] = np.where(taken, most / length, 0)
        against -= along[:, place, None].astype(np.float32) * made
    # a = R^-1 (q . x), R the projections of those that are taken
    corner = np.take_along_axis(onto, index[:, None], axis=2).astype(np.float64)
    corner = np.triu(corner * live[:, None])
    corner[:, np.arange(nonzeros), np.arange(nonzeros)] += ~live
    shares = np.asarray(np.linalg.solve(corner, along[:, :, None])[:, :, 0] * live, np.float64)
    if nonnegative:
        shares = _clipped(shares, first, gram, index, live)
    return index, shares * units[:, None]


def _clipped(
    shares: Floats, against: NDArray[np.float32], gram: NDArray[np.float32], index: Indices, live: NDArray[np.bool_]
) -> Floats:
    """The coefficients of least error of which none is below zero, one after another given the others."""
    inner = gram[index[:, :, None], index[:, None]].astype(np.float64)
    joint = np.take_along_axis(against, index, axis=1).astype(np.float64)
    found = np.maximum(shares, 0.0)
    for _ in range(_SWEEPS):
        for place in range(index.shape[1]):
            rest = (inner[:, place] * found * live).sum(1) - inner[:, place, place] * found[:, place]
            found[:, place] = np.maximum(joint[:, place] - rest, 0.0) * live[:, place]
    return found


def _stored(table: Array, index: Indices, shares: Floats, atoms: Floats) -> Combined:
    """Coefficients in 16 bits, none above one: atoms are as long as they have to be for that."""
    most = np.zeros(len(atoms))
    np.maximum.at(most, index, np.abs(shares))
    # a power of two: what is one stays one
    scale = np.where(most > 0, np.ldexp(1.0, np.frexp(most)[1]), 1.0)
    scale[most == 1] = 1.0
    return Combined(index, (shares / scale[index]).astype(np.float16), (atoms * scale[:, None]).astype(table.dtype))
