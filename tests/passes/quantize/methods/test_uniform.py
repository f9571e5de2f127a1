"""Symmetric uniform quantization against its formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tersor.passes.quantize.methods.uniform import PAIR_LIMIT, symmetric

SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5)
FLOATS = arrays.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))
HALVES = arrays.arrays(np.float16, SHAPES, elements=st.floats(width=16, allow_nan=False, allow_infinity=False))


def over(weight: NDArray[np.floating], scale: NDArray[np.floating], axis: int | None) -> NDArray[np.float64]:
    """weight / scale in float64, the scale put along its axis."""
    wide = scale.astype(np.float64)
    if axis is not None:
        wide = wide.reshape([-1 if index == axis % weight.ndim else 1 for index in range(weight.ndim)])
    return weight.astype(np.float64) / wide


@given(FLOATS | HALVES, st.integers(2, 8), st.sampled_from([None, 0, -1]))
def test_every_value_is_the_nearest_level(weight: NDArray[np.floating], bits: int, axis: int | None) -> None:
    """q = round(w / s): no level is nearer, up to the rounding of the division in the weight's own dtype."""
    found = symmetric(weight, bits=bits, axis=axis)
    top = 2 ** (bits - 1) - 1
    slack = top * max(np.finfo(np.float32).eps, np.finfo(weight.dtype).eps)
    exact = over(weight, found.scale, axis)
    assert found.values.dtype == np.int8
    assert np.abs(found.values.astype(int)).max(initial=0) <= top
    assert np.all(np.abs(found.values - np.clip(exact, -top, top)) <= 0.5 + slack)


@given(FLOATS, st.integers(2, 8), st.sampled_from([None, 0, 1, -1]))
def test_the_scale_is_the_largest_magnitude_over_the_highest_level(
    weight: NDArray[np.float32], bits: int, axis: int | None
) -> None:
    if axis == 1 and weight.ndim == 1:
        axis = 0
    found = symmetric(weight, bits=bits, axis=axis)
    others = None if axis is None else tuple(index for index in range(weight.ndim) if index != axis % weight.ndim)
    largest = np.abs(weight.astype(np.float64)).max(axis=others)
    least = float(np.finfo(np.float32).smallest_subnormal)
    wanted = np.where(largest > 0, np.maximum(largest / (2 ** (bits - 1) - 1), least), 1.0)
    assert found.scale.shape == wanted.shape
    assert np.all(np.abs(found.scale - wanted) <= np.maximum(wanted * np.finfo(np.float32).eps, least))


@given(FLOATS)
def test_signs_are_symmetric(weight: NDArray[np.float32]) -> None:
    plus, minus = symmetric(weight, axis=0), symmetric(-weight, axis=0)
    np.testing.assert_array_equal(plus.values, -minus.values)
    np.testing.assert_array_equal(plus.scale, minus.scale)


def test_the_error_of_a_weight_is_at_most_half_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    for bits in (4, 8):
        found = symmetric(weight, bits=bits, axis=1)
        step = np.abs(weight).max(axis=0) / (2 ** (bits - 1) - 1)
        assert np.all(np.abs(found.dense() - weight) <= step * (0.5 + 1e-4))


def test_a_scale_for_each_index_sees_only_its_own_slice() -> None:
    weight = np.array([[1e-3, 1e3], [-2e-3, 2e3]], np.float32)
    found = symmetric(weight, axis=1)
    np.testing.assert_allclose(found.scale, [2e-3 / 127, 2e3 / 127], rtol=1e-6)
    assert found.values.tolist() == [[64, 64], [-127, 127]]


MATRICES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.floats(-1e6, 1e6, width=32)
)


