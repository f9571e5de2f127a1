"""Tables of words: vectors against the analysis of variance, no step raises the error."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.embeddings.methods.cells import cells, fit, matched, placed


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def error(table: np.ndarray, at: np.ndarray, books: list[np.ndarray], weights: np.ndarray) -> float:
    return float(weights @ np.square(table - books[0][at[:, 0]] - books[1][at[:, 1]]).sum(1))


def grid(high: int, across: int) -> np.ndarray:
    return np.stack([each.reshape(-1) for each in np.indices((high, across))], axis=1)


def test_vectors_of_a_full_table_leave_what_the_analysis_of_variance_leaves() -> None:
    """sum_ij |t_ij - t_i. - t_.j + t_..|^2, each mean over the words of a row, a column, or all."""
    table, at = normal(35, 6), grid(5, 7)
    books = fit(table, at, [np.zeros((5, 6)), np.zeros((7, 6))], np.ones((2, 6)), np.ones(35))
    whole = table.reshape(5, 7, 6)
    left = whole - whole.mean(1, keepdims=True) - whole.mean(0, keepdims=True) + whole.mean((0, 1))
    assert np.isclose(error(table, at, books, np.ones(35)), np.square(left).sum())


@pytest.mark.parametrize("join", ["sum", "concat"])
@pytest.mark.parametrize("words", [36, 33, 31])
def test_no_step_raises_the_error_and_no_two_words_share_a_cell(join: str, words: int) -> None:
    table, weights = normal(words, 6), np.random.default_rng(0).random(words) + 0.1
    masks = np.ones((2, 6))
    if join == "concat":
        masks[0, 3:], masks[1, :3] = 0, 0
    at, books = placed(table, (6, -(-words // 6)), masks, weights, 0)
    last = error(table, at, books, weights)
    for _ in range(4):
        books = fit(table, at, books, masks, weights)
        assert error(table, at, books, weights) <= last * (1 + 1e-12)
        last = error(table, at, books, weights)
        at = matched(table, at, books, weights)
        assert error(table, at, books, weights) <= last * (1 + 1e-12)
        last = error(table, at, books, weights)
        assert len(np.unique(at, axis=0)) == words
        assert at.min() >= 0 and at[:, 0].max() < 6 and at[:, 1].max() < -(-words // 6)


def test_words_that_are_halves_of_few_are_found() -> None:
    """All pairs of six left and six right halves, in any order."""
    left, right, at = 10 * normal(6, 4), 10 * normal(6, 4, seed=1), grid(6, 6)
    table = np.concatenate([left[at[:, 0]], right[at[:, 1]]], 1)[np.random.default_rng(0).permutation(36)]
    made = cells(table, join="concat")
    assert np.allclose(made.dense(), table)
    assert made.codes.shape == (36, 1, 2)


def test_fitting_the_table_of_words_is_better_than_leaving_it() -> None:
    row, column, at = 3 * normal(8, 6), normal(8, 6, seed=1), grid(8, 8)
    table = (row[at[:, 0]] + column[at[:, 1]])[np.random.default_rng(0).permutation(64)]

    def lost(iterations: int) -> float:
        return float(np.square(table - cells(table, iterations=iterations).dense()).sum())

    assert lost(6) < lost(0)
    assert lost(6) < 0.2 * np.square(table).sum()


@pytest.mark.parametrize("join", ["sum", "concat"])
@pytest.mark.parametrize("width", [0, 5, 4])
def test_runs_have_tables_of_their_own(join: str, width: int) -> None:
    table = normal(30, 10).astype(np.float32)
    made = cells(table, join=join, width=width)  # type: ignore[arg-type]
    runs = -(-10 // ((width or 10) + (width % 2 if join == "concat" else 0)))
    assert made.codes.shape == ((30, 2, runs) if join == "sum" else (30, 1, 2 * runs))
    assert made.dense().shape == (30, 10) and made.dense().dtype == np.float32
    whole = float(np.square(table - cells(table, join=join).dense()).sum())  # type: ignore[arg-type]
    assert np.square(table - made.dense()).sum() <= whole * 1.05


@pytest.mark.parametrize(
    ("shape", "options", "why"),
    [
        ((1, 4), {}, "two words"),
        ((9, 1), {}, "two words and columns"),
        ((9, 4), {"join": "mean"}, "sum or concat"),
        ((9, 4), {"iterations": -1}, "iterations"),
        ((9, 4), {"width": 5}, "at most the 4"),
        ((9, 4), {"weights": np.ones(3)}, "9 words"),
    ],
)
def test_refuses(shape: tuple[int, int], options: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        cells(normal(*shape), **options)  # type: ignore[arg-type]
