"""k-means of vectors: k-means++ seeding by a seed, then Lloyd's iteration, its distances by matrix products."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arrays import Floats

Labels = NDArray[np.int64]

#: Numbers of a table of distances that are computed at once.
_CHUNK = 1 << 17


def cluster(
    vectors: Floats, count: int, *, iterations: int, sample: int, seed: int, weights: Floats | None = None
) -> tuple[Floats, Labels]:
    """Centers [count, width] of vectors [n, width], n >= 1, and the nearest one of each vector.

    weights: what the squared distance of each vector counts, [n], above zero; one unless given. Stops when no vector
    changes its center, or after so many iterations. With more than `sample` vectors (0 for no such limit), the centers
    are found on so many of them, evenly spaced, and then moved to the means of all once. A center without vectors stays
    where it is.
    """
    some, counting = vectors, weights
    if 0 < sample < len(vectors):
        drawn = np.arange(sample) * len(vectors) // sample
        some, counting = vectors[drawn], None if weights is None else weights[drawn]
    centers = _seeds(some, count, np.random.default_rng(seed), counting)
    labels = nearest(some, centers)
    for _ in range(iterations):
        centers = means(some, labels, centers, counting)
        found = nearest(some, centers)
        if np.array_equal(found, labels):
            break
        labels = found
    if some is not vectors:
        centers = means(vectors, nearest(vectors, centers), centers, weights)
        labels = nearest(vectors, centers)
    return centers, labels


def nearest(vectors: Floats, centers: Floats) -> Labels:
    """The nearest center of each vector in Euclidean distance, computed in float32; of several, the first."""
    # |x - c|^2 == |x|^2 - 2 (x c - |c|^2 / 2)
    half = (np.square(centers).sum(1) / 2).astype(np.float32)
    turned = np.ascontiguousarray(centers.T, np.float32)
    rows = max(_CHUNK // len(centers), 1)
    found = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), rows):
        chunk = vectors[start : start + rows].astype(np.float32) @ turned
        chunk -= half
        np.argmax(chunk, axis=1, out=found[start : start + rows])
    return found


def means(vectors: Floats, labels: Labels, centers: Floats, weights: Floats | None = None) -> Floats:
    """The mean of the vectors of each label, as their weights have it; a center without vectors stays."""
    order = np.argsort(labels, kind="stable")
    used, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    moved = centers.copy()
    if weights is None:
        moved[used] = np.add.reduceat(vectors[order], starts, axis=0) / counts[:, None]
    else:
        sums = np.add.reduceat(vectors[order] * weights[order, None], starts, axis=0)
        moved[used] = sums / np.add.reduceat(weights[order], starts)[:, None]
    return moved


def _seeds(vectors: Floats, count: int, random: np.random.Generator, weights: Floats | None) -> Floats:
    """Vectors drawn one after another with the squared distance to the nearest that is there (k-means++), by weight."""
    centers = np.empty((count, vectors.shape[1]))
    centers[0] = vectors[random.integers(len(vectors)) if weights is None else _drawn(np.cumsum(weights), random)]
    squares = np.square(vectors).sum(1)
    distance = _distance(vectors, squares, centers[0])
    for index in range(1, count):
        sums = np.cumsum(distance if weights is None else distance * weights)
        centers[index] = vectors[_drawn(sums, random)]
        np.minimum(distance, _distance(vectors, squares, centers[index]), out=distance)
    return centers


def _drawn(sums: Floats, random: np.random.Generator) -> int:
    """One of several, each as likely as its share of the sums [n]."""
    return min(int(np.searchsorted(sums, random.random() * sums[-1], side="right")), len(sums) - 1)


def _distance(vectors: Floats, squares: Floats, center: Floats) -> Floats:
    """|x - c|^2 of each vector, none below zero; squares: |x|^2."""
    return np.maximum(squares - 2 * (vectors @ center) + center @ center, 0)
