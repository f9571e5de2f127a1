"""Sums of scaled signs against the papers' algorithms, written number by number."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tersor.passes.quantize.methods import multibinary
from tersor.passes.quantize.methods.binary import binary_weight
from tersor.passes.quantize.methods.multibinary import alternating, greedy, online, refined
from tersor.passes.weights import Planes

MATRICES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 3)), elements=st.floats(-8, 8, width=32)
)
FEWER = settings(deadline=None, max_examples=50)
EPS = float(np.finfo(np.float32).eps)
NORMAL = np.random.default_rng(0).standard_normal((60, 5))
METHODS = {"greedy": greedy, "refined": refined, "alternating": alternating, "online": online}


def losses(weight: NDArray[np.generic], found: Planes) -> NDArray[np.float64]:
    """The squared error of each output, of the scales as they are stored."""
    levels = np.where(found.signs, found.scale.astype(np.float64), -found.scale.astype(np.float64)).sum(0)
    return np.asarray(((weight.astype(np.float64) - levels) ** 2).sum(0))


def slack(weight: NDArray[np.generic]) -> NDArray[np.float64]:
    """Scales are rounded to float32: a relative error of a few eps in every number."""
    return np.asarray(16 * EPS * (weight.astype(np.float64) ** 2).sum(0) + np.finfo(np.float32).tiny)


def naive_greedy(numbers: NDArray[np.float64], planes: int) -> NDArray[np.float64]:
    """Guo 2017, algorithm 1: b = sgn(rest), a = <b, rest> / n, rest -= a b."""
    rest = numbers.copy()
    for _ in range(planes):
        signs = np.where(rest >= 0, 1.0, -1.0)
        rest = rest - signs * (signs @ rest) / len(rest)
    return numbers - rest


def naive_refined(numbers: NDArray[np.float64], planes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Guo 2017, algorithm 2: b = sgn(rest), all scales anew by least squares. Scales and codes [planes, n]."""
    codes, rest, scales = np.zeros((0, len(numbers))), numbers, np.zeros(0)
    for _ in range(planes):
        codes = np.vstack([codes, np.where(rest >= 0, 1.0, -1.0)])
        scales = np.linalg.lstsq(codes.T, numbers)[0]
        rest = numbers - scales @ codes
    return scales, codes


def naive_alternating(numbers: NDArray[np.float64], codes: NDArray[np.float64], rounds: int) -> NDArray[np.float64]:
    """Xu 2018, algorithm 2: scales by least squares, then the nearest of all levels, and again."""
    patterns = np.array(list(product((-1.0, 1.0), repeat=len(codes))))
    for _ in range(rounds):
        scales = np.linalg.lstsq(codes.T, numbers)[0]
        codes = patterns[np.abs(numbers[:, None] - patterns @ scales).argmin(1)].T
    return np.asarray(scales @ codes)


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_greedy_is_the_papers(planes: int) -> None:
    found = greedy(NORMAL, planes).dense()
    for column, numbers in enumerate(NORMAL.T):
        np.testing.assert_allclose(found[:, column], naive_greedy(numbers, planes), rtol=0, atol=1e3 * 2.0**-52)


@pytest.mark.parametrize("planes", [1, 2, 3, 4])
def test_refined_is_the_papers_or_greedy_where_that_is_nearer(planes: int) -> None:
    found = refined(NORMAL, planes).dense()
    for column, numbers in enumerate(NORMAL.T):
        scales, codes = naive_refined(numbers, planes)
        options = [scales @ codes, naive_greedy(numbers, planes)]
        best = min(options, key=lambda option: float(((numbers - option) ** 2).sum()))
        np.testing.assert_allclose(found[:, column], best, rtol=0, atol=1e3 * 2.0**-52)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_alternation_is_the_papers(rounds: int) -> None:
    """Of two planes, from the better of two starts, which are one: one plane is its own fixed point."""
    found = alternating(NORMAL, 2, iterations=rounds).dense()
    for column, numbers in enumerate(NORMAL.T):
        wanted = naive_alternating(numbers, naive_refined(numbers, 2)[1], rounds)
        np.testing.assert_allclose(found[:, column], wanted, rtol=0, atol=1e3 * 2.0**-52)


def test_online_is_greedy_and_two_alternations() -> None:
    found = online(NORMAL.T, 2)
    assert found.scale.shape == (2, 5, 1)
    for row, numbers in enumerate(NORMAL.T):
        # greedy's second plane is refined's: both cut the rest of one plane
        wanted = naive_alternating(numbers, naive_refined(numbers, 2)[1], 2)
        np.testing.assert_allclose(found.dense()[row], wanted, rtol=0, atol=1e3 * 2.0**-52)
    np.testing.assert_array_equal(online(NORMAL.T, 3, iterations=0).dense(), greedy(NORMAL, 3).dense().T)


@FEWER
@given(MATRICES, st.integers(1, 4))
def test_each_algorithm_is_no_worse_than_the_one_before(weight: NDArray[np.float32], planes: int) -> None:
    first, second, third = (losses(weight, method(weight, planes)) for method in (greedy, refined, alternating))
    assert np.all(second <= first + slack(weight))
    assert np.all(third <= second + slack(weight))
    assert np.all(losses(weight, online(weight.T, planes).transposed()) <= first + slack(weight))


@FEWER
@given(MATRICES, st.integers(2, 5))
def test_the_error_never_grows_with_the_planes(weight: NDArray[np.float32], planes: int) -> None:
    for method in (greedy, refined, alternating):
        fewer, more = losses(weight, method(weight, planes - 1)), losses(weight, method(weight, planes))
        assert np.all(more <= fewer + slack(weight))


