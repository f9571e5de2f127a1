"""Pools by chance, references beside words of their own, and the words that stand in the middle of others."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.embeddings.composed import Composed
from tersor.passes.embeddings.kept import Kept
from tersor.passes.embeddings.methods.compositional import compose
from tersor.passes.embeddings.methods.pools import central, drawn, referenced


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def test_each_vector_of_a_pool_is_drawn_as_often_and_is_the_mean_of_what_it_stands_for() -> None:
    table = normal(40, 6)
    made = drawn(table, 16, 3)
    uses = np.bincount(made.codes.reshape(-1))
    assert uses.max() - uses.min() <= 1
    vectors = table.reshape(-1, 3)
    for entry in range(16):
        assert np.allclose(made.books[0, entry], vectors[made.codes.reshape(-1) == entry].mean(0))
    # what is left of a mean over n vectors of variance one: 1 - 1 / n of it
    lost, share = np.square(table - made.dense()).sum(), 1 - 16 / 80
    assert np.isclose(lost, share * np.square(table).sum(), rtol=0.1)


def test_vectors_that_are_near_are_better_than_drawn_ones() -> None:
    table = normal(40, 6)
    near = compose(table, entries=16, width=3, shared=True)
    assert np.square(table - near.dense()).sum() < np.square(table - drawn(table, 16, 3).dense()).sum() / 2


def test_words_that_are_named_keep_their_vectors() -> None:
    table, kept = normal(50, 6).astype(np.float32), np.array([4, 0, 49])
    made = referenced(table, 3, kept, entries=8, width=2)
    assert isinstance(made, Kept)
    assert np.array_equal(made.dense()[kept], table[kept])
    others = np.setdiff1d(np.arange(50), kept)
    assert np.array_equal(made.dense()[others], compose(table[others], entries=8, width=2, iterations=6).dense())


def test_without_names_the_words_that_fit_worst_do() -> None:
    table, weights = normal(50, 6), np.random.default_rng(0).random(50) + 0.1
    errors = np.square(table - compose(table, entries=4, width=6, iterations=6, weights=weights).dense()).sum(1)
    made = referenced(table, 5, entries=4, width=6, weights=weights)
    assert isinstance(made, Kept)
    assert made.common.tolist() == sorted(np.argsort(-errors * weights)[:5])


def test_without_words_of_their_own_all_share() -> None:
    for kept in (None, np.zeros(0, np.int64)):
        made = referenced(normal(50, 6), 0, kept, entries=4, width=2)
        assert isinstance(made, Composed)
        assert np.array_equal(made.dense(), compose(normal(50, 6), entries=4, width=2, iterations=6).dense())


def test_words_in_the_middle_of_others() -> None:
    middles = 10 * normal(5, 8)
    table = np.concatenate([middles, *(middles + 0.1 * normal(5, 8, seed=seed) for seed in range(1, 8))])
    chosen = central(table, 5)
    assert sorted(np.unique(chosen % 5)) == list(range(5)), "one of each cluster"
    assert len(central(table, 40)) == len(table)
    repeated = np.repeat(middles, 8, axis=0)
    assert len(np.unique(central(repeated, 9))) == 9


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: drawn(normal(9, 4), 4, 5), "width of 1 to 4"),
        (lambda: drawn(normal(9, 4), 40, 2), "2 to 18 entries"),
        (lambda: drawn(normal(9, 4), 1, 2), "2 to 18 entries"),
        (lambda: referenced(normal(9, 4), 8, entries=2), "0 to 7 words"),
        (lambda: referenced(normal(9, 4), -1, entries=2), "0 to 7 words"),
        (lambda: central(normal(9, 4), 10), "1 to 9 words"),
        (lambda: central(np.full((9, 4), np.nan), 2), "NaN"),
    ],
)
def test_refuses(call: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        call()  # type: ignore[operator]
