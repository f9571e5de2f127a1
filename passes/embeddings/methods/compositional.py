"""Compositional codes: rows as vectors of codebooks, side by side and added up, the books fitted by least squares.

    E = sum_v p_v |t_v - [ sum_s B_s0[c_vs0] | sum_s B_s1[c_vs1] | .. ]|^2

Shu and Nakayama, Compressing Word Embeddings via Deep Compositional Code Learning, 2018 (arXiv 1711.01068), equation 1,
learn such codes by a network; here they alternate as in Babenko and Lempitsky, Additive Quantization for Extreme Vector
Compression, 2014, section 3: books are least squares given codes, codes a beam search given books. With one stage that
is product quantization: Jegou et al., Product Quantization for Nearest Neighbor Search, 2011.
"""

from __future__ import annotations

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...numerics.least_squares import fitted
from ...numerics.vectors import Labels, cluster, means, nearest
from ..composed import Composed

#: Vectors on which books are learnt, for each entry, before all take part; and in how many iterations these do.
_SAMPLE, _LAST = 32, 2
#: Iterations of a trial.
_TRIED = 2
#: Between the seeds of stages.
_APART = 7919
#: Toward the books that are there, as a share of the mean count of an entry: entries that nobody uses stay.
_RIDGE = 1e-7
#: Numbers of a table of distances of a beam.
_CHUNK = 1 << 22


