"""Bases that weights share, against the theory: what is lost is what is weighed, and no other basis loses less."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.numerics.bases import bases
from tersor.passes.numerics.low_rank import spectrum

RNG = np.random.default_rng(0)
IN, OUT, COUNT = 12, 9, 3
WEIGHTS = [RNG.standard_normal((IN, OUT + at)) for at in range(COUNT)]
#: Gram matrices of inputs of different scales, and of derivatives.
GRAMS = [x.T @ x for x in (RNG.standard_normal((70, IN)) * np.exp(RNG.standard_normal(IN)) for _ in range(COUNT))]
OUTPUTS = [g.T @ g for g in (RNG.standard_normal((50, OUT + at)) for at in range(COUNT))]
#: Of sums of squares in float64 on matrices whose condition number is below 1e5.
CLOSE = 1e-8
RANKS = [1, 5, 11, IN]


def _error(at: int, left: np.ndarray, right: np.ndarray) -> float:
    error = WEIGHTS[at] - left @ right
    return float(np.trace(error.T @ GRAMS[at] @ error @ OUTPUTS[at]))


@pytest.mark.parametrize("rank", RANKS)
def test_what_is_lost_is_the_error_as_it_is_weighed(rank: int) -> None:
    found = bases(WEIGHTS, inputs=GRAMS, outputs=OUTPUTS)
    left, rights = found.factors(rank)
    assert left.shape == (IN, rank)
    scale = found.lost[:, 0]
    for at, right in enumerate(rights):
        assert _error(at, left, right) == pytest.approx(found.lost[at, rank], rel=1e-6, abs=CLOSE * scale[at])


def test_all_of_the_basis_is_the_weights() -> None:
    left, rights = bases(WEIGHTS, inputs=GRAMS).factors(IN)
    for weight, right in zip(WEIGHTS, rights, strict=True):
        np.testing.assert_allclose(left @ right, weight, rtol=0, atol=CLOSE)


def test_of_one_weight_it_is_the_spectrum() -> None:
    found = bases(WEIGHTS[:1], inputs=GRAMS[:1], outputs=OUTPUTS[:1])
    known = spectrum(WEIGHTS[0], inputs=GRAMS[0], outputs=OUTPUTS[0])
    np.testing.assert_allclose(found.lost[0], known.lost, rtol=1e-6, atol=CLOSE * known.lost[0])


def test_of_one_gram_matrix_it_is_the_spectrum_of_all_side_by_side() -> None:
    found = bases(WEIGHTS, inputs=[GRAMS[0]] * COUNT)
    known = spectrum(np.concatenate(WEIGHTS, 1), inputs=GRAMS[0])
    np.testing.assert_allclose(found.lost.sum(0), known.lost, rtol=1e-6, atol=CLOSE * known.lost[0])


def test_weights_of_one_basis_lose_nothing_from_its_rank_on() -> None:
    basis = RNG.standard_normal((IN, 4))
    found = bases([basis @ RNG.standard_normal((4, OUT)) for _ in range(COUNT)], inputs=GRAMS)
    assert (found.lost[:, 4] <= CLOSE * found.lost[:, 0]).all()
    assert (found.lost[:, 3] > CLOSE * found.lost[:, 0]).any()


def test_more_columns_never_lose_more() -> None:
    found = bases(WEIGHTS, inputs=GRAMS, outputs=OUTPUTS)
    assert (np.diff(found.lost, axis=1) <= CLOSE * found.lost[:, :1]).all()


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_for_one_gram_matrix_no_other_basis_loses_less(rank: int) -> None:
    found = bases(WEIGHTS, inputs=[GRAMS[0]] * COUNT)
    root = np.linalg.cholesky(GRAMS[0]).T
    for _ in range(50):
        other = found.factors(rank)[0] + 0.1 * RNG.standard_normal((IN, rank))
        around = np.linalg.qr(root @ other)[0]
        lost = sum(np.sum((root @ w) ** 2) - np.sum((around.T @ root @ w) ** 2) for w in WEIGHTS)
        assert lost >= found.lost[:, rank].sum() * (1 - CLOSE)


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_each_part_is_the_best_for_the_basis_on_its_own_inputs(rank: int) -> None:
    left, rights = bases(WEIGHTS, inputs=GRAMS).factors(rank)
    for gram, weight, right in zip(GRAMS, WEIGHTS, rights, strict=True):
        # normal equations: B.T G (W - B C) == 0
        slope = left.T @ gram @ (weight - left @ right)
        assert np.abs(slope).max() <= CLOSE * np.abs(left.T @ gram @ weight).max()


def test_the_first_weights_alone_decide_the_basis() -> None:
    found = bases(WEIGHTS, leading=1)
    alone = bases(WEIGHTS[:1])
    np.testing.assert_allclose(found.lost[0, : alone.most + 1], alone.lost[0], rtol=1e-6, atol=CLOSE)
    assert found.most == OUT
    # Prabhavalkar et al.: P has orthonormal rows, and the weight above is W P.T P
    around = np.linalg.svd(WEIGHTS[0])[0][:, :4]
    left, rights = found.factors(4)
    np.testing.assert_allclose(left @ rights[1], around @ around.T @ WEIGHTS[1], rtol=0, atol=CLOSE)


def test_a_singular_gram_matrix_is_damped() -> None:
    narrow = RNG.standard_normal((3, IN))
    left, rights = bases(WEIGHTS, inputs=[narrow.T @ narrow] * COUNT).factors(3)
    for weight, right in zip(WEIGHTS, rights, strict=True):
        assert np.linalg.norm(narrow @ (weight - left @ right)) <= 1e-3 * np.linalg.norm(narrow @ weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": []}, "expected weights of one number of inputs"),
        ({"weights": [np.ones((3, 2)), np.ones((4, 2))]}, "expected weights of one number of inputs"),
        ({"weights": [np.full((3, 2), np.nan)]}, "NaN"),
        ({"weights": [np.ones((3, 2))], "inputs": []}, "expected a Gram matrix for each"),
        ({"weights": [np.ones((3, 2))], "inputs": [np.eye(4)]}, "expected a Gram matrix"),
        ({"weights": [np.ones((3, 2))], "inputs": [np.full((3, 3), np.nan)]}, "NaN"),
    ],
)
def test_bad_input_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bases(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [0, -1, IN + 1])
def test_ranks_that_there_are_not_are_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="expected a rank from 1 to 12"):
        bases(WEIGHTS).factors(rank)