@FEWER
@given(MATRICES, st.integers(1, 4), st.sampled_from([1, 30]))
def test_codes_are_the_nearest_for_the_scales(weight: NDArray[np.float32], planes: int, iterations: int) -> None:
    """Of the scales as stored, and of all 2^planes levels, up to the rounding of a level in float64."""
    patterns = np.array(list(product((-1.0, 1.0), repeat=planes)))
    for found, numbers in (
        (alternating(weight, planes, iterations=iterations), weight),
        (online(weight.T, planes, iterations=iterations).transposed(), weight),
    ):
        levels = np.where(found.signs, found.scale.astype(np.float64), -found.scale.astype(np.float64)).sum(0)
        every = patterns @ found.scale[:, 0].astype(np.float64)
        wide = numbers.astype(np.float64)
        best = np.abs(wide[None] - every[:, None]).min(0)
        rounding = 8 * 2.0**-52 * np.abs(found.scale.astype(np.float64)).sum(0)
        assert np.all(np.abs(wide - levels) <= best + rounding)


@FEWER
@given(MATRICES, st.integers(1, 4))
def test_a_converged_answer_has_the_scales_that_fit_best(weight: NDArray[np.float32], planes: int) -> None:
    found = alternating(weight, planes, iterations=1000)
    codes = np.where(found.signs, 1.0, -1.0)
    for column, numbers in enumerate(weight.astype(np.float64).T):
        scales = np.linalg.lstsq(codes[:, :, column].T, numbers)[0]
        best = ((numbers - scales @ codes[:, :, column]) ** 2).sum()
        assert losses(weight, found)[column] <= best + slack(weight)[column]


def test_one_plane_is_bwn() -> None:
    wanted = binary_weight(NORMAL)
    for method in METHODS.values():
        found = method(NORMAL, 1) if method is not online else method(NORMAL.T, 1).transposed()
        np.testing.assert_array_equal(found.signs, wanted.signs)
        np.testing.assert_allclose(found.scale, wanted.scale, rtol=60 * 2.0**-52)


def test_figures_for_normal_weights() -> None:
    """Two bits of a normal weight cost 0.343 at best (Lloyd and Max); 4 levels of equal distances are 0.3449."""
    weight = np.random.default_rng(1).standard_normal((4000, 4))
    relative = np.sqrt(losses(weight, alternating(weight, 2)) / (weight**2).sum(0))
    np.testing.assert_allclose(relative, 0.343, atol=4 / np.sqrt(4000))


@pytest.mark.parametrize("planes", [1, 2, 3, 8])
def test_numbers_that_are_sums_of_the_scales_come_back(planes: int) -> None:
    """2^planes levels, each of which occurs."""
    scales = 2.0 ** -np.arange(planes)
    weight = (np.array(list(product((-1.0, 1.0), repeat=planes))) @ scales)[:, None]
    np.testing.assert_allclose(greedy(weight, planes).dense(), weight, rtol=0, atol=2.0**-40)
    np.testing.assert_allclose(alternating(weight, planes).dense(), weight, rtol=0, atol=2.0**-40)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {name: method(NORMAL, 3).dense() for name, method in METHODS.items()}
    monkeypatch.setattr(multibinary, "_CHUNK", 2 * len(NORMAL))
    for name, method in METHODS.items():
        np.testing.assert_array_equal(method(NORMAL, 3).dense(), whole[name])


def test_outputs_do_not_see_each_other() -> None:
    for method in (greedy, refined, alternating):
        alone = [method(NORMAL[:, [column]], 3).dense() for column in range(5)]
        np.testing.assert_array_equal(method(NORMAL, 3).dense(), np.hstack(alone))


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
class TestBadInput:
    def test_zeros_and_constants(self, method: Callable[..., Planes]) -> None:
        weight = np.zeros((6, 6), np.float32)
        assert not method(weight, 3).dense().any()
        constant = np.full((6, 6), -0.7, np.float32)
        np.testing.assert_allclose(method(constant, 3).dense(), constant, rtol=8 * EPS)

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_answers_have_the_dtype_of_the_weight(self, method: Callable[..., Planes], dtype: type) -> None:
        found = method(NORMAL.astype(dtype), 2)
        assert found.scale.dtype == found.dense().dtype == dtype

    @pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (1, 1)])
    def test_small_shapes(self, method: Callable[..., Planes], shape: tuple[int, int]) -> None:
        found = method(np.ones(shape, np.float32), 3)
        assert found.signs.shape == (3, *shape)
        np.testing.assert_allclose(found.dense(), np.ones(shape), rtol=8 * EPS)

    @pytest.mark.parametrize("scale", [1e-38, 1e30])
    def test_small_and_large_weights(self, method: Callable[..., Planes], scale: float) -> None:
        weight = (NORMAL * scale).astype(np.float32)
        relative = np.linalg.norm(method(weight, 2).dense().astype(np.float64) - weight) / scale
        assert relative < 0.45 * np.linalg.norm(NORMAL)

    def test_what_is_no_matrix_of_numbers(self, method: Callable[..., Planes]) -> None:
        for bad in (np.nan, -np.inf):
            with pytest.raises(ValueError, match="the weight holds NaN or infinity"):
                method(np.array([[1.0, bad]]), 2)
        with pytest.raises(ValueError, match=r"expected a weight \[in, out\], found 1 axes"):
            method(np.ones(3), 2)

    @pytest.mark.parametrize("planes", [-1, 0, 9])
    def test_other_numbers_of_planes(self, method: Callable[..., Planes], planes: int) -> None:
        with pytest.raises(ValueError, match=f"expected 1 to 8 planes, found {planes}"):
            method(NORMAL, planes)


def test_a_negative_number_of_iterations() -> None:
    for method in (alternating, online):
        with pytest.raises(ValueError, match="expected no or some iterations, found -1"):
            method(NORMAL, 2, iterations=-1)
