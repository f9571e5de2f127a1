"""Tucker and block terms against the theory: exact ranks, the bound of HOSVD, errors that never grow."""

from __future__ import annotations

import sys
from itertools import pairwise

import numpy as np
import pytest
from tersor.ir.errors import UnsupportedError
from tersor.passes.factorize.methods.block_term import block_term, dense, factors
from tersor.passes.factorize.methods.network import summed
from tersor.passes.factorize.methods.tucker import Tucker, feasible, held, most, ranks_within, tucker

RNG = np.random.default_rng(1)
SHAPE = (6, 7, 8)
TENSOR = RNG.standard_normal(SHAPE)
CLOSE = 1e-10


def exact(ranks: tuple[int, ...], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    bases = tuple(np.linalg.qr(RNG.standard_normal((size, rank)))[0] for size, rank in zip(shape, ranks, strict=True))
    return Tucker(RNG.standard_normal(ranks), bases).dense()


def tail(axis: int, rank: int, tensor: np.ndarray = TENSOR) -> float:
    """What the spectrum of an unfolding has left."""
    values = np.linalg.svd(np.moveaxis(tensor, axis, 0).reshape(tensor.shape[axis], -1), compute_uv=False)
    return float(np.sum(values[rank:] ** 2))


@pytest.mark.parametrize("ranks", [(2, 3, 2), (6, 2, 4), (1, 1, 1)])
def test_a_tensor_of_these_ranks_is_found(ranks: tuple[int, ...]) -> None:
    tensor = exact(ranks)
    found = tucker(tensor, ranks)
    np.testing.assert_allclose(found.dense(), tensor, atol=CLOSE)
    assert all(base is None or np.allclose(base.T @ base, np.eye(base.shape[1])) for base in found.bases)


@pytest.mark.parametrize("ranks", [(2, 3, 2), (3, 5, 4), (5, 7, 8), (1, 1, 1)])
def test_the_error_lies_between_the_bounds_of_the_unfoldings(ranks: tuple[int, ...]) -> None:
    error = float(np.sum((TENSOR - tucker(TENSOR, ranks).dense()) ** 2))
    tails = [tail(axis, rank) for axis, rank in enumerate(ranks)]
    assert max(tails) - CLOSE <= error <= sum(tails) + CLOSE


def test_the_core_is_the_tensor_seen_from_the_bases() -> None:
    found = tucker(TENSOR, (3, 4, 5))
    error = float(np.sum((TENSOR - found.dense()) ** 2))
    # bases are orthonormal: |A|^2 = |G|^2 + |A - ..|^2
    assert error == pytest.approx(float(np.sum(TENSOR**2) - np.sum(found.core**2)))


@pytest.mark.parametrize("seed", [94, 294, 404])
def test_a_spectrum_with_a_gap_is_taken_apart(seed: int) -> None:
    # what other blocks leave: some numpy wheels' LAPACK does not converge on these
    whole = np.random.default_rng(seed).standard_normal((128, 128))
    left, values, right = np.linalg.svd(whole)
    matrix = whole - (left[:, 16:32] * values[16:32]) @ right[16:32]
    error = float(np.sum((matrix - tucker(matrix, (16, 128)).dense()) ** 2))
    assert error == pytest.approx(float(np.sum(values[32:] ** 2)))


def test_full_ranks_are_the_tensor() -> None:
    assert np.array_equal(tucker(TENSOR, SHAPE).dense(), TENSOR)


def test_an_axis_of_full_rank_has_no_basis() -> None:
    found = tucker(TENSOR, (6, 3, 8))
    assert [base is None for base in found.bases] == [True, False, True]
    assert held(SHAPE, (6, 3, 8)) == found.core.size + 7 * 3


def test_zeros_stay_zeros() -> None:
    assert not tucker(np.zeros(SHAPE), (2, 2, 2)).dense().any()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_ranks_keep_their_size(share: float) -> None:
    ranks = ranks_within([TENSOR], share * TENSOR.size)
    assert ranks is not None and held(SHAPE, ranks) <= share * TENSOR.size


def test_axes_can_be_left_whole() -> None:
    ranks = ranks_within([TENSOR], 0.4 * TENSOR.size, kept=[1])
    assert ranks is not None and ranks[1] == 7
    assert ranks_within([TENSOR], 5) is None


@pytest.mark.parametrize("ranks", [[0, 1, 1], [7, 1, 1], [1, 1]])
def test_ranks_of_nothing_and_above_full_are_refused(ranks: list[int]) -> None:
    with pytest.raises(ValueError, match="expected ranks from 1 to"):
        tucker(TENSOR, ranks)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        tucker(np.full((2, 2, 2), np.nan), [1, 1, 1])


def test_a_core_has_no_more_ranks_than_columns() -> None:
    assert feasible([9, 2, 3]) == (6, 2, 3)
    assert feasible([2, 5, 2], kept=[1]) == (2, 5, 2)
    assert most((4, 3, 20)) == [4, 3, 12]


def test_without_tensorly_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorly", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'tersor\[tensorly\]'"):
        tucker(TENSOR, [2, 2, 2])


def test_blocks_of_a_sum_are_found() -> None:
    # of blocks whose bases are orthogonal the decomposition is unique
    bases = [np.linalg.qr(RNG.standard_normal((8, 8)))[0] for _ in range(3)]
    tensor = sum(
        scale * Tucker(RNG.standard_normal((2, 2, 2)), tuple(base[:, at : at + 2] for base in bases)).dense()
        for at, scale in ((0, 5.0), (2, 1.0))
    )
    found = block_term(tensor, [2, 2, 2], 2, sweeps=50)
    assert np.linalg.norm(tensor - dense(found)) < 1e-3 * np.linalg.norm(tensor)


def test_more_sweeps_and_more_blocks_never_lose_more() -> None:
    def error(blocks: int, sweeps: int) -> float:
        return float(np.sum((TENSOR - dense(block_term(TENSOR, [2, 2, 2], blocks, sweeps=sweeps))) ** 2))

    by_sweeps = [error(3, sweeps) for sweeps in range(5)]
    assert all(after <= before + CLOSE for before, after in pairwise(by_sweeps))
    by_blocks = [error(blocks, 0) for blocks in range(1, 5)]
    assert all(after <= before + CLOSE for before, after in pairwise(by_blocks))


def test_one_block_is_a_tucker_decomposition() -> None:
    (only,) = block_term(TENSOR, [2, 3, 2], 1)
    assert np.linalg.norm(TENSOR - only.dense()) == pytest.approx(
        np.linalg.norm(TENSOR - tucker(TENSOR, [2, 3, 2]).dense()), rel=1e-3
    )


def test_blocks_side_by_side_are_their_sum() -> None:
    found = block_term(TENSOR, [2, 7, 3], 2)
    network = factors(found, ["x", "y", "z"])
    np.testing.assert_allclose(summed(network, ("x", "y", "z")), dense(found), atol=CLOSE)


def test_no_block_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        block_term(TENSOR, [1, 1, 1], 0)
