"""Signs and mean magnitudes against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from tersor.passes.quantize.methods.binary import binary_activations, binary_connect, binary_weight

MATRICES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.floats(-8, 8, width=32)
)
EPS = float(np.finfo(np.float32).eps)


def loss(weight: NDArray[np.generic], found: NDArray[np.generic]) -> NDArray[np.float64]:
    """The squared error of each output."""
    difference = weight.astype(np.float64) - found.astype(np.float64)
    return np.asarray((difference**2).sum(0))


@given(MATRICES)
def test_binary_connect_is_the_sign(weight: NDArray[np.float32]) -> None:
    found = binary_connect(weight).dense()
    assert found.dtype == np.float32
    for place in np.ndindex(weight.shape):
        assert found[place] == (1.0 if weight[place] >= 0 else -1.0)


@given(MATRICES)
def test_bwn_scales_signs_by_the_mean_magnitude(weight: NDArray[np.float32]) -> None:
    """Equation 6: alpha = ||W||_1 / n, for each output."""
    found = binary_weight(weight)
    assert found.scale.shape == (1, 1, weight.shape[1])
    for column in range(weight.shape[1]):
        alpha = sum(abs(float(number)) for number in weight[:, column]) / len(weight)
        assert abs(found.scale[0, 0, column] - alpha) <= EPS * alpha + np.finfo(np.float32).smallest_subnormal
    np.testing.assert_array_equal(found.dense(), np.where(weight >= 0, found.scale[0], -found.scale[0]))


@given(MATRICES)
def test_no_scaled_signs_are_nearer(weight: NDArray[np.float32]) -> None:
    """Against the best scale of every choice of signs: <b, w> / n."""
    found = loss(weight, binary_weight(weight).dense())
    wide = weight.astype(np.float64)
    for pattern in np.ndindex((2,) * len(weight)):
        signs = np.array(pattern)[:, None] * 2.0 - 1
        best = loss(wide, signs * (signs * wide).mean(0))
        assert np.all(found <= best + EPS * (wide**2).sum(0) + np.finfo(np.float32).tiny)


@given(MATRICES)
def test_activations_are_scaled_by_token(activations: NDArray[np.float32]) -> None:
    """A token is an output of the transpose."""
    found, turned = binary_activations(activations), binary_weight(np.ascontiguousarray(activations.T))
    assert found.scale.shape == (1, len(activations), 1)
    np.testing.assert_array_equal(found.dense(), turned.dense().T)


def test_the_product_counts_equal_bits() -> None:
    """Section 3.2: x w ~ beta alpha (sign(x) . sign(w)), and the inner product is 2 (equal bits) - n."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 24)), rng.standard_normal((24, 7))
    left, right = binary_activations(x), binary_weight(w)
    equal = np.array(
        [[np.sum(left.signs[0, row] == right.signs[0, :, column]) for column in range(7)] for row in range(5)]
    )
    formula = left.scale[0] * right.scale[0] * (2.0 * equal - 24)
    slack = 24 * float(np.finfo(np.float64).eps) * 24 * left.scale.max() * right.scale.max()
    np.testing.assert_allclose(left.dense() @ right.dense(), formula, rtol=0, atol=slack)


@given(MATRICES, st.sampled_from([0.25, 2.0, -4.0]))
def test_scales_follow_the_weight(weight: NDArray[np.float32], factor: float) -> None:
    """A power of two is exact, and a negative one swaps the signs of all that is not zero."""
    weight = np.where(np.abs(weight) < 1e-30, np.float32(1), weight)
    factor32 = np.float32(factor)
    np.testing.assert_array_equal(binary_weight(weight * factor32).dense(), binary_weight(weight).dense() * factor32)


def test_a_constant_weight_is_exact() -> None:
    weight = np.tile(np.array([[2.5, -0.75, 0.0]], np.float32), (6, 1))
    np.testing.assert_array_equal(binary_weight(weight).dense(), weight)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_answers_have_the_dtype_of_the_weight(dtype: type) -> None:
    weight = np.ones((3, 2), dtype)
    for method in (binary_connect, binary_weight, binary_activations):
        assert method(weight).dense().dtype == dtype


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1)])
def test_small_shapes(shape: tuple[int, int]) -> None:
    for method in (binary_connect, binary_weight, binary_activations):
        found = method(np.zeros(shape, np.float32))
        assert found.dense().shape == shape
        assert np.isfinite(found.scale).all()


@pytest.mark.parametrize("method", [binary_connect, binary_weight, binary_activations])
def test_bad_weights_are_refused(method: type) -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="the weight holds NaN or infinity"):
            method(np.array([[1.0, bad]]))
    with pytest.raises(ValueError, match=r"expected a weight \[in, out\], found 1 axes"):
        method(np.ones(3))
