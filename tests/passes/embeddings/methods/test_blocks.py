"""Tables as products by how much each word counts: errors as theory has them, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from tersor.passes.embeddings.methods.blocks import Part, RoomError, blocks, whole

#: What rounding leaves of a squared error in float64, relative to the squares that it is the rest of.
ROUNDING = 1e-12


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


T, WEIGHTS = normal(300, 16), np.random.default_rng(1).pareto(1.0, 300)
X = normal(50, 16) @ normal(16, 16, seed=1)


def table_of(parts: Sequence[Part], words: int = 300) -> np.ndarray:
    found = np.full((words, 16), np.nan)
    for part in parts:
        found[part.members] = part.dense()
    return found


def error(dense: np.ndarray, weights: np.ndarray = WEIGHTS) -> float:
    return float((weights * np.square(T - dense).sum(1)).sum())


def numbers(parts: Sequence[Part], extra: int = 0) -> int:
    return sum(
        (len(part.left) + extra) * part.left.shape[1] + (0 if part.right is None else part.right.size) for part in parts
    )


def counted_bands(*ranks: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs of 100 words of these ranks, and weights that fall from run to run."""
    runs = [normal(100, rank, seed=rank) @ normal(rank, 16, seed=rank) for rank in ranks]
    return np.concatenate(runs), np.repeat(10.0 ** -np.arange(len(ranks)), 100)


@pytest.mark.parametrize("rank", [1, 3, 8, 15, 16])
def test_the_error_is_what_is_left_of_the_weighted_spectrum(rank: int) -> None:
    values = np.linalg.svd(np.sqrt(WEIGHTS)[:, None] * T, compute_uv=False)
    left = float(np.square(values[rank:]).sum())
    assert abs(error(whole(T, WEIGHTS, rank).dense()) - left) <= ROUNDING * np.square(values).sum()


def test_no_other_product_of_that_rank_loses_less() -> None:
    best, rng = error(whole(T, WEIGHTS, 4).dense()), np.random.default_rng(2)
    part = whole(T, WEIGHTS, 4)
    assert part.right is not None
    for scale in (1e-3, 1e-2, 1e-1, 1.0):
        for _ in range(25):
            right = part.right + scale * rng.standard_normal(part.right.shape)
            left = T @ np.linalg.pinv(right)
            assert error(left @ right) >= best * (1 - ROUNDING)
    assert best < error(whole(T, np.ones(300), 4).dense()), "words that count more are closer than without weights"


def test_scores_are_closest_by_their_metric() -> None:
    def lost(part: Part) -> float:
        return float(np.square(X @ (T - part.dense()).T).sum())

    metric = X.T @ X
    found, values = whole(T, np.ones(300), 5, metric=metric), np.linalg.svd(X @ T.T, compute_uv=False)
    # the Gram matrix is damped
    assert lost(found) == pytest.approx(np.square(values[5:]).sum(), rel=1e-2)
    assert lost(found) < lost(whole(T, np.ones(300), 5))
    whole(T, np.ones(300), 5, metric=np.zeros((16, 16)))


def test_full_rank_is_the_table() -> None:
    assert np.allclose(whole(T, WEIGHTS, 16).dense(), T, rtol=0, atol=1e-12)
    assert np.allclose(whole(T, WEIGHTS, 16, metric=X.T @ X).dense(), T, rtol=0, atol=1e-8)
    (few,) = blocks(T[:5], WEIGHTS[:5], 1, 5 * 16)
    assert few.right is None
    assert np.array_equal(few.dense(), T[few.members])


