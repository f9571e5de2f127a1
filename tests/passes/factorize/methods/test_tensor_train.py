"""Tensor trains against the theory: TT-SVD keeps its bound, full ranks are the tensor, exact ranks are found."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from tensorly.decomposition import tensor_train as reference
from tersor.passes.factorize.methods.tensor_train import most, paired, ranks_within, tensor_train, tt_matrix

RNG = np.random.default_rng(0)
SHAPE = (4, 5, 6, 3)
TENSOR = RNG.standard_normal(SHAPE)
#: Of float64, beside numbers of about one.
CLOSE = 1e-12


def whole(cores: list[np.ndarray]) -> np.ndarray:
    found = cores[0]
    for core in cores[1:]:
        found = np.tensordot(found, core, 1)
    return found[0, ..., 0]


def exact(shape: tuple[int, ...], ranks: tuple[int, ...]) -> np.ndarray:
    """A tensor of these ranks."""
    ends = (1, *ranks, 1)
    return whole([RNG.standard_normal((ends[at], size, ends[at + 1])) for at, size in enumerate(shape)])


@pytest.mark.parametrize("ranks", [(1, 1, 1), (2, 3, 2), (4, 7, 3), (3, 18, 1)])
def test_the_error_is_within_the_bound_of_what_cuts_discard(ranks: tuple[int, ...]) -> None:
    cores, lost = tensor_train(TENSOR, ranks)
    # theorem 2.2
    assert np.linalg.norm(TENSOR - whole(cores)) ** 2 <= np.sum(lost**2) + CLOSE
    # the unfolding at a cut is no nearer to a matrix of its rank than by its own tail
    for at, rank in enumerate(ranks, 1):
        values = np.linalg.svd(TENSOR.reshape(np.prod(SHAPE[:at]), -1), compute_uv=False)
        assert np.linalg.norm(TENSOR - whole(cores)) >= np.linalg.norm(values[rank:]) - CLOSE


def test_one_cut_loses_the_tail_of_its_spectrum() -> None:
    matrix = RNG.standard_normal((12, 9))
    values = np.linalg.svd(matrix, compute_uv=False)
    cores, lost = tensor_train(matrix, [4])
    assert lost[0] == pytest.approx(np.linalg.norm(values[4:]))
    assert np.linalg.norm(matrix - whole(cores)) == pytest.approx(lost[0])


def test_full_ranks_are_the_tensor() -> None:
    cores, _ = tensor_train(TENSOR, most(SHAPE))
    np.testing.assert_allclose(whole(cores), TENSOR, atol=CLOSE)


def test_the_ranks_of_an_exact_train_are_found() -> None:
    tensor = exact(SHAPE, (2, 3, 2))
    assert ranks_within([tensor], tensor.size) == (2, 3, 2)
    cores, _ = tensor_train(tensor, (2, 3, 2))
    np.testing.assert_allclose(whole(cores), tensor, atol=CLOSE * np.abs(tensor).max())


def test_the_error_falls_with_the_ranks() -> None:
    errors = [np.linalg.norm(TENSOR - whole(tensor_train(TENSOR, [min(rank, m) for m in most(SHAPE)])[0]))
              for rank in range(1, 19)]  # fmt: skip
    assert all(after <= before + CLOSE for before, after in pairwise(errors))


@pytest.mark.parametrize("ranks", [(2, 3, 2), (4, 7, 3)])
def test_it_is_as_near_as_tensorlys(ranks: tuple[int, ...]) -> None:
    other = reference(TENSOR, [1, *ranks, 1])
    found = np.linalg.norm(TENSOR - whole(tensor_train(TENSOR, ranks)[0]))
    assert found == pytest.approx(np.linalg.norm(TENSOR - whole(list(other.factors))))


@pytest.mark.parametrize("share", [0.2, 0.4, 0.7])
def test_ranks_within_a_size_lose_least_by_the_bound(share: float) -> None:
    found = ranks_within([TENSOR], share * TENSOR.size)
    assert found is not None

    def held(ranks: tuple[int, ...]) -> int:
        ends = (1, *ranks, 1)
        return sum(ends[at] * size * ends[at + 1] for at, size in enumerate(SHAPE))

    spectra = [np.linalg.svd(TENSOR.reshape(np.prod(SHAPE[:at]), -1), compute_uv=False) ** 2 for at in (1, 2, 3)]

    def bound(ranks: tuple[int, ...]) -> float:
        return sum(float(each[rank:].sum()) for each, rank in zip(spectra, ranks, strict=True))

    every = [(a, b, c) for a in range(1, 5) for b in range(1, 19) for c in range(1, 4)]
    best = min(bound(each) for each in every if held(each) <= share * TENSOR.size)
    assert held(found) <= share * TENSOR.size
    assert bound(found) <= 1.02 * best


def test_no_ranks_fit_into_less_than_rank_one_takes() -> None:
    assert ranks_within([TENSOR], sum(SHAPE) - 1) is None
    assert ranks_within([TENSOR], sum(SHAPE)) == (1, 1, 1)


@pytest.mark.parametrize("modes", [((4, 6), (3, 5)), ((24, 1, 1), (1, 3, 5)), ((2, 3, 4), (3, 1, 5)), ((5, 5), (4, 4))])
def test_a_matrix_of_full_ranks_is_the_matrix(modes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    matrix = RNG.standard_normal((24, 15))
    network = tt_matrix(matrix, modes, most([i * j for i, j in zip(*modes, strict=True)]))
    np.testing.assert_allclose(network.dense(), matrix, atol=CLOSE)


def test_a_sum_of_kronecker_products_is_a_train_of_two_cores() -> None:
    matrix = sum(np.kron(RNG.standard_normal((4, 3)), RNG.standard_normal((6, 5))) for _ in range(2))
    network = tt_matrix(matrix, ((4, 6), (3, 5)), [2])
    assert network.numbers == 2 * (12 + 30)
    np.testing.assert_allclose(network.dense(), matrix, atol=CLOSE * 10)


def test_modes_are_paired_row_by_column() -> None:
    tensor = RNG.standard_normal((2, 3, 4, 5))
    found = paired(tensor, (2, 3), (4, 5))
    assert found.shape == (8, 15)
    assert found[1 * 4 + 2, 2 * 5 + 3] == tensor[1, 2, 2, 3]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: tensor_train(TENSOR, [0, 1, 1]), r"expected ranks from 1 to \[4, 18, 3\], found \[0, 1, 1\]"),
        (lambda: tensor_train(TENSOR, [5, 1, 1]), "expected ranks from 1 to"),
        (lambda: tensor_train(TENSOR, [1, 1]), "expected ranks from 1 to"),
        (lambda: tensor_train(np.array([[np.nan, 1.0]]), [1]), "NaN or infinity"),
        (lambda: tt_matrix(np.ones((24, 15)), ((4, 6), (15,)), [1]), "as many modes of rows as of columns"),
        (lambda: tt_matrix(np.ones((24, 15)), ((4, 5), (3, 5)), [1]), "expected modes of at least 24 rows"),
    ],
)
def test_bad_input_is_refused(made: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made()  # type: ignore[operator]
