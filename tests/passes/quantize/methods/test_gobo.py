"""GOBO against the paper's steps written out."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from tersor.passes.numerics.kmeans import kmeans
from tersor.passes.quantize.methods.gobo import gobo

RNG = np.random.default_rng(0)
W = RNG.standard_t(4, (16, 15)) * 0.05


def naive(weight: np.ndarray, bits: int, threshold: float = -4.0) -> tuple[np.ndarray, list[float]]:
    """What the weight becomes, and the L1 error of every round, the last being the one that was refused."""
    flat = weight.astype(np.float64).reshape(-1)
    mean, deviation = flat.mean(), flat.std()
    keep = [math.log(math.exp(-(((w - mean) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi)))
            < threshold for w in flat]  # fmt: skip
    rest = np.sort(flat[~np.array(keep)])
    count = 1 << bits
    bins = [rest[i * rest.size // count : (i + 1) * rest.size // count] for i in range(count)]
    centers = np.array([part.mean() for part in bins])
    errors = [float(sum(np.abs(part - part.mean()).sum() for part in bins))]
    for _ in range(200):
        labels = np.abs(rest[:, None] - centers).argmin(1)
        moved = np.array([rest[labels == j].mean() if (labels == j).any() else centers[j] for j in range(count)])
        errors.append(float(np.abs(rest - moved[labels]).sum()))
        if errors[-1] >= errors[-2]:
            break
        centers = moved
    found = centers[np.abs(flat[:, None] - centers).argmin(1)]
    return np.where(keep, flat, found).reshape(weight.shape), errors


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_steps_are_those_of_the_paper(bits: int) -> None:
    wanted, errors = naive(W, bits)
    slack = W.size * np.finfo(float).eps * np.abs(W).sum()
    np.testing.assert_allclose(gobo(W, bits=bits).dense(), wanted, rtol=0, atol=slack)
    assert len(errors) > 2 or bits == 1


def test_outliers_are_kept_as_they_are() -> None:
    weight = (RNG.standard_normal((40, 50)) * 0.05).astype(np.float32)
    weight[3, 7], weight[20, 1] = 1.0, -0.9
    found = gobo(weight)
    assert found.outliers is not None
    where, numbers = found.outliers
    assert {3 * 50 + 7, 20 * 50 + 1} <= set(where.tolist())
    assert len(where) < 0.01 * weight.size
    np.testing.assert_array_equal(numbers, weight.reshape(-1)[where])
    np.testing.assert_array_equal(found.dense().reshape(-1)[where], numbers)


@pytest.mark.parametrize("threshold", [-4.0, -1.0, 1.0])
def test_an_outlier_is_less_dense_than_the_threshold(threshold: float) -> None:
    found = gobo(W, threshold=threshold)
    density = -0.5 * np.square((W - W.mean()) / W.std()) - math.log(W.std() * math.sqrt(2 * math.pi))
    wanted = np.flatnonzero(density.reshape(-1) < threshold)
    assert found.outliers is not None
    assert found.outliers[0].tolist() == wanted.tolist()


def test_deviations_do_not_depend_on_the_scale() -> None:
    for factor in (1.0, 1e6):
        found = gobo(W * factor, sigmas=3.0)
        assert found.outliers is not None
        wanted = np.flatnonzero(np.abs(W - W.mean()).reshape(-1) > 3.0 * W.std())
        assert found.outliers[0].tolist() == wanted.tolist()


def test_weights_far_wider_than_the_threshold_are_all_kept() -> None:
    np.testing.assert_array_equal(gobo(W * 1e6).dense(), W * 1e6)


def test_more_bits_have_a_smaller_absolute_error() -> None:
    errors = [float(np.abs(gobo(W, bits=bits).dense() - W).sum()) for bits in range(1, 8)]
    assert all(more < less for less, more in pairwise(errors))


def test_the_absolute_error_is_below_that_of_k_means_on_the_same_weights() -> None:
    """The paper stops where the L1 error is least; k-means from the same place goes on (section IV)."""
    calm = RNG.standard_normal((64, 64)) * 0.04
    ours, theirs = (np.abs(found.dense() - calm).sum() for found in
                    (gobo(calm, sigmas=99), kmeans(calm, bits=3, seeding="density")))  # fmt: skip
    assert ours < theirs


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), (3, 4)])
def test_small_shapes_and_constants(shape: tuple[int, int]) -> None:
    for number in (0.0, 0.1, -3e30):
        weight = np.full(shape, number, np.float32)
        found = gobo(weight)
        np.testing.assert_array_equal(found.dense(), weight)
        assert found.outliers is None


def test_fewer_weights_than_centers_are_exact() -> None:
    weight = np.array([[0.5, -0.25, 0.125]], np.float32)
    np.testing.assert_array_equal(gobo(weight, bits=3).dense(), weight)


@pytest.mark.parametrize(
    ("weight", "bits", "message"),
    [
        (np.array([[1.0, np.inf]]), 3, "the weight holds NaN or infinity"),
        (np.ones((2, 2, 2)), 3, "found 3 axes"),
        (W, 0, "expected 1 to 8 bits, found 0"),
    ],
)
def test_bad_input(weight: np.ndarray, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gobo(weight, bits=bits)
