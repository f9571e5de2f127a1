"""Balanced quantization against recursive partition written out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from tersor.passes.quantize.methods.balanced import balanced

RNG = np.random.default_rng(0)
W = RNG.standard_t(4, (8, 12))


def partition(points: list[float], rounds: int, cut: str) -> list[list[float]]:
    """Lists of points in order, cut at the median or the mean so many times."""
    if not rounds:
        return [points]
    middle = len(points) // 2
    if cut == "mean":
        middle = sum(point <= sum(points) / len(points) for point in points)
    return partition(points[:middle], rounds - 1, cut) + partition(points[middle:], rounds - 1, cut)


def bins_of(weight: np.ndarray, bits: int, cut: str) -> np.ndarray:
    bins = partition(sorted(weight.reshape(-1).tolist()), bits, cut)
    where = {point: number for number, members in enumerate(bins) for point in members}
    return np.array([where[point] for point in weight.reshape(-1).tolist()]).reshape(weight.shape)


@pytest.mark.parametrize("cut", ["median", "mean"])
@pytest.mark.parametrize("bits", range(1, 5))
def test_bins_are_those_of_recursive_cuts(bits: int, cut: str) -> None:
    wanted = bins_of(W, bits, cut)
    np.testing.assert_array_equal(balanced(W, bits=bits, cut=cut).indices[0], wanted)
    np.testing.assert_array_equal(balanced(W.astype(np.float32), bits=bits, cut=cut).indices[0], wanted)


@pytest.mark.parametrize("cut", ["median", "mean"])
@pytest.mark.parametrize("bits", range(1, 5))
def test_means_are_those_of_the_bins(bits: int, cut: str) -> None:
    bins = bins_of(W, bits, cut)
    found = balanced(W, bits=bits, levels="means", cut=cut).dense()
    slack = W.size * np.finfo(float).eps * np.abs(W).sum()
    for number in np.unique(bins):
        np.testing.assert_allclose(found[bins == number], W[bins == number].mean(), rtol=0, atol=slack)


@pytest.mark.parametrize("bits", range(1, 5))
def test_uniform_levels_are_even_steps_of_least_squares(bits: int) -> None:
    top = 2**bits - 1
    even = (2 * bins_of(W, bits, "median") - top) / top
    scale = (even * W).sum() / (even * even).sum()
    slack = W.size * np.finfo(float).eps * np.abs(W).sum()
    np.testing.assert_allclose(balanced(W, bits=bits).dense(), scale * even, rtol=0, atol=slack)
    for other in (0.9, 1.1):
        assert np.square(scale * even - W).sum() < np.square(other * scale * even - W).sum()


@pytest.mark.parametrize("count", [16, 17, 63])
@pytest.mark.parametrize("bits", range(1, 5))
def test_bins_differ_by_at_most_one_weight(bits: int, count: int) -> None:
    counts = np.bincount(balanced(RNG.standard_normal((1, count)), bits=bits).indices.reshape(-1), minlength=1 << bits)
    assert counts.max() - counts.min() <= 1


def test_equal_weights_share_a_bin() -> None:
    weight = RNG.choice(np.array([-1.0, 0.0, 0.0, 0.0, 0.5, 2.0]), (20, 20))
    for bits in (1, 2, 4):
        for cut in ("median", "mean"):
            found = balanced(weight, bits=bits, cut=cut).indices[0]
            assert all(len(np.unique(found[weight == number])) == 1 for number in np.unique(weight))
    np.testing.assert_array_equal(balanced(weight, bits=3, levels="means").dense(), weight)


def test_more_bits_have_a_smaller_error_with_means_and_means_a_smaller_one() -> None:
    def error(bits: int, levels: str) -> float:
        return float(np.square(balanced(W, bits=bits, levels=levels).dense() - W).sum())

    assert all(more <= less for less, more in pairwise(error(bits, "means") for bits in range(1, 9)))
    assert all(error(bits, "means") <= error(bits, "uniform") for bits in range(1, 9))


def test_uniform_weights_gain_from_every_bit() -> None:
    """Even steps fit an even distribution: half the step, a quarter of the squared error."""
    weight = RNG.permutation(np.linspace(-1, 1, 1024)).reshape(32, 32)
    errors = [float(np.square(balanced(weight, bits=bits).dense() - weight).sum()) for bits in range(1, 6)]
    assert all(more < less / 3.9 for less, more in pairwise(errors))


@pytest.mark.parametrize("levels", ["uniform", "means"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), (3, 4)])
def test_small_shapes_and_constants(shape: tuple[int, int], levels: str) -> None:
    for number in (0.0, 0.1, -3.0):
        weight = np.full(shape, number, np.float32)
        found = balanced(weight, bits=3, levels=levels).dense()
        np.testing.assert_allclose(found, weight, rtol=12 * np.finfo(np.float32).eps)


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (np.array([[1.0, np.inf]]), {}, "the weight holds NaN or infinity"),
        (np.ones(3), {}, "found 1 axes"),
        (W, {"bits": 0}, "expected 1 to 8 bits, found 0"),
        (W, {"levels": "odd"}, "expected uniform or means, and median or mean, found odd and median"),
        (W, {"cut": "third"}, "expected uniform or means, and median or mean, found uniform and third"),
    ],
)
def test_bad_input(weight: np.ndarray, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        balanced(weight, **options)  # type: ignore[arg-type]
