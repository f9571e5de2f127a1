"""Codes and books: what is made of few vectors is found, books are least squares, no step raises the error."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.embeddings.methods.compositional import (
    alternated,
    compose,
    decoded,
    recode,
    refit,
    stacked,
    trial,
)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def error(table: np.ndarray, made: np.ndarray, weights: np.ndarray | None = None) -> float:
    each = np.square(table - made).sum(1)
    return float(each.sum() if weights is None else each @ weights)


def made_of(words: int, books: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes by chance, and the sums of the vectors of books [stages, entries, width]."""
    codes = np.random.default_rng(seed).integers(0, books.shape[1], (words, len(books)))
    return codes, decoded(codes, books)


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_made_of_few_vectors_is_found(shared: bool) -> None:
    books = 10 * normal(1 if shared else 4, 5, 3)
    codes = np.random.default_rng(0).integers(0, 5, (200, 4))
    table = np.concatenate([books[0 if shared else run][codes[:, run]] for run in range(4)], 1)
    made = compose(table, entries=5, width=3, shared=shared)
    assert np.allclose(made.dense(), table, atol=1e-12)
    assert made.books.shape == (1 if shared else 4, 5, 3)


def test_as_many_entries_as_words_are_the_identity() -> None:
    table = normal(40, 6).astype(np.float32)
    assert np.allclose(compose(table, entries=40, width=4).dense(), table, atol=1e-5)
    assert np.allclose(compose(table, entries=40, stages=2).dense(), table, atol=1e-5)


@pytest.mark.parametrize("weights", [None, np.random.default_rng(1).random(300) + 0.1])
def test_books_are_the_least_squares_of_their_codes(weights: np.ndarray | None) -> None:
    """C.T P C B = C.T P X; as many unknowns as numpy's own solver sees."""
    table, start = normal(300, 4), normal(3, 6, 4)
    codes = np.random.default_rng(0).integers(0, 6, (300, 3))
    found = refit(table, codes, start, weights)
    ones = np.zeros((300, 18))
    for stage in range(3):
        ones[np.arange(300), 6 * stage + codes[:, stage]] = 1
    root = np.ones(300) if weights is None else np.sqrt(weights)
    best = ones @ np.linalg.lstsq(root[:, None] * ones, root[:, None] * table, rcond=None)[0]
    assert np.isclose(error(table, decoded(codes, found), weights), error(table, best, weights), rtol=1e-9)


def test_one_stage_moves_to_the_weighted_means() -> None:
    table, weights = normal(50, 3), np.random.default_rng(0).random(50) + 0.1
    codes = np.arange(50)[:, None] % 4
    found = refit(table, codes, np.zeros((1, 5, 3)), weights)
    for entry in range(4):
        some = codes[:, 0] == entry
        assert np.allclose(found[0, entry], weights[some] @ table[some] / weights[some].sum())
    assert not found[0, 4].any(), "an entry that nobody uses stays"


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_no_step_raises_the_error(stages: int) -> None:
    table, books = normal(400, 6), normal(stages, 16, 6)
    weights = np.random.default_rng(0).random(400) + 0.1
    codes = np.random.default_rng(0).integers(0, 16, (400, stages))
    last = error(table, decoded(codes, books), weights)
    first = last
    for _ in range(6):
        books = refit(table, codes, books, weights)
        now = error(table, decoded(codes, books), weights)
        assert now <= last * (1 + 1e-9)
        before = np.square(table - decoded(codes, books)).sum(1)
        codes = recode(table, codes, books, 3)
        assert (np.square(table - decoded(codes, books)).sum(1) <= before).all(), "nor that of any word"
        last = error(table, decoded(codes, books), weights)
        assert last <= now
    assert last < first / 2


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("beam", [1, 16])
def test_what_is_composed_is_no_worse_than_what_it_starts_from(stages: int, beam: int, weighed: bool) -> None:
    """Books and codes of k-means are fitted in turn from there on; what a wide search found is not lost again."""
    table = normal(400, 6)
    # of a mean of one, as composing takes them
    weights = np.random.default_rng(0).random(400) + 0.1 if weighed else None
    weights = None if weights is None else weights / weights.mean()
    unit = float(np.ldexp(1.0, int(np.frexp(np.abs(table).max())[1])))
    codes, books = stacked(table / unit, 16, stages, weights, 6, 0)
    start = error(table, decoded(codes, books) * unit, weights)
    # one stage is k-means all along
    turned = alternated(table / unit, codes, books, weights, 2 if stages == 1 else 6, beam)
    best = error(table, decoded(*turned) * unit, weights)
    made = compose(table, entries=16, stages=stages, beam=beam, weights=weights, iterations=6)
    assert error(table, made.dense(), weights) <= min(start, best) * (1 + 1e-9)


