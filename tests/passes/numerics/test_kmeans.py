"""k-means weight sharing against Lloyd's iteration written out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from tersor.passes.numerics.kmeans import Seeding, kmeans

RNG = np.random.default_rng(0)
W = RNG.standard_normal((12, 10))
SEEDINGS: tuple[Seeding, ...] = ("linear", "density", "k-means++")


def naive(points: np.ndarray, centers: np.ndarray, counts: np.ndarray, iterations: int) -> np.ndarray:
    """What each point becomes: nearest center, weighted mean, again."""
    centers = centers.copy()
    for _ in range(iterations + 1):
        labels = [min(range(len(centers)), key=lambda j: (abs(p - centers[j]), j)) for p in points]
        found = np.array([centers[label] for label in labels])
        for j in range(len(centers)):
            members = [i for i, label in enumerate(labels) if label == j]
            if sum(counts[members]) > 0:
                centers[j] = sum(counts[i] * points[i] for i in members) / sum(counts[i] for i in members)
    return found


def error(weight: np.ndarray, **options: object) -> float:
    found = kmeans(weight, **options)  # type: ignore[arg-type]
    return float(np.square(found.dense().astype(np.float64) - weight).sum())


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Means by prefix sums are off by the rounding of the sums: n eps times the largest of them."""
    slack = found.size**2 * np.finfo(np.float64).eps * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=slack)


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("iterations", [0, 1, 50])
def test_linear_centers_move_as_lloyd_says(bits: int, iterations: int) -> None:
    first = np.linspace(W.min(), W.max(), 1 << bits)
    wanted = naive(W.reshape(-1), first, np.ones(W.size), iterations)
    close(kmeans(W, bits=bits, iterations=iterations).dense().reshape(-1), wanted)


def test_density_seeds_are_quantiles() -> None:
    found = kmeans(W, bits=2, seeding="density", iterations=0)
    ordered = np.sort(W.reshape(-1))
    assert found.books.reshape(-1).tolist() == [ordered[15], ordered[45], ordered[75], ordered[105]]


def test_importance_weighs_the_means() -> None:
    counts = RNG.uniform(0, 3, W.shape)
    counts[0] = 0
    first = np.linspace(W.min(), W.max(), 8)
    wanted = naive(W.reshape(-1), first, counts.reshape(-1), 40)
    close(kmeans(W, bits=3, importance=counts, iterations=40).dense().reshape(-1), wanted)
    columns = counts[:1] + 1
    found = kmeans(W, importance=columns)
    np.testing.assert_array_equal(found.dense(), kmeans(W, importance=np.tile(columns, (12, 1))).dense())


def test_importance_lowers_the_error_that_it_weighs() -> None:
    counts = np.where(RNG.random(W.shape) < 0.2, 100.0, 1.0)
    plain, weighed = (kmeans(W, bits=2, importance=one).dense() - W for one in (None, counts))
    assert (counts * weighed**2).sum() < (counts * plain**2).sum()


@pytest.mark.parametrize("group", [1, 5, 12, 40])
def test_groups_of_rows_have_tables_of_their_own(group: int) -> None:
    found = kmeans(W, bits=2, group=group)
    parts = [kmeans(W[start : start + group], bits=2).dense() for start in range(0, 12, group)]
    np.testing.assert_array_equal(found.dense(), np.concatenate(parts))
    assert found.books.shape == (1, 4 * len(parts), 1)


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_more_bits_have_a_smaller_error_and_lloyd_lowers_it(seeding: Seeding) -> None:
    errors = [error(W, bits=bits, seeding=seeding) for bits in range(1, 9)]
    assert all(more <= less for less, more in pairwise(errors))
    for bits in (1, 2, 4):
        steps = [error(W, bits=bits, seeding=seeding, iterations=count) for count in range(6)]
        assert all(later <= sooner * (1 + W.size * np.finfo(float).eps) for sooner, later in pairwise(steps))


