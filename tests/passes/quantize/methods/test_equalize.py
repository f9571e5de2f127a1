"""Cross-layer equalization against equation 11, and the objective that it solves."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tersor.passes.quantize.methods.equalize import equalize

EPS = float(np.finfo(np.float32).eps)


def layers(seed: int = 0, dtype: type = np.float32) -> tuple[NDArray[np.floating], ...]:
    """Two layers [5, 8] and [8, 4] whose channels reach very differently far, and the first one's bias."""
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((5, 8)) * np.exp(rng.standard_normal(8))
    second = rng.standard_normal((8, 4)) * np.exp(rng.standard_normal((8, 1)))
    return first.astype(dtype), second.astype(dtype), rng.standard_normal(8).astype(dtype)


def precision(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Equation 9: the sum of p1_i p2_i, p_i = r_i / R."""
    written, read = np.abs(first).max(0).astype(float), np.abs(second).max(1).astype(float)
    return float((written / written.max() * read / read.max()).sum())


@pytest.mark.parametrize("seed", range(3))
def test_scales_are_those_of_the_paper(seed: int) -> None:
    """s_i = sqrt(r1_i r2_i) / r2_i."""
    first, second, bias = layers(seed)
    found = equalize(first, [second], bias)
    for channel in range(8):
        written = float(np.abs(first[:, channel]).max())
        read = float(np.abs(second[channel]).max())
        wanted = np.sqrt(written * read) / read
        assert abs(found.scales[channel] - wanted) <= EPS * wanted
        np.testing.assert_allclose(found.first[:, channel], first[:, channel] / wanted, rtol=2 * EPS)
        np.testing.assert_allclose(found.seconds[0][channel], second[channel] * wanted, rtol=2 * EPS)
        assert found.bias is not None
        np.testing.assert_allclose(found.bias[channel], bias[channel] / wanted, rtol=2 * EPS)


@pytest.mark.parametrize("seed", range(3))
def test_both_sides_reach_equally_far(seed: int) -> None:
    found = equalize(*layers(seed)[:1], [layers(seed)[1]])
    np.testing.assert_allclose(np.abs(found.first).max(0), np.abs(found.seconds[0]).max(1), rtol=4 * EPS)


@given(st.integers(0, 2**32 - 1))
def test_no_other_scales_use_the_grids_better(seed: int) -> None:
    first, second, _ = layers()
    found = equalize(first, [second])
    others = np.exp(np.random.default_rng(seed).standard_normal(8))
    assert precision(found.first, found.seconds[0]) >= precision(first / others, second * others[:, None]) * (
        1 - 8 * EPS
    )


@pytest.mark.parametrize("name", ["nothing", "relu", "leaky relu"])
def test_the_layers_compute_what_they_did(name: str) -> None:
    """Each hidden number and each weight is rounded once more."""
    slope = {"nothing": 1.0, "relu": 0.0, "leaky relu": 0.1}[name]
    first, second, bias = (array.astype(np.float64) for array in layers())
    found = equalize(*(array.astype(np.float32) for array in (first,)), [layers()[1]], layers()[2])
    assert found.bias is not None
    inputs = np.random.default_rng(7).standard_normal((20, 5))

    def run(one: NDArray[np.float64], shift: NDArray[np.float64], two: NDArray[np.float64]) -> NDArray[np.float64]:
        hidden = inputs @ one + shift
        return np.where(hidden > 0, hidden, slope * hidden) @ two

    before = run(first, bias, second)
    after = run(*(np.asarray(array, np.float64) for array in (found.first, found.bias, found.seconds[0])))
    magnitude = (np.abs(inputs) @ np.abs(first) + np.abs(bias)) @ np.abs(second)
    assert np.all(np.abs(before - after) <= 3 * EPS * magnitude)


def test_equalizing_again_changes_nothing() -> None:
    first, second, _ = layers()
    once = equalize(first, [second])
    again = equalize(once.first, once.seconds)
    np.testing.assert_allclose(again.scales, np.ones(8), rtol=4 * EPS)


def test_the_furthest_of_several_readers_counts() -> None:
    first, second, _ = layers()
    third = second[:, :2] * np.float32(2)
    both = equalize(first, [second, third])
    joined = equalize(first, [np.concatenate([second, third], 1)])
    np.testing.assert_array_equal(both.scales, joined.scales)
    np.testing.assert_array_equal(np.concatenate(both.seconds, 1), joined.seconds[0])


def test_channels_that_nobody_writes_or_reads_stay() -> None:
    first, second, bias = layers()
    first[:, 2] = 0
    second[5] = 0
    found = equalize(first, [second], bias)
    assert found.bias is not None
    assert found.scales[[2, 5]].tolist() == [1.0, 1.0]
    assert found.bias[2] == bias[2]
    np.testing.assert_array_equal(found.first[:, 5], first[:, 5])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scales_stay_in_the_dtype(dtype: type) -> None:
    info = np.finfo(dtype)
    first = np.array([[info.max, info.smallest_subnormal, 1.0]], dtype)
    second = np.array([[info.smallest_subnormal], [info.max], [1.0]], dtype)
    found = equalize(first, [second])
    assert found.scales.dtype == found.first.dtype == found.seconds[0].dtype == dtype
    for array in (found.scales, 1 / found.scales, found.first, found.seconds[0]):
        assert np.isfinite(array).all()
    assert (found.scales > 0).all()


@pytest.mark.parametrize("shapes", [((0, 3), (3, 2)), ((2, 0), (0, 2)), ((2, 3), (3, 0)), ((1, 1), (1, 1))])
def test_small_shapes(shapes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    found = equalize(np.ones(shapes[0], np.float32), [np.ones(shapes[1], np.float32)])
    assert (found.first.shape, found.seconds[0].shape) == shapes
    assert found.bias is None


@pytest.mark.parametrize(
    ("first", "seconds", "bias", "message"),
    [
        (np.ones((2, 3)), [], None, "expected layers [3, out]"),
        (np.ones((2, 3)), [np.ones((2, 3))], None, "found [(2, 3)]"),
        (np.ones((2, 3)), [np.ones((3, 1), np.float32)], None, "expected weights of one dtype"),
        (np.ones((2, 3)), [np.ones((3, 1))], np.ones(2), "expected a finite bias of shape (3,)"),
        (np.ones((2, 3)), [np.ones((3, 1))], np.full(3, np.nan), "expected a finite bias of shape (3,)"),
        (np.full((2, 3), np.inf), [np.ones((3, 1))], None, "the weight holds NaN or infinity"),
        (np.ones(3), [np.ones((3, 1))], None, "expected a weight [in, out], found 1 axes"),
    ],
)
def test_bad_input_is_refused(
    first: np.ndarray, seconds: list[np.ndarray], bias: np.ndarray | None, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        equalize(first, seconds, bias)