def compose(
    table: Array,
    *,
    entries: int = 256,
    width: int = 0,
    stages: int = 1,
    shared: bool = False,
    weights: Array | None = None,
    iterations: int = 8,
    beam: int = 4,
    seed: int = 0,
) -> Composed:
    """Codes and books of a table [words, columns].

    entries: of a book, at most as many as there are vectors. width: columns of a vector, 0 for all; what is missing of
    the last run counts as zeros. stages: vectors that add up. shared: one book for all runs. weights: p, [words], above
    zero. iterations: of k-means for the first books and codes, and of fitting both in turn, of which no step raises the
    error; with 0 codes are those of the first books. Where there are more than 32 vectors for each entry, so many of
    them, drawn by the seed, find the books before all take part in two iterations more at most. beam: sums that the
    search for codes keeps.

    Raises ValueError for a table that is no matrix of finite numbers, for weights that are not above zero, and for
    other numbers than these.
    """
    wide = check(table)
    words, columns = wide.shape
    width = width or columns
    for name, value, least in (
        ("entries", entries, 2), ("width", width, 1), ("stages", stages, 1), ("iterations", iterations, 0),
        ("beam", beam, 1),
    ):  # fmt: skip
        if value < least:
            raise ValueError(f"expected {name} of at least {least}, found {value}")
    if width > columns:
        raise ValueError(f"expected a width of at most the {columns} columns, found {width}")
    if shared and stages > 1:
        raise ValueError(f"expected one stage of vectors that all runs share, found {stages}")
    counting = weighed(weights, words)
    runs = -(-columns // width)
    vectors = np.zeros((words, runs * width))
    vectors[:, :columns] = wide
    apart = vectors.reshape(1, words * runs, width) if shared else vectors.reshape(words, runs, width).swapaxes(0, 1)
    if entries > apart.shape[1]:
        raise ValueError(f"expected at most {apart.shape[1]} entries, as many as there are vectors, found {entries}")
    each = None if counting is None else np.repeat(counting, runs) if shared else counting
    found = [
        _fitted(np.ascontiguousarray(part), entries, stages, each, iterations, beam, seed + number)
        for number, part in enumerate(apart)
    ]
    books = np.stack([each_book for _, each_book in found], axis=1).reshape(-1, entries, width)
    codes = np.stack([labels for labels, _ in found], axis=2)
    return Composed(codes.reshape(words, stages, runs), books.astype(table.dtype), columns)


def trial(table: Array, *, entries: int, width: int, stages: int, weights: Array | None = None, seed: int = 0) -> float:
    """The share of the squares that `compose` loses, roughly: found on two runs of columns."""
    columns = table.shape[1]
    middle = (columns // width // 2) * width
    some = np.concatenate([table[:, :width], table[:, middle : middle + width]], axis=1)
    made = compose(
        some, entries=entries, width=width, stages=stages, weights=weights, iterations=_TRIED, beam=2, seed=seed
    )
    wide, counting = np.asarray(some, np.float64), weighed(weights, len(some))
    each = np.ones(len(some)) if counting is None else counting
    squares = float(each @ np.square(wide).sum(1))
    return float(each @ np.square(wide - np.asarray(made.dense(), np.float64)).sum(1)) / (squares or 1.0)


def weighed(weights: Array | None, words: int) -> Floats | None:
    """Weights of a mean of one. Raises ValueError where they are not above zero, one for each word."""
    if weights is None:
        return None
    wide = np.asarray(weights, np.float64)
    if wide.shape != (words,) or not np.isfinite(wide).all() or wide.min(initial=1.0) <= 0:
        raise ValueError(f"expected a weight above zero for each of {words} words, found {wide.shape}")
    scaled: Floats = wide / wide.mean()
    return scaled


def refit(vectors: Floats, codes: Labels, books: Floats, weights: Floats | None = None, *, joint: int = 4096) -> Floats:
    """Books of least error for these codes, [stages, entries, width]; entries that nobody uses stay.

    vectors: [n, width]. codes: [n, stages]. Past `joint` entries in all, a stage at a time given the others.
    """
    stages, entries, _ = books.shape
    if stages > 1 and stages * entries <= joint:
        return _jointly(vectors, codes, books, weights)
    made = books.copy()
    left = vectors - decoded(codes, made)
    for stage in range(stages):
        left += made[stage][codes[:, stage]]
        made[stage] = means(left, codes[:, stage], made[stage], weights)
        left -= made[stage][codes[:, stage]]
    return made


def recode(vectors: Floats, codes: Labels, books: Floats, beam: int = 4) -> Labels:
    """Codes of no larger error for any vector: a beam search, then the best code of each stage given the others.

    beam: sums that the search keeps; 1 for no search.
    """
    made = codes
    if len(books) > 1 and beam > 1:
        made = _better(vectors, made, _searched(vectors, books, beam), books)
    for stage in range(len(books)):
        rest = vectors - decoded(made, books) + books[stage][made[:, stage]]
        moved = made.copy()
        moved[:, stage] = nearest(rest, books[stage])
        made = _better(vectors, made, moved, books)
    return made


def decoded(codes: Labels, books: Floats) -> Floats:
    """Sums of the vectors of codes [n, stages], [n, width]."""
    found: Floats = books[0][codes[:, 0]]
    for stage in range(1, len(books)):
        found = found + books[stage][codes[:, stage]]
    return found


def _fitted(
    vectors: Floats, entries: int, stages: int, weights: Floats | None, iterations: int, beam: int, seed: int
) -> tuple[Labels, Floats]:
    """Codes [n, stages] and books [stages, entries, width] of one run."""
    # a power of two: its squares neither overflow nor vanish
    unit = float(np.ldexp(1.0, int(np.frexp(np.abs(vectors).max(initial=0.0))[1]))) or 1.0
    scaled = vectors / unit
    some, counting = scaled, weights
    if len(scaled) > _SAMPLE * entries:
        drawn = np.random.default_rng(seed).permutation(len(scaled))[: _SAMPLE * entries]
        some, counting = scaled[drawn], None if weights is None else weights[drawn]
    codes, books = stacked(some, entries, stages, counting, iterations, seed)
    if stages > 1:
        codes, books = alternated(some, codes, books, counting, iterations, beam)
    if some is not scaled:
        codes = recode(scaled, _greedy(scaled, books), books, beam)
    if some is not scaled or stages == 1:
        codes, books = alternated(scaled, codes, books, weights, min(_LAST, iterations), 1)
    return codes, books * unit


def alternated(
    vectors: Floats, codes: Labels, books: Floats, weights: Floats | None, iterations: int, beam: int = 4
) -> tuple[Labels, Floats]:
    """Books and codes fitted in turn, until codes stay or after so many iterations."""
    for _ in range(iterations):
        books = refit(vectors, codes, books, weights)
        moved = recode(vectors, codes, books, beam)
        if np.array_equal(moved, codes):
            break
        codes = moved
    return codes, books


def stacked(
    vectors: Floats, entries: int, stages: int, weights: Floats | None = None, iterations: int = 8, seed: int = 0
) -> tuple[Labels, Floats]:
    """Codes and books of k-means, each stage of what those before it leave."""
    left, found, labels = vectors.copy(), [], []
    for stage in range(stages):
        centers, near = cluster(
            left, entries, iterations=iterations, sample=0, seed=seed + _APART * stage, weights=weights
        )
        found.append(centers)
        labels.append(near)
        left -= centers[near]
    return np.stack(labels, axis=1), np.stack(found)


def _greedy(vectors: Floats, books: Floats) -> Labels:
    """The nearest vector of each book to what those before it leave."""
    left, labels = vectors.copy(), []
    for book in books:
        labels.append(nearest(left, book))
        left -= book[labels[-1]]
    return np.stack(labels, axis=1)


def _jointly(vectors: Floats, codes: Labels, books: Floats, weights: Floats | None) -> Floats:
    """The least squares of all stages at once: C.T P C B = C.T P X, C having a one in each row for each stage."""
    stages, entries, width = books.shape
    gram = np.empty((stages, entries, stages, entries))
    joint = np.zeros((stages, entries, width))
    shared = vectors if weights is None else vectors * weights[:, None]
    for one in range(stages):
        order = np.argsort(codes[:, one], kind="stable")
        used, starts = np.unique(codes[order, one], return_index=True)
        joint[one, used] = np.add.reduceat(shared[order], starts, axis=0)
        for other in range(one, stages):
            pairs = codes[:, one] * entries + codes[:, other]
            counts = np.bincount(pairs, weights, entries * entries).reshape(entries, entries)
            gram[one, :, other], gram[other, :, one] = counts, counts.T
    count = stages * entries
    solved = fitted(gram.reshape(count, count), joint.reshape(count, width), books.reshape(count, width), ridge=_RIDGE)
    return solved.weight.reshape(books.shape)


def _searched(vectors: Floats, books: Floats, beam: int) -> Labels:
    """Codes [n, stages] of the best sums that a beam finds, stage after stage."""
    stages, entries, _ = books.shape
    step = max(_CHUNK // (beam * entries), 1)
    parts = [_beam(vectors[start : start + step], books, beam) for start in range(0, len(vectors), step)]
    return np.concatenate(parts) if parts else np.zeros((0, stages), np.int64)


def _beam(vectors: Floats, books: Floats, beam: int) -> Labels:
    count, width = vectors.shape
    turned = books.astype(np.float32)
    left = vectors.astype(np.float32)[:, None]
    codes = np.zeros((count, 1, 0), np.int64)
    for number, book in enumerate(turned, 1):
        held, entries = left.shape[1], len(book)
        # |r - b|^2 == |r|^2 - 2 r b + |b|^2
        cost = (left.reshape(-1, width) @ (-2 * book.T)).reshape(count, held, entries)
        cost += np.square(book).sum(1)
        cost += np.square(left).sum(2, keepdims=True)
        flat = cost.reshape(count, -1)
        kept = min(beam, flat.shape[1])
        last_of_all = number == len(turned)
        best = flat.argmin(1)[:, None] if last_of_all else np.argpartition(flat, kept - 1, axis=1)[:, :kept]
        parents, last = best // entries, best % entries
        left = np.take_along_axis(left, parents[:, :, None], 1) - book[last]
        codes = np.concatenate([np.take_along_axis(codes, parents[:, :, None], 1), last[:, :, None]], axis=2)
    found: Labels = codes[:, 0]
    return found


def _better(vectors: Floats, codes: Labels, moved: Labels, books: Floats) -> Labels:
    """The codes that err less for each vector; those that are there where it is the same."""
    before = np.square(vectors - decoded(codes, books)).sum(1)
    after = np.square(vectors - decoded(moved, books)).sum(1)
    return np.where((after < before)[:, None], moved, codes)
