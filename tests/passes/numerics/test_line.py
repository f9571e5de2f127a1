"""Points in order: counts, means and labels between cuts, line by line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tersor.passes.numerics.line import Lines, labels, lloyd, middles

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 9))
POINTS = SHAPES.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=st.floats(-9, 9, width=16)))
RNG = np.random.default_rng(0)


@given(POINTS, st.lists(st.floats(-10, 10, width=16), min_size=1, max_size=5), st.booleans())
def test_a_cut_counts_the_points_below(points: np.ndarray, bounds: list[float], below: bool) -> None:
    tiled = np.tile(np.array(bounds), (len(points), 1))
    found = Lines.of(points).cut(tiled, below=below)
    for line, row in enumerate(points):
        assert found[line].tolist() == [int((row < b if below else row <= b).sum()) for b in bounds]


@given(POINTS, st.lists(st.floats(-10, 10, width=16), min_size=1, max_size=4), st.booleans())
def test_means_are_weighted_means_of_the_points_with_a_label(
    points: np.ndarray, bounds: list[float], weighed: bool
) -> None:
    between = np.tile(np.sort(np.array(bounds)), (len(points), 1))
    counts = np.random.default_rng(points.size).integers(0, 3, points.shape) if weighed else np.ones(points.shape)
    lines = Lines.of(points, counts.astype(np.float64) if weighed else None)
    found = lines.means(lines.edges(lines.cut(between)), np.full((len(points), len(bounds) + 1), 99.0))
    where = labels(points, between)
    for line, row in enumerate(points.astype(np.float64)):
        for part in range(len(bounds) + 1):
            members = where[line] == part
            mass = counts[line][members].sum()
            wanted = (row * counts[line])[members].sum() / mass if mass else 99.0
            # prefix sums of nine points below nine, three times each at most
            assert abs(found[line, part] - wanted) <= 9 * 9 * 27 * np.finfo(float).eps


@given(POINTS)
def test_bounds_between_cuts_give_the_parts_back(points: np.ndarray) -> None:
    lines = Lines.of(points)
    cuts = lines.cut(np.tile(np.array([-3.0, 0.0, 3.0]), (len(points), 1)))
    found = labels(points, lines.between(cuts))
    np.testing.assert_array_equal(found, labels(points, np.tile(np.array([-3.0, 0.0, 3.0]), (len(points), 1))))


def test_lines_do_not_see_each_other() -> None:
    points = RNG.standard_normal((5, 40))
    centers = np.linspace(points.min(1), points.max(1), 4, axis=1)
    together = lloyd(Lines.of(points), centers, 100)
    apart = [lloyd(Lines.of(row[None]), first[None], 100)[0] for row, first in zip(points, centers, strict=True)]
    np.testing.assert_array_equal(together, apart)


def test_centers_stay_in_order_and_idle_ones_where_they_are() -> None:
    points = np.array([[0.0, 0.1, 0.2, 9.0]])
    found = lloyd(Lines.of(points), np.array([[0.0, 5.0, 5.1, 9.0]]), 100)
    np.testing.assert_allclose(found, [[0.1, 5.0, 5.1, 9.0]], atol=4 * np.finfo(float).eps)
    assert (np.diff(found) > 0).all()


def test_a_point_in_the_middle_goes_down() -> None:
    assert labels(np.array([[1.0]]), middles(np.array([[0.0, 2.0]]))).tolist() == [[0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_mean_lies_between_its_points(dtype: type) -> None:
    """Sums of many points round; the mean of equal ones is still that number."""
    points = np.sort(np.concatenate([np.full(1000, 0.1), RNG.uniform(1e3, 2e3, 1000)]).astype(dtype))[None]
    lines = Lines.of(points)
    assert lines.means(np.array([[0, 1000, 2000]]), np.zeros((1, 2)))[0, 0] == points[0, 0]
