"""Sums of few atoms: pursuit against theory, atoms as least squares, common words that stay."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import nnls
from tersor.passes.embeddings.methods.sparse import combine, decoded, learn, pursue, refit


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def unit(atoms: np.ndarray) -> np.ndarray:
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def error(table: np.ndarray, made: np.ndarray) -> float:
    return float(np.square(table - made).sum())


def few(words: int, atoms: np.ndarray, nonzeros: int) -> np.ndarray:
    """Words that are sums of so many atoms."""
    random = np.random.default_rng(0)
    index = np.stack([random.choice(len(atoms), nonzeros, replace=False) for _ in range(words)])
    return decoded(index, random.standard_normal((words, nonzeros)) + 1, atoms)


@pytest.mark.parametrize("nonzeros", [1, 3, 8])
def test_of_orthogonal_atoms_the_largest_are_taken(nonzeros: int) -> None:
    """What is lost is the square of the rest, in any orthonormal basis."""
    atoms, table = np.linalg.qr(normal(8, 8))[0], normal(50, 8)
    index, shares = pursue(table, atoms, nonzeros)
    sorted_squares = np.sort(np.square(table @ atoms.T), axis=1)
    lost = np.square(table - decoded(index, shares, atoms)).sum(1)
    assert np.allclose(lost, sorted_squares[:, : 8 - nonzeros].sum(1), atol=1e-10)


def test_coefficients_are_the_least_squares_of_the_atoms_that_are_taken() -> None:
    atoms, table = unit(normal(30, 10)), normal(40, 10)
    index, shares = pursue(table, atoms, 4)
    for word, taken, found in zip(table, index, shares, strict=True):
        best = np.linalg.lstsq(atoms[taken].T, word, rcond=None)[0]
        assert np.allclose(found, best, atol=1e-4)
        assert len(set(taken)) == 4


def test_each_step_takes_what_is_left_most() -> None:
    atoms, table = unit(normal(30, 10)), normal(1, 10)
    index, _ = pursue(table, atoms, 3)
    left, taken = table[0], list[int]()
    for place in range(3):
        taken.append(int(np.abs(atoms @ left).argmax()))
        assert index[0, place] == taken[-1]
        left = table[0] - np.linalg.lstsq(atoms[taken].T, table[0], rcond=None)[0] @ atoms[taken]


def test_coefficients_that_may_not_be_below_zero_are_the_best_such() -> None:
    atoms, table = unit(normal(30, 10)), normal(40, 10)
    index, shares = pursue(table, atoms, 4, nonnegative=True)
    assert (shares >= 0).all()
    for word, taken, found in zip(table, index, shares, strict=True):
        live = np.unique(taken[found > 0])
        if not live.size:
            continue
        _, best = nnls(atoms[np.unique(taken)].T, word)
        assert np.linalg.norm(word - found @ atoms[taken]) <= best * (1 + 1e-4) + 1e-6


def test_nothing_is_made_of_nothing() -> None:
    index, shares = pursue(np.zeros((3, 5)), unit(normal(9, 5)), 2)
    assert not shares.any() and index.max() < 9


def test_atoms_that_are_the_same_are_not_taken_twice() -> None:
    atoms = unit(normal(2, 6))[[0, 0, 1]]
    _, shares = pursue(normal(20, 6), atoms, 3)
    assert np.isfinite(shares).all()
    assert (np.count_nonzero(shares, axis=1) <= 2).all()


@pytest.mark.parametrize("weights", [None, np.random.default_rng(1).random(200) + 0.1])
def test_atoms_are_the_least_squares_of_their_sums(weights: np.ndarray | None) -> None:
    table, atoms = normal(200, 6), unit(normal(12, 6))
    index, shares = pursue(table, atoms, 3)
    found = refit(table, index, shares, atoms, weights)
    spread = np.zeros((200, 12))
    np.add.at(spread, (np.arange(200)[:, None], index), shares)
    root = np.ones(200) if weights is None else np.sqrt(weights)
    best = spread @ np.linalg.lstsq(root[:, None] * spread, root[:, None] * table, rcond=None)[0]
    each = np.ones(200) if weights is None else weights
    lost, least = (each @ np.square(table - made).sum(1) for made in (decoded(index, shares, found), best))
    assert np.isclose(lost, least, rtol=1e-6)


def test_a_dictionary_is_learnt() -> None:
    table = few(600, unit(normal(16, 12)), 2)
    first, last = (learn(table, atoms=16, nonzeros=2, iterations=count) for count in (0, 20))
    assert error(table, last.dense()) < error(table, first.dense()) / 2
    assert error(table, last.dense()) < 0.1 * error(table, np.zeros_like(table))


def test_as_many_atoms_as_words_are_the_identity() -> None:
    table = normal(30, 6).astype(np.float32)
    assert np.allclose(learn(table, atoms=30, nonzeros=6, iterations=0).dense(), table, atol=1e-2)
    assert np.allclose(combine(table, np.arange(30), nonzeros=1).dense(), table, atol=1e-5)


def test_the_error_falls_with_size() -> None:
    table = normal(200, 12)

    def lost(atoms: int, nonzeros: int) -> float:
        return error(table, learn(table, atoms=atoms, nonzeros=nonzeros).dense())

    assert lost(24, 6) < lost(24, 3) < lost(24, 1)
    assert lost(96, 3) < lost(24, 3)


def test_common_words_stay_as_they_are() -> None:
    table, common = normal(60, 8).astype(np.float32), np.array([3, 50, 7, 11, 59, 0])
    for nonnegative in (False, True):
        made = combine(table, common, nonzeros=3, nonnegative=nonnegative)
        assert np.array_equal(made.dense()[common], table[common])
        assert np.abs(made.shares).max() <= 1
        rest = np.setdiff1d(np.arange(60), common)
        assert error(table[rest], made.dense()[rest]) < error(table[rest], np.zeros((54, 8)))


def test_rare_words_that_are_sums_of_common_ones_are_found() -> None:
    common = normal(10, 16)
    table = np.concatenate([common, few(80, common, 2)])
    made = combine(table, np.arange(10), nonzeros=3)
    assert error(table, made.dense()) < 1e-3 * error(table, np.zeros_like(table))


@pytest.mark.parametrize(
    ("atoms", "nonzeros", "why"),
    [(0, 1, "1 to 30 atoms"), (31, 1, "1 to 30 atoms"), (5, 0, "1 to 5 nonzeros"), (5, 6, "1 to 5 nonzeros")],
)
def test_refuses(atoms: int, nonzeros: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        learn(normal(30, 6), atoms=atoms, nonzeros=nonzeros)


def test_refuses_tables_that_are_none_and_weights_of_nothing() -> None:
    with pytest.raises(ValueError, match="NaN"):
        learn(np.full((30, 6), np.inf), atoms=4, nonzeros=2)
    with pytest.raises(ValueError, match="above zero"):
        learn(normal(30, 6), atoms=4, nonzeros=2, weights=np.zeros(30))
    with pytest.raises(ValueError, match="iterations"):
        learn(normal(30, 6), atoms=4, nonzeros=2, iterations=-1)
