"""Low-rank factors against the theory: what is lost is the tail of the spectrum, and no other factors lose less."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.numerics.low_rank import LowRank, Side, spectrum

RNG = np.random.default_rng(0)
IN, OUT = 12, 9
#: Known singular values, so that every error is known.
VALUES = np.array([9.0, 7.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.25])
WEIGHT = np.linalg.qr(RNG.standard_normal((IN, OUT)))[0] * VALUES @ np.linalg.qr(RNG.standard_normal((OUT, OUT)))[0]
INPUTS = RNG.standard_normal((70, IN)) * np.exp(RNG.standard_normal(IN))
GRAM = INPUTS.T @ INPUTS
GRADIENTS = RNG.standard_normal((50, OUT)) * np.exp(RNG.standard_normal(OUT))
OUTPUT = GRADIENTS.T @ GRADIENTS
SCALES = np.exp(RNG.standard_normal(IN))
#: Of sums of squares in float64 on matrices whose condition number is below 1e5.
CLOSE = 1e-8
RANKS = [1, 2, 5, OUT - 1]


def _weighed(error: np.ndarray, inputs: np.ndarray | None, outputs: np.ndarray | None) -> float:
    """|L E R|^2 without a root of any matrix."""
    left = np.eye(IN) if inputs is None else np.diag(inputs**2) if inputs.ndim == 1 else inputs
    right = np.eye(OUT) if outputs is None else outputs
    return float(np.trace(error.T @ left @ error @ right))


KINDS = [(None, None), (SCALES, None), (GRAM, None), (GRAM, OUTPUT), (None, OUTPUT)]
NAMES = ["svd", "scaled", "whitened", "kronecker", "outputs"]


@pytest.mark.parametrize(("inputs", "outputs"), KINDS, ids=NAMES)
def test_all_of_the_spectrum_is_the_weight(inputs: np.ndarray | None, outputs: np.ndarray | None) -> None:
    found = spectrum(WEIGHT, inputs=inputs, outputs=outputs)
    np.testing.assert_allclose(found.factors(found.most).dense(), WEIGHT, rtol=0, atol=CLOSE)
    assert found.lost[-1] == 0
    assert found.most == OUT


@pytest.mark.parametrize("rank", RANKS)
def test_of_a_known_spectrum_the_tail_is_lost(rank: int) -> None:
    found = spectrum(WEIGHT)
    assert found.lost[rank] == pytest.approx(np.sum(VALUES[rank:] ** 2))
    assert np.sum((WEIGHT - found.factors(rank).dense()) ** 2) == pytest.approx(np.sum(VALUES[rank:] ** 2))


@pytest.mark.parametrize(("inputs", "outputs"), KINDS, ids=NAMES)
@pytest.mark.parametrize("rank", RANKS)
def test_what_is_lost_is_the_error_as_it_is_weighed(
    rank: int, inputs: np.ndarray | None, outputs: np.ndarray | None
) -> None:
    found = spectrum(WEIGHT, inputs=inputs, outputs=outputs)
    error = WEIGHT - found.factors(rank).dense()
    assert found.lost[rank] == pytest.approx(_weighed(error, inputs, outputs), rel=CLOSE)


@pytest.mark.parametrize(("inputs", "outputs"), KINDS, ids=NAMES)
@pytest.mark.parametrize("weighed", [(None, None), (GRAM, None), (GRAM, OUTPUT)], ids=["plain", "inputs", "both"])
def test_an_error_is_weighed_by_others(
    weighed: tuple[np.ndarray | None, np.ndarray | None], inputs: np.ndarray | None, outputs: np.ndarray | None
) -> None:
    found = spectrum(WEIGHT, inputs=inputs, outputs=outputs)
    lost = found.weighed(*weighed)
    assert lost.shape == (OUT + 1,)
    wanted = [_weighed(WEIGHT - (found.factors(rank).dense() if rank else 0), *weighed) for rank in range(OUT + 1)]
    np.testing.assert_allclose(lost, wanted, rtol=CLOSE, atol=CLOSE * wanted[0])


def test_whitened_is_the_least_error_of_the_outputs_on_the_data() -> None:
    error = INPUTS @ (WEIGHT - spectrum(WEIGHT, inputs=GRAM).factors(3).dense())
    assert spectrum(WEIGHT, inputs=GRAM).lost[3] == pytest.approx(np.sum(error**2), rel=CLOSE)
    plain = INPUTS @ (WEIGHT - spectrum(WEIGHT).factors(3).dense())
    assert np.sum(error**2) < 0.9 * np.sum(plain**2)


@pytest.mark.parametrize(("inputs", "outputs"), KINDS, ids=NAMES)
@pytest.mark.parametrize("rank", RANKS)
def test_no_competitor_of_that_rank_loses_less(
    rank: int, inputs: np.ndarray | None, outputs: np.ndarray | None
) -> None:
    found = spectrum(WEIGHT, inputs=inputs, outputs=outputs)
    best = found.factors(rank)
    rng = np.random.default_rng(rank)
    for size in (1e-3, 1e-2, 1e-1, 1.0) * 20:
        left = best.left + size * rng.standard_normal(best.left.shape)
        right = best.right + size * rng.standard_normal(best.right.shape)
        # the best right factor beside that left one, which is a stronger competitor than any drawn
        for other in (LowRank(left, right), LowRank(left, np.linalg.lstsq(left, WEIGHT, rcond=None)[0])):
            assert _weighed(WEIGHT - other.dense(), inputs, outputs) >= found.lost[rank] * (1 - CLOSE)


def test_factors_meet_at_equal_lengths() -> None:
    found = spectrum(WEIGHT, inputs=GRAM, outputs=OUTPUT).factors(4)
    np.testing.assert_allclose(np.linalg.norm(found.left, axis=0), np.linalg.norm(found.right, axis=1))


def test_a_weight_of_low_rank_is_found_whole() -> None:
    weight = RNG.standard_normal((IN, 3)) @ RNG.standard_normal((3, OUT))
    found = spectrum(weight, inputs=GRAM)
    assert found.rank_of(1.0) == 3
    np.testing.assert_allclose(found.factors(3).dense(), weight, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("energy", [0.1, 0.5, 0.9, 0.99, 1.0])
def test_the_rank_of_an_energy_is_the_least_that_keeps_it(energy: float) -> None:
    squares = VALUES**2 / np.sum(VALUES**2)
    wanted = next(rank for rank in range(1, OUT + 1) if squares[:rank].sum() >= energy - 1e-12)
    assert spectrum(WEIGHT).rank_of(energy) == wanted


def test_inputs_that_never_were_are_solved_for() -> None:
    dead = GRAM.copy()
    dead[3], dead[:, 3] = 0, 0
    found = spectrum(WEIGHT, inputs=dead).factors(OUT)
    assert np.isfinite(found.left).all()
    live = np.delete(np.arange(IN), 3)
    np.testing.assert_allclose(found.dense()[live], WEIGHT[live], rtol=0, atol=1e-4)
    scales = SCALES.copy()
    scales[3] = 0
    np.testing.assert_allclose(spectrum(WEIGHT, inputs=scales).factors(OUT).dense(), WEIGHT, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("rank", [0, -1, OUT + 1])
def test_ranks_of_nothing_and_above_full_are_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"expected a rank from 1 to {OUT}, found {rank}"):
        spectrum(WEIGHT).factors(rank)


@pytest.mark.parametrize("energy", [0, 1.5, -1])
def test_energies_of_nothing_and_above_one_are_refused(energy: float) -> None:
    with pytest.raises(ValueError, match="share of energy"):
        spectrum(WEIGHT).rank_of(energy)


def test_importances_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="importance"):
        spectrum(WEIGHT, inputs=-SCALES)
    with pytest.raises(ValueError, match="Gram matrix"):
        spectrum(WEIGHT, inputs=-GRAM)
    with pytest.raises(ValueError, match="not symmetric"):
        spectrum(WEIGHT, outputs=np.triu(OUTPUT))


@pytest.mark.parametrize("importance", [None, SCALES, GRAM])
@pytest.mark.parametrize("turned", [False, True])
def test_a_side_is_solved_for_either_way(importance: np.ndarray | None, turned: bool) -> None:
    side = Side.of(importance, IN)
    root = side.times(np.eye(IN))
    found = side.solve(WEIGHT, turned=turned)
    np.testing.assert_allclose((root.T if turned else root) @ found, WEIGHT, rtol=0, atol=CLOSE)
