"""Sub-vectors that words share: drawn by chance, and reference vectors beside words that keep their own.

w_v = [a_k(v,1) | .. | a_k(v,K)]            Li et al., Slim Embedding Layers, 2018 (arXiv 1711.09873), section 3
w_v = [p_1,k(v,1) | .. | p_B,k(v,B)]        Suzuki and Nagata, Parameter Space Sharing, 2016: shared references
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import check
from ...numerics.vectors import cluster, means, nearest
from ..composed import Composed
from ..kept import Kept
from .compositional import compose, weighed

Numbers = NDArray[np.int64]

#: Of k-means.
_ITERATIONS = 6
#: Words on which clusters are found, for each.
_SAMPLE = 8


def drawn(table: Array, entries: int, width: int, *, weights: Array | None = None, seed: int = 0) -> Composed:
    """Sub-vectors of one pool that are drawn by chance, each as often as any other, as the paper assigns them.

    Of least error for that: the mean of what each stands for. Raises ValueError as `compose` does.
    """
    wide = check(table)
    words, columns = wide.shape
    if not 1 <= width <= columns:
        raise ValueError(f"expected a width of 1 to {columns}, found {width}")
    runs = -(-columns // width)
    if not 2 <= entries <= words * runs:
        raise ValueError(f"expected 2 to {words * runs} entries, as many as there are vectors, found {entries}")
    counting = weighed(weights, words)
    vectors = np.pad(wide, ((0, 0), (0, runs * width - columns))).reshape(words * runs, width)
    labels = np.random.default_rng(seed).permutation(len(vectors)) % entries
    each = None if counting is None else np.repeat(counting, runs)
    pool = means(vectors, labels, np.zeros((entries, width)), each)
    return Composed(labels.reshape(words, 1, runs), pool[None].astype(table.dtype), columns)


def referenced(
    table: Array,
    own: int,
    kept: Numbers | None = None,
    *,
    entries: int = 256,
    width: int = 4,
    weights: Array | None = None,
    iterations: int = 6,
    seed: int = 0,
) -> Kept | Composed:
    """Words whose blocks are one of `entries` references each, but for `own` words that keep their vectors.

    kept: the numbers of those; without, the ones whose weighted errors are largest. References are fitted to the
    others, with fewer entries where these are fewer. Raises ValueError as `compose` does, and for fewer than 2 others.
    """
    wide = check(table)
    if not 0 <= own <= len(wide) - 2:
        raise ValueError(f"expected 0 to {len(wide) - 2} words that keep their vectors, found {own}")
    counting = weighed(weights, len(wide))
    if not own:
        return compose(table, entries=entries, width=width, weights=weights, iterations=iterations, seed=seed)
    if kept is None:
        whole = compose(table, entries=entries, width=width, weights=weights, iterations=iterations, seed=seed)
        errors = np.square(wide - np.asarray(whole.dense(), np.float64)).sum(1) * (
            1.0 if counting is None else counting
        )
        kept = np.sort(np.argsort(-errors, kind="stable")[:own])
    others = np.setdiff1d(np.arange(len(wide)), kept)
    rest = compose(
        table[others],
        entries=min(entries, len(others)),
        width=width,
        weights=None if counting is None else counting[others],
        iterations=iterations,
        seed=seed,
    )
    codes = np.zeros((len(wide), *rest.codes.shape[1:]), np.int64)
    codes[others] = rest.codes
    return Kept(kept, np.ascontiguousarray(table[kept]), Composed(codes, rest.books, rest.columns))


def central(table: Array, count: int, *, weights: Array | None = None, seed: int = 0) -> Numbers:
    """The words nearest to the means of so many clusters, each once; in order."""
    wide = check(table)
    if not 1 <= count <= len(wide):
        raise ValueError(f"expected 1 to {len(wide)} words, found {count}")
    centers, _ = cluster(
        wide,
        count,
        iterations=_ITERATIONS,
        sample=_SAMPLE * count,
        seed=seed,
        weights=weighed(weights, len(wide)),
    )
    chosen = np.unique(nearest(centers, wide))
    if len(chosen) < count:
        # two means may be nearest to one word: the longest of the others stand in
        lengths = np.square(wide).sum(1)
        lengths[chosen] = -1
        chosen = np.union1d(chosen, np.argsort(-lengths, kind="stable")[: count - len(chosen)])
    return chosen
