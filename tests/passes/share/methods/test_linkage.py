"""Distances of tensors, transposed or not, and complete linkage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from tersor.passes.share.methods.linkage import clusters, distances

RNG = np.random.default_rng(0)
A = RNG.standard_normal((6, 4))


def test_is_relative_to_the_smaller_one() -> None:
    apart, turned = distances([A, 1.25 * A], [False, False], 0.5)
    assert apart[0, 1] == pytest.approx(0.25)
    assert not turned.any()


def test_what_is_too_far_is_infinite() -> None:
    apart, _ = distances([A, RNG.standard_normal((6, 4)), A + 0.1], [False] * 3, 0.01)
    assert np.isinf(apart[np.triu_indices(3, 1)]).all()


def test_a_transpose_counts_where_one_may_be_turned() -> None:
    near = A.T * 1.01
    assert np.isinf(distances([A, near], [False, False], 0.1)[0][0, 1])
    apart, turned = distances([A, near], [False, True], 0.1)
    assert apart[0, 1] == pytest.approx(0.01)
    assert turned[0, 1]


def test_of_a_square_the_nearer_way_counts() -> None:
    square = RNG.standard_normal((5, 5))
    assert distances([square, square.T], [True, True], 0.5)[1][0, 1]
    assert not distances([square, square], [True, True], 0.5)[1][0, 1]


def test_zeros_are_alike() -> None:
    apart, _ = distances([np.zeros((2, 2)), np.zeros((2, 2)), np.ones((2, 2))], [False] * 3, 0.5)
    assert apart[0, 1] == 0.0
    assert np.isinf(apart[0, 2])


def test_many_rows_are_compared_in_pieces() -> None:
    one = RNG.standard_normal((3000, 2))
    other = one.copy()
    other[-1] += 0.01
    expected = np.linalg.norm(one - other) / min(np.linalg.norm(one), np.linalg.norm(other))
    assert distances([one, other], [False] * 2, 0.5)[0][0, 1] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most", [0.3, 0.8, 2.0])
def test_clusters_are_those_of_complete_linkage(seed: int, most: float) -> None:
    points = np.random.default_rng(seed).standard_normal((12, 2))
    found = clusters(squareform(pdist(points)), most)
    labels = fcluster(linkage(pdist(points), "complete"), most, "distance")
    expected = sorted(sorted(np.flatnonzero(labels == label).tolist()) for label in set(labels))
    assert sorted(found) == expected


@pytest.mark.parametrize("seed", range(5))
def test_no_two_members_are_too_far_apart(seed: int) -> None:
    points = np.random.default_rng(seed).standard_normal((20, 2))
    apart = squareform(pdist(points))
    assert all(apart[np.ix_(each, each)].max() <= 1.0 for each in clusters(apart, 1.0))


def test_a_chain_is_no_cluster() -> None:
    assert clusters(np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0))), 1.0) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("apart", [np.zeros((2, 3)), np.full((2, 2), np.nan)])
def test_refuses(apart: np.ndarray) -> None:
    with pytest.raises(ValueError):
        clusters(apart, 1.0)
