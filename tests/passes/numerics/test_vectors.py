"""k-means of vectors against Lloyd's iteration written out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from tersor.passes.numerics import vectors
from tersor.passes.numerics.vectors import cluster, means, nearest

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 3))


def error(points: np.ndarray, centers: np.ndarray, labels: np.ndarray) -> float:
    return float(np.square(points - centers[labels]).sum())


@pytest.mark.parametrize("chunk", [1, 40, 1 << 17])
def test_the_nearest_center_is_nearest(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_CHUNK", chunk)
    centers = X[:7]
    distances = np.array([[float(np.square(x - c).sum()) for c in centers] for x in X])
    got = distances[np.arange(200), nearest(X, centers)]
    # x c and |c|^2 in float32
    slack = 8 * np.finfo(np.float32).eps * np.square(X).sum(1).max()
    assert np.all(got - distances.min(1) <= slack)


@pytest.mark.parametrize("count", [1, 5, 32])
def test_it_ends_where_lloyd_ends(count: int) -> None:
    """Centers are the means of their vectors and vectors have the nearest center."""
    centers, labels = cluster(X, count, iterations=300, sample=0, seed=0)
    np.testing.assert_array_equal(labels, nearest(X, centers))
    for number in np.unique(labels):
        np.testing.assert_allclose(centers[number], X[labels == number].mean(0), atol=200 * np.finfo(float).eps)


def test_each_iteration_lowers_the_error() -> None:
    errors = [error(X, *cluster(X, 8, iterations=count, sample=0, seed=1)) for count in range(10)]
    slack = 1 + 200 * np.finfo(np.float32).eps
    assert all(later <= sooner * slack for sooner, later in pairwise(errors))
    assert errors[-1] < errors[0]


def test_clusters_far_apart_are_found() -> None:
    corners = np.array([[x, y] for x in (-10.0, 0.0, 10.0) for y in (-10.0, 10.0)])
    points = np.repeat(corners, 30, 0) + RNG.standard_normal((180, 2)) * 0.01
    for seed in range(5):
        _, labels = cluster(points, 6, iterations=20, sample=0, seed=seed)
        assert sorted(np.bincount(labels, minlength=6)) == [30] * 6


def test_a_sample_finds_nearly_as_good_centers() -> None:
    points = RNG.standard_normal((2000, 2))
    all_, some = (error(points, *cluster(points, 8, iterations=30, sample=sample, seed=0)) for sample in (0, 400))
    assert some <= 1.1 * all_
    _, labels = cluster(points, 8, iterations=30, sample=400, seed=0)
    assert labels.shape == (2000,)


def test_fewer_distinct_vectors_than_centers_are_exact() -> None:
    points = np.repeat(X[:4], 5, 0)
    centers, labels = cluster(points, 9, iterations=5, sample=0, seed=0)
    # the mean of five equal vectors
    np.testing.assert_allclose(centers[labels], points, rtol=5 * np.finfo(float).eps)
    centers, labels = cluster(np.zeros((3, 2)), 3, iterations=5, sample=0, seed=0)
    assert not centers[labels].any()


def test_the_seed_decides() -> None:
    one, same, other = (cluster(X, 8, iterations=3, sample=0, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one[0], same[0])
    assert not np.array_equal(one[0], other[0])


def test_vectors_that_count_twice_are_as_two() -> None:
    """Weights of whole numbers move centers to where as many copies would."""
    times = 1 + np.arange(200) % 3
    centers, labels = cluster(X, 6, iterations=300, sample=0, seed=0, weights=times.astype(np.float64))
    copies = np.repeat(X, times, axis=0)
    np.testing.assert_allclose(means(copies, np.repeat(labels, times), centers), centers, atol=1e-12)
    for number in np.unique(labels):
        some = labels == number
        np.testing.assert_allclose(centers[number], np.average(X[some], axis=0, weights=times[some]))


def test_what_counts_more_is_closer() -> None:
    weights = np.where(np.arange(200) < 20, 50.0, 1.0)
    plain, weighed = (cluster(X, 8, iterations=50, sample=0, seed=0, weights=each) for each in (None, weights))
    lost = [float(weights @ np.square(X - centers[labels]).sum(1)) for centers, labels in (plain, weighed)]
    assert lost[1] < lost[0]


def test_the_first_center_is_drawn_by_weight() -> None:
    """Draws of one center out of four: each as often as its share of the weights, within three standard deviations."""
    weights, count = np.array([6.0, 1.0, 2.0, 1.0]), 2000
    drawn = [
        float(cluster(np.arange(4.0)[:, None], 1, iterations=0, sample=0, seed=seed, weights=weights)[0][0, 0])
        for seed in range(count)
    ]
    shares = np.bincount(np.array(drawn, np.int64), minlength=4) / count
    expected = weights / weights.sum()
    assert (np.abs(shares - expected) < 3 * np.sqrt(expected * (1 - expected) / count)).all()
