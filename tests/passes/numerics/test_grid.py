"""Uniform grids, held against the formula, one weight at a time in float64."""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from tersor.passes.numerics import grid
from tersor.passes.numerics.grid import Scheme, fit, nearest, round_to

SCHEMES = [
    Scheme(bits=bits, group=group, symmetric=symmetric)
    for bits, group, symmetric in itertools.product((2, 3, 4, 8), (0, 4, 5), (True, False))
]


def _weight(rows: int = 12, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_each_weight_becomes_the_nearest_of_its_groups_points(scheme: Scheme) -> None:
    weight = _weight()
    found = nearest(weight, scheme).dense()
    scale, zero = fit(weight, scheme)
    for number, rows in enumerate(scheme.groups(len(weight))):
        for column in range(weight.shape[1]):
            step, origin = scale[number, column], zero[number, column]
            points = [(value - origin) * step for value in range(scheme.low, scheme.high + 1)]
            for row in range(rows.start, rows.stop):
                wide = float(weight[row, column])
                best = min(abs(point - wide) for point in points)
                # the scale is a float32, and so is the product with it
                assert abs(found[row, column] - wide) <= best + 4 * np.finfo(np.float32).eps * abs(wide)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_no_weight_is_cut_off_by_more_than_a_step(scheme: Scheme) -> None:
    weight = _weight()
    scale, _ = fit(weight, scheme)
    found = nearest(weight, scheme).dense()
    for number, rows in enumerate(scheme.groups(len(weight))):
        # half a step, and the same again where the zero point was rounded or the far end of the grid was chosen
        allowed = np.abs(scale[number]) * (0.5 if scheme.symmetric and scheme.bits == 8 else 1.0) * (1 + 1e-5)
        assert (np.abs(found[rows] - weight[rows]) <= allowed).all()


def _grids(part: np.ndarray, scheme: Scheme, cut: float) -> list[tuple[float, float]]:
    """The scales and zero points by which the ends of a group are cut off by `cut` steps."""
    high, low = max(part.max(), 0.0), min(part.min(), 0.0)
    if not scheme.symmetric:
        step = (high - low) / (scheme.high + 2 * cut)
        return [(step, min(max(round(-low / step - cut), 0), scheme.high))]
    near, far = scheme.high + cut, cut - scheme.low
    return [(max(high / near, -low / far), 0.0), (-max(high / far, -low / near), 0.0)]


def _squared(part: np.ndarray, step: float, origin: float, scheme: Scheme) -> float:
    codes = np.clip(np.rint(part / step) + origin, scheme.low, scheme.high)
    return float(((part - (codes - origin) * step) ** 2).sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_grids_of_few_bits_are_the_best_of_those_that_cut_off_half_a_step_at_most(bits: int, symmetric: bool) -> None:
    scheme = Scheme(bits=bits, group=6, symmetric=symmetric)
    weight, cuts = _weight(24, 4), set()
    for column, rows in itertools.product(range(4), scheme.groups(24)):
        part = weight[rows, column].astype(np.float64)
        # of the two around zero, the finer one; and the one whose far end is the largest weight
        tried = {cut: min(_grids(part, scheme, cut), key=lambda grid: abs(grid[0])) for cut in (0.0, 0.25, 0.5)}
        lost = {cut: _squared(part, *found, scheme) for cut, found in tried.items()}
        if symmetric:
            lost[-1.0] = _squared(part, part[np.abs(part).argmax()] / scheme.low, 0.0, scheme)
        cuts.add(min(lost, key=lambda cut: lost[cut]))
        found = nearest(weight[rows, column : column + 1], scheme).dense()[:, 0].astype(np.float64)
        # scales are rounded to float32
        np.testing.assert_allclose(((part - found) ** 2).sum(), min(lost.values()), rtol=1e-3)
    assert len(cuts) > 1


@pytest.mark.parametrize("symmetric", [True, False])
def test_no_grid_of_8_bits_cuts_off(symmetric: bool) -> None:
    scheme = Scheme(bits=8, group=6, symmetric=symmetric)
    weight = _weight(24, 4)
    scale, zero = fit(weight, scheme)
    for (column, rows), step, origin in zip(
        itertools.product(range(4), scheme.groups(24)), scale.T.reshape(-1), zero.T.reshape(-1), strict=True
    ):
        expected, middle = min(_grids(weight[rows, column].astype(np.float64), scheme, 0.0), key=lambda grid: -grid[0])
        np.testing.assert_allclose(step, expected, rtol=1e-6)
        assert origin == middle


@pytest.mark.parametrize("scheme", [Scheme(bits=4, group=5), Scheme(bits=3, symmetric=False)], ids=str)
def test_large_weights_are_rounded_in_parts_to_the_same_numbers(
    scheme: Scheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = _weight(12, 7)
    whole = nearest(weight, scheme)
    monkeypatch.setattr(grid, "_CHUNK", 30)
    parts = nearest(weight, scheme)
    assert (whole.axis, whole.block, whole.bits) == (parts.axis, parts.block, parts.bits)
    for name in ("values", "scale", "zero"):
        found, wanted = getattr(parts, name), getattr(whole, name)
        assert (found is None) == (wanted is None)
        if wanted is not None:
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("symmetric", [True, False])
def test_scales_of_bfloat16_weights_are_bfloat16(symmetric: bool) -> None:
    weight = _weight().astype(ml_dtypes.bfloat16)
    quantized = nearest(weight, Scheme(bits=4, group=4, symmetric=symmetric))
    assert quantized.scale.dtype == ml_dtypes.bfloat16
    assert quantized.dense().dtype == ml_dtypes.bfloat16
    scale, _ = fit(weight, Scheme(bits=4, group=4, symmetric=symmetric))
    assert (scale.astype(ml_dtypes.bfloat16).astype(np.float64) == scale).all()


def test_an_asymmetric_grid_holds_zero_exactly() -> None:
    weight = np.array([[3.0], [5.0], [0.0]], np.float32)
    quantized = nearest(weight, Scheme(bits=3, symmetric=False))
    assert quantized.dense()[2, 0] == 0.0
    assert quantized.values.dtype == np.uint8


def test_more_bits_lose_less() -> None:
    weight = _weight(64, 8)
    errors = [np.linalg.norm(nearest(weight, Scheme(bits=bits)).dense() - weight) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


def test_smaller_groups_lose_less() -> None:
    weight = _weight(64, 8)
    errors = [np.linalg.norm(nearest(weight, Scheme(bits=4, group=group)).dense() - weight) for group in (0, 32, 8)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (0, 3), (3, 0), (5, 2)])
def test_zeros_of_any_size_stay_zeros(shape: tuple[int, int], symmetric: bool) -> None:
    quantized = nearest(np.zeros(shape, np.float32), Scheme(bits=4, group=2, symmetric=symmetric))
    np.testing.assert_array_equal(quantized.dense(), np.zeros(shape, np.float32))


def test_the_smallest_numbers_have_a_scale() -> None:
    tiny = np.array([[np.nextafter(np.float32(0), np.float32(1))]])
    scale, _ = fit(tiny, Scheme(bits=8))
    assert 0 < scale[0, 0] < math.inf


def test_given_scales_may_cut_off() -> None:
    values = round_to(np.array([[10.0], [-10.0]]), np.array([[1.0]]), np.array([[0.0]]), Scheme(bits=3))
    assert values.tolist() == [[3], [-4]]


@pytest.mark.parametrize("bits", [1, 9])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"2 to 8 bits, found {bits}"):
        Scheme(bits=bits)


def test_a_negative_group_is_refused() -> None:
    with pytest.raises(ValueError, match="found -1"):
        Scheme(group=-1)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        nearest(np.array([[number]]), Scheme())


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="3 axes"):
        nearest(np.zeros((1, 1, 1)), Scheme())