def test_two_centers_are_nearly_the_best_split() -> None:
    """The best two clusters of a line are cut somewhere in its order; Lloyd's fixed point is a local optimum."""
    ordered = np.sort(W.reshape(-1))
    splits = [np.split(ordered, [cut]) for cut in range(1, ordered.size)]
    best = min(sum(np.square(part - part.mean()).sum() for part in split) for split in splits)
    assert best <= error(W, bits=1) <= 1.05 * best


@pytest.mark.parametrize("seeding", SEEDINGS)
def test_few_distinct_weights_are_exact(seeding: Seeding) -> None:
    numbers = np.array([-2.0, -1.9, 0.0, 5.0], np.float32)
    weight = RNG.choice(numbers, (9, 7))
    assert len(kmeans(weight, bits=8).books[0]) == 256
    found = (
        kmeans(weight, bits=2, seeding="k-means++") if seeding == "linear" else kmeans(weight, bits=4, seeding=seeding)
    )
    np.testing.assert_array_equal(found.dense(), weight)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_weight_has_the_center_nearest_to_it(dtype: type) -> None:
    """Up to the rounding of the centers to the weight's dtype."""
    weight = W.astype(dtype)
    found = kmeans(weight, bits=3)
    distances = np.abs(weight.astype(np.float64)[..., None] - found.books[0, :, 0].astype(np.float64))
    got = np.take_along_axis(distances, found.indices[0][..., None].astype(int), 2)[..., 0]
    assert found.books.dtype == found.dense().dtype == dtype
    assert np.all(got - distances.min(2) <= 2 * np.finfo(dtype).eps * np.abs(W).max())


def test_the_seed_decides_and_scaling_commutes() -> None:
    one, other = (kmeans(W, seeding="k-means++", seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.dense(), other.dense())
    np.testing.assert_array_equal(kmeans(W * 4).dense(), kmeans(W).dense() * 4)


@pytest.mark.parametrize("seeding", SEEDINGS)
@pytest.mark.parametrize("group", [0, 1])
def test_constant_weights_stay(seeding: Seeding, group: int) -> None:
    for number in (0.0, 0.1, -3.7e30):
        weight = np.full((3, 5), number, np.float32)
        np.testing.assert_array_equal(kmeans(weight, seeding=seeding, group=group).dense(), weight)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1)])
@pytest.mark.parametrize("group", [0, 2])
def test_small_shapes(shape: tuple[int, int], group: int) -> None:
    weight = np.full(shape, 0.3, np.float32)
    np.testing.assert_array_equal(kmeans(weight, group=group).dense(), weight)


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (np.array([[1.0, np.nan]]), {}, "the weight holds NaN or infinity"),
        (np.array([[np.inf]]), {}, "the weight holds NaN or infinity"),
        (np.ones(3), {}, "expected a weight \\[in, out\\], found 1 axes"),
        (np.ones((2, 2), int), {}, "expected a weight of floats, found int64"),
        (W, {"bits": 0}, "expected 1 to 8 bits, found 0"),
        (W, {"bits": 9}, "expected 1 to 8 bits, found 9"),
        (W, {"seeding": "random"}, "expected the seeding linear, density or k-means\\+\\+, found random"),
        (W, {"group": -1}, "expected a group and iterations of at least zero, found -1 and 300"),
        (W, {"importance": np.ones(3)}, "expected importances that broadcast to \\(12, 10\\), found \\(3,\\)"),
        (W, {"importance": -np.ones(10)}, "an importance is negative, NaN or infinite"),
        (W, {"importance": np.full(10, np.nan)}, "an importance is negative, NaN or infinite"),
    ],
)
def test_bad_input(weight: np.ndarray, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kmeans(weight, **options)  # type: ignore[arg-type]


def test_no_importance_at_all_leaves_the_seeds() -> None:
    found = kmeans(W, bits=2, importance=np.zeros(10))
    np.testing.assert_array_equal(found.books.reshape(-1), np.linspace(W.min(), W.max(), 4))
