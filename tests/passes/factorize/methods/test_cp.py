"""CP against known sums of products: exact ones are found, errors never grow, nothing is singular."""

from __future__ import annotations

import numpy as np
import pytest
from tensorly.decomposition import parafac
from tersor.passes.factorize.methods.cp import cp, most, product

RNG = np.random.default_rng(2)
SHAPE = (7, 8, 9)
TENSOR = RNG.standard_normal(SHAPE)


def exact(rank: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return product([RNG.standard_normal((size, rank)) for size in shape])


def error(tensor: np.ndarray, rank: int, **options: int) -> float:
    return float(np.linalg.norm(tensor - product(cp(tensor, rank, **options))) / np.linalg.norm(tensor))


@pytest.mark.parametrize("shape", [(7, 8, 9), (5, 3, 3, 6), (4, 3, 2, 3, 5)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_sum_of_so_many_products_is_found(rank: int, shape: tuple[int, ...]) -> None:
    assert error(exact(rank, shape), rank, rounds=500) < 1e-4


def test_full_rank_is_the_tensor() -> None:
    tensor = RNG.standard_normal((3, 4, 5))
    assert error(tensor, most(tensor.shape), rounds=500) < 1e-5


def test_the_error_falls_with_the_rank_and_with_rounds() -> None:
    by_rank = [error(TENSOR, rank, rounds=200) for rank in (1, 4, 16, 40)]
    assert sorted(by_rank, reverse=True) == by_rank
    by_rounds = [error(TENSOR, 5, starts=1, rounds=rounds) for rounds in (1, 3, 10, 40)]
    assert sorted(by_rounds, reverse=True) == by_rounds


def test_a_matrix_is_as_near_as_its_spectrum_allows() -> None:
    matrix = RNG.standard_normal((9, 7))
    values = np.linalg.svd(matrix, compute_uv=False)
    assert error(matrix, 3, rounds=2000) == pytest.approx(np.linalg.norm(values[3:]) / np.linalg.norm(values), rel=1e-3)


def test_it_is_as_near_as_tensorlys() -> None:
    weights, factors = parafac(TENSOR, 10, n_iter_max=500, init="svd", random_state=0, tol=1e-9)
    other = np.linalg.norm(TENSOR - product([factors[0] * weights, *factors[1:]])) / np.linalg.norm(TENSOR)
    assert error(TENSOR, 10, rounds=500) <= 1.01 * other


def test_collinear_factors_are_not_singular() -> None:
    # where plain normal equations have no solution
    np.testing.assert_allclose(product(cp(np.ones(SHAPE), 3)), np.ones(SHAPE), atol=1e-5)
    assert not product(cp(np.zeros(SHAPE), 2)).any()


def test_the_seed_draws_the_starts() -> None:
    first, again = cp(TENSOR, 12, starts=3, seed=1), cp(TENSOR, 12, starts=3, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_columns_are_as_long_on_every_axis() -> None:
    lengths = [np.linalg.norm(factor, axis=0) for factor in cp(1000 * TENSOR, 4)]
    assert np.allclose(lengths[0], lengths[1]) and np.allclose(lengths[0], lengths[2])


@pytest.mark.parametrize("rank", [0, 57])
def test_ranks_of_nothing_and_above_full_are_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="expected a rank from 1 to 56"):
        cp(TENSOR, rank)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        cp(np.full((2, 2, 2), np.inf), 1)