def test_without_iterations_words_have_the_nearest_of_the_first_vectors() -> None:
    table = normal(100, 6)
    for stages in (1, 2):
        made = compose(table, entries=8, stages=stages, iterations=0)
        unit = float(np.ldexp(1.0, int(np.frexp(np.abs(table).max())[1])))
        codes, books = stacked(table / unit, 8, stages, None, 0, 0)
        assert np.array_equal(made.codes[:, :, 0], codes)
        assert np.allclose(made.books, books * unit)
        assert all((np.abs(table - each).sum(1) < 1e-12).any() for each in made.books[0])


def test_stages_of_many_entries_are_fitted_one_at_a_time() -> None:
    table, books = normal(300, 4), normal(2, 8, 4)
    codes = np.random.default_rng(0).integers(0, 8, (300, 2))
    jointly = error(table, decoded(codes, refit(table, codes, books)))
    last = error(table, decoded(codes, books))
    for _ in range(200):
        books = refit(table, codes, books, joint=1)
        now = error(table, decoded(codes, books))
        assert now <= last * (1 + 1e-12)
        last = now
    assert np.isclose(last, jointly, rtol=1e-6)


def test_a_beam_of_all_entries_finds_the_best_pair() -> None:
    table, books = normal(60, 5), normal(2, 7, 5)
    start = np.zeros((60, 2), np.int64)
    found = np.square(table - decoded(recode(table, start, books, 7), books)).sum(1)
    sums = (books[0][:, None] + books[1][None]).reshape(-1, 5)
    best = np.square(table[:, None] - sums).sum(2).min(1)
    assert np.allclose(found, best)


def test_fitting_again_is_better_than_k_means_of_what_is_left() -> None:
    _, table = made_of(500, normal(3, 8, 6))
    table = table + 0.1 * normal(500, 6)
    stacked = compose(table, entries=8, stages=3, iterations=0)
    assert error(table, compose(table, entries=8, stages=3).dense()) < error(table, stacked.dense())


def test_the_error_falls_with_size() -> None:
    table = normal(300, 12)

    def lost(**options: int) -> float:
        return error(table, compose(table, **options).dense())

    assert lost(entries=32, width=4) < lost(entries=16, width=4) < lost(entries=4, width=4)
    assert lost(entries=16, width=2) < lost(entries=16, width=4) < lost(entries=16)
    assert lost(entries=16, stages=3) < lost(entries=16, stages=2) < lost(entries=16, stages=1)


def test_words_that_count_more_are_fitted_better() -> None:
    table, weights = normal(400, 8), np.where(np.arange(400) < 40, 100.0, 1.0)
    plain, weighed = (compose(table, entries=16, width=4, weights=each).dense() for each in (None, weights))
    assert error(table, weighed, weights) < error(table, plain, weights)
    assert error(table, plain) < error(table, weighed)


def test_a_trial_tells_better_sizes_from_worse() -> None:
    table = normal(300, 12)
    sizes = [(4, 6, 1), (16, 4, 1), (16, 4, 2), (64, 2, 2)]
    tried = [trial(table, entries=entries, width=width, stages=stages) for entries, width, stages in sizes]
    assert tried == sorted(tried, reverse=True)
    assert 0 < tried[-1] < tried[0] < 1


def test_codes_change_until_they_stay() -> None:
    table, books = normal(100, 4), normal(1, 8, 4)
    start = np.random.default_rng(0).integers(0, 8, (100, 1))
    codes, found = alternated(table, start, books, None, 100)
    assert np.array_equal(recode(table, codes, found), codes)


def test_the_same_seed_gives_the_same_codes() -> None:
    table = normal(200, 8)
    first, again, other = (compose(table, entries=8, width=4, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.codes, again.codes) and np.array_equal(first.books, again.books)
    assert not np.array_equal(first.codes, other.codes)


def test_large_and_small_numbers_are_fitted_alike() -> None:
    table = normal(100, 6)
    for scale in (2.0**-140, 2.0**120):
        made = compose(table * scale, entries=8, width=3)
        assert np.allclose(made.dense() / scale, compose(table, entries=8, width=3).dense())


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"entries": 1}, "entries of at least 2"),
        ({"entries": 31}, "at most 30 entries"),
        ({"entries": 61, "width": 3, "shared": True}, "at most 60 entries"),
        ({"entries": 4, "width": 7}, "at most the 6 columns"),
        ({"entries": 4, "width": -1}, "width of at least 1"),
        ({"entries": 4, "stages": 0}, "stages of at least 1"),
        ({"entries": 4, "stages": 2, "shared": True}, "one stage"),
        ({"entries": 4, "iterations": -1}, "iterations of at least 0"),
        ({"entries": 4, "beam": 0}, "beam of at least 1"),
        ({"entries": 4, "weights": np.zeros(30)}, "above zero"),
        ({"entries": 4, "weights": np.ones(29)}, "30 words"),
    ],
)
def test_refuses(options: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        compose(normal(30, 6), **options)  # type: ignore[arg-type]


def test_refuses_tables_that_are_none() -> None:
    with pytest.raises(ValueError, match="NaN"):
        compose(np.full((30, 6), np.nan), entries=4)
    with pytest.raises(ValueError, match="1 axes"):
        compose(np.ones(30), entries=4)
