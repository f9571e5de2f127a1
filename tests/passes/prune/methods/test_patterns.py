"""Patterns as they are spelled, and which weights they leave."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.prune.methods.patterns import Pattern, choose

RNG = np.random.default_rng(0)
SCORES = RNG.permutation(16 * 6).reshape(16, 6).astype(np.float64)


def lowest(scores: np.ndarray, count: int) -> set[int]:
    return set(np.argsort(scores.reshape(-1))[:count].tolist())


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("free", Pattern()),
        ("2:4", Pattern(group=(2, 4))),
        ("1:16", Pattern(group=(1, 16))),
        ("4x4", Pattern(tile=(4, 4))),
        ("1x8", Pattern(tile=(1, 8))),
        ("bank:64", Pattern(bank=64)),
    ],
)
def test_spelling(text: str, pattern: Pattern) -> None:
    assert Pattern.of(text) == pattern


@pytest.mark.parametrize(
    "text", ["", "4", "4:4", "0:4", "5:4", "2:4:8", "0x4", "1x1", "bank", "bank:1", "bank:-4", "Free"]
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match=f"expected a pattern free, N:M .*, found {text!r}"):
        Pattern.of(text)


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.29, 0.5, 0.9, 1.0])
def test_free_weights_go_from_the_lowest(sparsity: float) -> None:
    mask = choose(SCORES, sparsity, Pattern())
    assert set(np.flatnonzero(~mask.reshape(-1)).tolist()) == lowest(SCORES, round(sparsity * SCORES.size))


@pytest.mark.parametrize("sparsity", [0.25, 0.29, 0.5, 0.9])
def test_free_weights_of_an_output(sparsity: float) -> None:
    mask = choose(SCORES, sparsity, Pattern(), among="output")
    for column in range(6):
        gone = set(np.flatnonzero(~mask[:, column]).tolist())
        assert gone == lowest(SCORES[:, column], round(sparsity * 16))


@pytest.mark.parametrize(("kept", "size"), [(2, 4), (1, 4), (4, 8), (1, 2), (3, 16)])
def test_groups_keep_their_highest(kept: int, size: int) -> None:
    mask = choose(SCORES, 0.123, Pattern(group=(kept, size)))
    for start in range(0, 16, size):
        for column in range(6):
            gone = set(np.flatnonzero(~mask[start : start + size, column]).tolist())
            assert gone == lowest(SCORES[start : start + size, column], size - kept)


def test_banks_lose_the_same_number_each() -> None:
    mask = choose(SCORES, 0.7, Pattern(bank=8))
    for start in (0, 8):
        for column in range(6):
            gone = set(np.flatnonzero(~mask[start : start + 8, column]).tolist())
            assert gone == lowest(SCORES[start : start + 8, column], 6)


@pytest.mark.parametrize("pool", ["max", "sum"])
def test_tiles_go_as_one(pool: str) -> None:
    mask = choose(SCORES, 0.5, Pattern(tile=(4, 3)), pool=pool)  # type: ignore[arg-type]
    found = {}
    for row in range(4):
        for column in range(2):
            part = (slice(4 * row, 4 * row + 4), slice(3 * column, 3 * column + 3))
            assert mask[part].all() or not mask[part].any()
            found[row, column] = (getattr(SCORES[part], pool)(), bool(mask[part].all()))
    gone = [score for score, kept in found.values() if not kept]
    assert len(gone) == 4
    assert max(gone) < min(score for score, kept in found.values() if kept)


@pytest.mark.parametrize(
    ("pattern", "need"),
    [
        ("2:4", "inputs in multiples of 4"),
        ("bank:4", "inputs in multiples of 4"),
        ("4x2", "inputs in multiples of 4 and outputs in multiples of 2"),
        ("2x4", "inputs in multiples of 2 and outputs in multiples of 4"),
    ],
)
def test_patterns_that_do_not_divide(pattern: str, need: str) -> None:
    with pytest.raises(ValueError, match=rf"expected a weight with {need}, found \[6, 6\]"):
        choose(np.ones((6, 6)), 0.5, Pattern.of(pattern))


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, np.nan])
def test_a_sparsity_that_is_no_share(sparsity: float) -> None:
    with pytest.raises(ValueError, match="expected a sparsity from 0 to 1"):
        choose(SCORES, sparsity, Pattern())


@pytest.mark.parametrize("among", ["weight", "output"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_an_empty_weight(shape: tuple[int, int], among: str) -> None:
    assert choose(np.ones(shape), 0.5, Pattern(), among=among).shape == shape  # type: ignore[arg-type]
