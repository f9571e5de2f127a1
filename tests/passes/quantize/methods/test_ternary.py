"""Ternary weights against the papers' formulas and every ternary answer there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tersor.passes.quantize.methods import ternary as methods_ternary
from tersor.passes.quantize.methods.ternary import ternary, trained_ternary
from tersor.passes.weights import Codebook, Quantized

MATRICES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 3)), elements=st.floats(-8, 8, width=32)
)
EPS = float(np.finfo(np.float32).eps)
NORMAL = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)


def losses(weight: NDArray[np.generic], found: Quantized | Codebook) -> NDArray[np.float64]:
    """The squared error of each output."""
    difference = weight.astype(np.float64) - found.dense().astype(np.float64)
    return np.asarray((difference**2).sum(0))


def slack(weight: NDArray[np.generic]) -> NDArray[np.float64]:
    """Scales are rounded: a relative error of eps in what is kept."""
    return np.asarray(4 * EPS * (weight.astype(np.float64) ** 2).sum(0) + np.finfo(np.float32).tiny)


@given(MATRICES)
def test_no_ternary_weight_is_nearer(weight: NDArray[np.float32]) -> None:
    """Against the best scale of every choice of -1, 0 and 1."""
    found = losses(weight, ternary(weight))
    for column, numbers in enumerate(weight.astype(np.float64).T):
        best = np.inf
        for codes in product((-1, 0, 1), repeat=len(numbers)):
            kept = sum(code * code for code in codes)
            scale = max(float(np.dot(codes, numbers)) / kept, 0.0) if kept else 0.0
            best = min(best, float(((numbers - scale * np.array(codes)) ** 2).sum()))
        assert found[column] <= best + slack(weight)[column]


@given(MATRICES)
def test_every_code_is_the_nearest_level(weight: NDArray[np.float32]) -> None:
    found = ternary(weight)
    assert found.bits == 2
    assert set(np.unique(found.values)) <= {-1, 0, 1}
    for place in np.ndindex(weight.shape):
        levels = np.array([-1.0, 0.0, 1.0]) * float(found.scale[place[1]])
        distances = np.abs(float(weight[place]) - levels)
        rounding = 2 * EPS * levels[2]
        assert not found.values[:, place[1]].any() or distances[found.values[place] + 1] <= distances.min() + rounding


def test_the_heuristic_is_the_papers() -> None:
    """Equation 6: delta = 0.7 / n sum |w|; equation 5: alpha = the mean magnitude of those above."""
    found = ternary(NORMAL, exact=False)
    for column, numbers in enumerate(NORMAL.astype(np.float64).T):
        delta = 0.7 * sum(abs(number) for number in numbers) / len(numbers)
        kept = [abs(number) for number in numbers if abs(number) > delta]
        codes = [0 if abs(number) <= delta else 1 if number > 0 else -1 for number in numbers]
        assert found.values[:, column].tolist() == codes
        alpha = sum(kept) / len(kept)
        assert abs(found.scale[column] - alpha) <= EPS * alpha
    assert np.all(losses(NORMAL, ternary(NORMAL)) <= losses(NORMAL, found))


def test_groups_are_quantized_apart() -> None:
    """Runs of 16 rows of 50, the last of 2."""
    for exact in (True, False):
        found = ternary(NORMAL, group=16, exact=exact)
        assert found.scale.shape == (4, 6)
        parts = [ternary(NORMAL[start : start + 16], exact=exact).dense() for start in range(0, 50, 16)]
        np.testing.assert_array_equal(found.dense(), np.concatenate(parts))
    assert np.all(losses(NORMAL, ternary(NORMAL, group=16)) <= losses(NORMAL, ternary(NORMAL)))


def test_it_is_nearer_than_rounding_by_the_largest_magnitude() -> None:
    largest = np.abs(NORMAL).max(axis=0)
    rounded = Quantized(np.round(NORMAL / largest).astype(np.int8), largest, axis=1, bits=2)
    assert np.all(losses(NORMAL, ternary(NORMAL)) < losses(NORMAL, rounded))


def test_levels_are_the_means_of_each_side() -> None:
    """Equation 6 with t = 0.05 of the largest magnitude of the layer, and the closed form of both scales."""
    found = trained_ternary(NORMAL, threshold=0.05)
    wide = NORMAL.astype(np.float64)
    limit = 0.05 * np.abs(wide).max()
    plus = [number for number in wide.reshape(-1) if number > limit]
    minus = [number for number in wide.reshape(-1) if number < -limit]
    for place in np.ndindex(wide.shape):
        level = sum(plus) / len(plus) if wide[place] > limit else sum(minus) / len(minus) if wide[place] < -limit else 0
        assert abs(found.dense()[place] - level) <= EPS * abs(level)
    assert found.books.shape == (1, 3, 1)
    assert found.bits == 2


@given(MATRICES)
def test_no_two_thresholds_are_better(weight: NDArray[np.float32]) -> None:
    """Against every pair of thresholds at a weight, each side at its mean."""
    found = losses(weight, trained_ternary(weight, group=0))
    for column, numbers in enumerate(weight.astype(np.float64).T):
        best = 0.0
        for side in (np.maximum(numbers, 0.0), np.maximum(-numbers, 0.0)):
            options = [side[side >= limit] for limit in side]
            least = [float((side**2).sum() - part.sum() ** 2 / len(part)) for part in options]
            best += min(least)
        assert found[column] <= best + slack(weight)[column]


@given(MATRICES)
def test_two_scales_are_no_worse_than_one(weight: NDArray[np.float32]) -> None:
    two, one = losses(weight, trained_ternary(weight, group=0)), losses(weight, ternary(weight))
    assert np.all(two <= one + slack(weight))


@pytest.mark.parametrize("threshold", [None, 0.05])
def test_tables_by_column_and_by_run(threshold: float | None) -> None:
    columns = [trained_ternary(NORMAL[:, [column]], threshold=threshold).dense() for column in range(6)]
    np.testing.assert_array_equal(trained_ternary(NORMAL, group=0, threshold=threshold).dense(), np.hstack(columns))
    runs = [
        trained_ternary(NORMAL[start : start + 16], group=0, threshold=threshold).dense() for start in (0, 16, 32, 48)
    ]
    np.testing.assert_array_equal(trained_ternary(NORMAL, group=16, threshold=threshold).dense(), np.concatenate(runs))


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def every() -> list[NDArray[np.generic]]:
        by_table = [trained_ternary(NORMAL, group=group).dense() for group in (None, 0, 16)]
        return [*by_table, *(ternary(NORMAL, group=group).dense() for group in (0, 16))]

    whole = every()
    monkeypatch.setattr(methods_ternary, "_CHUNK", 4 * len(NORMAL))
    for found, wanted in zip(every(), whole, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_turned_around_the_answer_is_turned_around() -> None:
    np.testing.assert_array_equal(ternary(-NORMAL).dense(), -ternary(NORMAL).dense())
    np.testing.assert_array_equal(trained_ternary(-NORMAL).dense(), -trained_ternary(NORMAL).dense())
    np.testing.assert_array_equal(trained_ternary(NORMAL.T).dense(), trained_ternary(NORMAL).dense().T)


def test_one_sign_leaves_the_other_side_at_zero() -> None:
    found = trained_ternary(np.abs(NORMAL))
    assert found.books.reshape(-1)[:2].tolist() == [0.0, 0.0]
    assert found.dense().min() == 0.0


def test_zeros_and_constants() -> None:
    weight = np.tile(np.array([[0.0, 2.5, -0.75]], np.float32), (5, 1))
    for exact in (True, False):
        np.testing.assert_array_equal(ternary(weight, exact=exact).dense(), weight)
        assert ternary(weight, exact=exact).scale.tolist() == [1.0, 2.5, 0.75]
    for threshold in (None, 0.05):
        np.testing.assert_array_equal(trained_ternary(weight, group=0, threshold=threshold).dense(), weight)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_answers_have_the_dtype_of_the_weight(dtype: type) -> None:
    assert ternary(NORMAL.astype(dtype)).dense().dtype == dtype
    assert trained_ternary(NORMAL.astype(dtype)).dense().dtype == dtype


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1)])
def test_small_shapes(shape: tuple[int, int]) -> None:
    weight = np.ones(shape, np.float32)
    for group in (0, 2):
        for exact in (True, False):
            np.testing.assert_array_equal(ternary(weight, group=group, exact=exact).dense(), weight)
    for each in (None, 0, 2):
        for threshold in (None, 0.05):
            np.testing.assert_array_equal(trained_ternary(weight, group=each, threshold=threshold).dense(), weight)


def test_bad_input_is_refused() -> None:
    for method in (ternary, trained_ternary):
        with pytest.raises(ValueError, match="the weight holds NaN or infinity"):
            method(np.array([[1.0, np.nan]]))
        with pytest.raises(ValueError, match=r"expected a weight \[in, out\], found 3 axes"):
            method(np.ones((2, 2, 2)))
        with pytest.raises(ValueError, match="expected a group of at least one row, or 0 for whole columns, found -1"):
            method(NORMAL, group=-1)
    for threshold in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match="expected a threshold from 0 to below 1"):
            trained_ternary(NORMAL, threshold=threshold)