def pair_sums(values: NDArray[np.generic], along: int) -> NDArray[np.float64]:
    """|even + next odd| along an axis, a last one alone left out."""
    moved = np.moveaxis(np.asarray(values, np.float64), along, 0)
    whole = moved[: len(moved) // 2 * 2]
    return np.abs(whole[0::2] + whole[1::2])


@given(MATRICES, st.sampled_from([(1, 0), (0, 1)]))
def test_no_pair_of_neighbours_can_saturate_16_bits(weight: NDArray[np.float32], axes: tuple[int, int]) -> None:
    """A uint8 times each of two int8, added in an int16: 255 |a + b| < 2^15 whatever the signs."""
    axis, paired = axes
    found = symmetric(weight, axis=axis, paired=paired)
    assert 255 * pair_sums(found.values, paired).max(initial=0.0) < 2**15
    assert 255 * np.abs(found.values.astype(int)).max() < 2**15


@given(MATRICES)
def test_pairs_cost_at_most_half_the_levels(weight: NDArray[np.float32]) -> None:
    """|a + b| <= 2 max, so no scale more than doubles, and a channel whose pairs fit keeps its own."""
    plain, paired = symmetric(weight, axis=1), symmetric(weight, axis=1, paired=0)
    assert np.all(paired.scale >= plain.scale)
    assert np.all(paired.scale <= plain.scale.astype(np.float64) * 2 * 127 / 127.5 * (1 + 1e-6) + 1e-44)
    fits = pair_sums(weight, 0).max(axis=0, initial=0.0) <= np.abs(weight).max(axis=0) * 127.5 / 127 * (1 - 1e-6)
    np.testing.assert_array_equal(paired.scale[fits], plain.scale[fits])


def test_zeros_stay_zeros() -> None:
    found = symmetric(np.zeros((2, 3), np.float32), axis=1)
    assert found.scale.tolist() == [1.0, 1.0, 1.0]
    assert not found.dense().any()


def test_ties_round_to_even() -> None:
    weight = np.array([127.0, 0.5, 1.5, 2.5, -0.5], np.float32)
    assert symmetric(weight).values.tolist() == [127, 0, 2, 2, 0]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_smallest_numbers_do_not_underflow_to_a_scale_of_zero(dtype: type) -> None:
    weight = np.array([np.finfo(dtype).smallest_subnormal, 0.0], dtype)
    found = symmetric(weight)
    assert found.scale > 0
    np.testing.assert_array_equal(found.dense(), weight)


def test_an_empty_weight_is_allowed() -> None:
    found = symmetric(np.zeros((0, 3), np.float32), axis=1)
    assert found.values.shape == (0, 3)
    assert found.scale.shape == (3,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="the weight holds NaN or infinity"):
        symmetric(np.array([1.0, bad], np.float32))


@pytest.mark.parametrize("bits", [0, 1, 9, 16])
def test_bits_that_an_int8_cannot_hold_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"an int8 holds 2 to 8 bits, not {bits}"):
        symmetric(np.ones(2, np.float32), bits=bits)


@given(arrays.arrays(np.float32, (6, 3), elements=st.floats(-4, 4, width=32)), st.sampled_from([0, 1]))
def test_no_pair_of_neighbours_can_saturate(weight: NDArray[np.float32], along: int) -> None:
    """255 * |q_2i + q_2i+1| < 2^15, the pairs lying along the axis that the product sums over."""
    found = symmetric(weight, axis=1 - along, paired=along)
    values = np.moveaxis(found.values.astype(int), along, 0)
    even = values[: len(values) // 2 * 2]
    sums = np.abs(even[0::2] + even[1::2])
    assert sums.max(initial=0) <= PAIR_LIMIT
    assert 255 * PAIR_LIMIT < 2**15


def test_pairs_that_cannot_saturate_leave_the_scale_alone() -> None:
    weight = np.array([[1.0, 0.1], [-1.0, 0.1], [0.3, -0.4], [0.2, 0.1]], np.float32)
    assert np.array_equal(symmetric(weight, axis=1, paired=0).scale[0], symmetric(weight, axis=1).scale[0])
    assert symmetric(-np.abs(weight), axis=1, paired=0).scale[0] == np.float32(2.0 / (PAIR_LIMIT - 0.5))