def test_more_numbers_never_lose_more() -> None:
    errors = [error(table_of(blocks(T, WEIGHTS, 4, room))) for room in range(400, 4801, 400)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0, "with room for all its rows a table stays as it is"


@pytest.mark.parametrize(("count", "refine", "extra"), [(1, 0, 0), (2, 0, 2), (4, 5, 2), (5, 5, 0), (20, 0, 0)])
def test_every_word_lies_in_one_block_and_all_within_the_room(count: int, refine: int, extra: int) -> None:
    parts = blocks(T, WEIGHTS, count, 4000, refine=refine, extra=extra)
    assert sorted(np.concatenate([part.members for part in parts])) == list(range(300))
    assert numbers(parts, extra) <= 4000
    assert len(parts) <= count
    assert np.isfinite(table_of(parts)).all()


def test_the_first_block_has_the_words_that_count_most() -> None:
    parts = blocks(T, WEIGHTS, 4, 2400)
    sizes = [len(part.members) for part in parts]
    assert sizes == [37, 38, 75, 150]
    bounds = [WEIGHTS[part.members] for part in parts]
    assert all(one.min() >= other.max() for one, other in pairwise(bounds))
    ranks = [part.left.shape[1] for part in parts]
    assert ranks == sorted(ranks, reverse=True)


def test_words_that_all_count_the_same_lie_in_their_order() -> None:
    parts = blocks(T, np.ones(300), 3, 2400)
    assert np.array_equal(np.concatenate([part.members for part in parts]), np.arange(300))


def test_ranks_are_those_of_the_blocks() -> None:
    table, weights = counted_bands(7, 2, 4)
    order = np.argsort(-weights, kind="stable")
    parts = blocks(table, weights, 3, 75 * 7 + 75 * 7 + 150 * 6 + 3 * 16 * 7)
    assert np.array_equal(np.concatenate([part.members for part in parts]), order)
    best = blocks(T, WEIGHTS, 2, 2000)
    tried = []
    for first in range(1, 17):
        for second in range(1, 17):
            if (150 + 16) * (first + second) <= 2000:
                members = [part.members for part in best]
                tried.append(
                    sum(
                        error_of(each, whole(T[each], WEIGHTS[each], rank))
                        for each, rank in zip(members, (first, second), strict=True)
                    )
                )
    assert error(table_of(best)) == pytest.approx(min(tried), rel=1e-9)


def error_of(members: np.ndarray, part: Part) -> float:
    return float((WEIGHTS[members] * np.square(T[members] - part.dense()).sum(1)).sum())


def test_words_move_to_the_block_that_they_belong_to() -> None:
    planes = [normal(128, 2, seed=seed) @ normal(2, 16, seed=seed) for seed in (3, 4)]
    table = np.concatenate(planes)
    wrong = np.arange(0, 128, 9)
    table[[*wrong, *(wrong + 128)]] = table[[*(wrong + 128), *wrong]]
    kept, moved = (blocks(table, np.ones(256), 2, (128 + 16) * 2 * 2, refine=refine) for refine in (0, 20))

    def lost(parts: Sequence[Part]) -> float:
        return float(sum(np.square(table[part.members] - part.dense()).sum() for part in parts))

    assert lost(kept) > 0.01 * np.square(table).sum()
    assert lost(moved) <= ROUNDING * np.square(table).sum()
    assert {frozenset(part.members) for part in moved} == {
        frozenset([*np.setdiff1d(np.arange(side, side + 128), wrong + side), *(wrong + 128 - side)])
        for side in (0, 128)
    }


@pytest.mark.parametrize("weights", [WEIGHTS, np.ones(300)])
@pytest.mark.parametrize("room", [1200, 2400, 3600])
def test_moving_never_loses_more(weights: np.ndarray, room: int) -> None:
    errors = [error(table_of(blocks(T, weights, 4, room, refine=refine)), weights) for refine in range(6)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] or errors[1] == errors[0]


def test_a_padding_row_stays_zero_and_unseen_words_are_finite() -> None:
    table, weights = T.copy(), WEIGHTS.copy()
    table[7] = 0
    weights[100:] = 0
    found = whole(table, weights, 4).dense()
    assert not found[7].any()
    assert np.linalg.norm(found[100:]) <= np.linalg.norm(table[100:])
    parts = blocks(table, weights, 4, 2400, refine=3)
    assert not table_of(parts)[7].any()
    assert np.isfinite(table_of(blocks(table, np.zeros(300), 4, 2400))).all()


@pytest.mark.parametrize("rank", [0, -1, 17])
def test_refuses_ranks_that_there_are_not(rank: int) -> None:
    with pytest.raises(ValueError, match="a rank from 1 to 16"):
        whole(T, WEIGHTS, rank)


def test_refuses_what_is_no_table_of_numbers() -> None:
    holes = T.copy()
    holes[3, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        whole(holes, WEIGHTS, 4)
    with pytest.raises(ValueError, match="axes"):
        whole(T[0], WEIGHTS, 1)
    for weights, told in (
        (WEIGHTS[1:], "300 numbers"),
        (-WEIGHTS, "at least 0"),
        (np.full(300, np.inf), "infinity"),
    ):
        with pytest.raises(ValueError, match=told):
            whole(T, weights, 4)
    with pytest.raises(ValueError, match="blocks"):
        blocks(T, WEIGHTS, 0, 2400)
    with pytest.raises(ValueError, match="blocks"):
        blocks(T, WEIGHTS, 301, 2400)
    with pytest.raises(RoomError, match="room for at least 364"):
        blocks(T, WEIGHTS, 4, 363)
    with pytest.raises(ValueError, match="Gram"):
        whole(T, WEIGHTS, 4, metric=-np.eye(16))
