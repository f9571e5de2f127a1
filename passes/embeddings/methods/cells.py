"""Words in a table of about sqrt(V) rows and columns: each is its row's vector and its column's.

    sum       word = row[i] + column[j]                    E = sum_v p_v |t_v - r_i(v) - c_j(v)|^2
    concat    word = [ row[i] | column[j] ]                one word in each cell (i, j)

Li et al., LightRNN: Memory and Computation-Efficient Recurrent Neural Networks, 2016 (arXiv 1610.09893), sections 3.1
and 3.3. There which word has which cell is a matching of least cost over all words and cells, every few epochs; here
the words of each row are matched with its columns, then those of each column with its rows, all rows at once, and
vectors are least squares in between. No step raises the error.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...numerics.assignment import near_assignments
from ...numerics.vectors import cluster
from ..composed import Composed
from .compositional import weighed

Ints = NDArray[np.int64]
Join = Literal["sum", "concat"]

#: Numbers of the costs that are looked at together.
_CHUNK = 1 << 23
#: Turns of rows and columns, each the least squares given the other.
_SWEEPS = 3
_FIRST = 8


def cells(
    table: Array,
    *,
    join: Join = "sum",
    width: int = 0,
    weights: Array | None = None,
    iterations: int = 4,
    seed: int = 0,
) -> Composed:
    """Tables of words and the vectors of their rows and columns, ceil(sqrt(V)) rows and as many columns as are needed.

    width: columns of a run, each of which has a table of words of its own; 0 for one of whole words, as in the paper.
    `concat` takes an even width. weights: p, [words], above zero. iterations: of least squares and matching both ways.
    Raises ValueError for a table [words, columns] of fewer than two of either, or that is no matrix of finite numbers.
    """
    wide = check(table)
    words, columns = wide.shape
    if words < 2 or columns < 2:
        raise ValueError(f"expected at least two words and columns, found {words} and {columns}")
    if join not in ("sum", "concat"):
        raise ValueError(f"expected sum or concat, found {join}")
    if iterations < 0:
        raise ValueError(f"expected iterations of at least 0, found {iterations}")
    if not 0 <= width <= columns:
        raise ValueError(f"expected a width of at most the {columns} columns, or 0 for all, found {width}")
    counting = weighed(weights, words)
    counting = np.ones(words) if counting is None else counting
    width = width or columns
    width += width % 2 if join == "concat" else 0
    runs = -(-columns // width)
    filled = np.pad(wide, ((0, 0), (0, runs * width - columns))).reshape(words, runs, width)
    masks = np.ones((2, width))
    if join == "concat":
        masks[0, width // 2 :], masks[1, : width // 2] = 0, 0
    parts = [_run(np.ascontiguousarray(filled[:, run]), masks, counting, iterations, seed + run) for run in range(runs)]
    codes, books = np.stack([at for at, _ in parts], axis=2), np.stack([book for _, book in parts], axis=1)
    # [2, runs, entries, width]
    if join == "sum":
        return Composed(codes, books.reshape(2 * runs, -1, width).astype(table.dtype), columns)
    halves = np.stack([books[0][:, :, : width // 2], books[1][:, :, width // 2 :]], axis=1)
    joined = codes.swapaxes(1, 2).reshape(words, 1, 2 * runs)
    return Composed(joined, halves.reshape(2 * runs, -1, width // 2).astype(table.dtype), columns)


def _run(vectors: Floats, masks: Floats, weights: Floats, iterations: int, seed: int) -> tuple[Ints, Floats]:
    """Cells [words, 2] and vectors [2, entries, width] of one table of words; the shorter side is filled with zeros."""
    high = math.isqrt(len(vectors) - 1) + 1
    at, books = placed(vectors, (high, -(-len(vectors) // high)), masks, weights, seed)
    for _ in range(iterations):
        books = fit(vectors, at, books, masks, weights)
        moved = matched(vectors, at, books, weights)
        if np.array_equal(moved, at):
            break
        at = moved
    books = fit(vectors, at, books, masks, weights)
    return at, np.stack([np.pad(book, ((0, high - len(book)), (0, 0))) for book in books])


def placed(
    vectors: Floats, shape: tuple[int, int], masks: Floats, weights: Floats, seed: int
) -> tuple[Ints, list[Floats]]:
    """First cells [words, 2], no two alike, and vectors of rows and columns, by k-means."""
    high, across = shape
    rows, _ = cluster(vectors * masks[0], high, iterations=_FIRST, sample=0, seed=seed, weights=weights)
    row = _filled(vectors, rows, across)
    books = [rows * masks[0], np.zeros((across, vectors.shape[1]))]
    left = (vectors - books[0][row]) * masks[1]
    books[1], _ = cluster(left, across, iterations=_FIRST, sample=0, seed=seed + 1, weights=weights)
    # the words of each row in the order in which they are
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(high))
    at = np.stack([row, np.empty_like(row)], axis=1)
    at[order, 1] = np.arange(len(row)) - starts[row[order]]
    return _matched(vectors, at, books, weights, 1), books


def fit(vectors: Floats, at: Ints, books: list[Floats], masks: Floats, weights: Floats) -> list[Floats]:
    """Vectors of rows and of columns, each the least squares given the others."""
    made = list(books)
    counts = [np.bincount(at[:, side], weights, len(books[side])) for side in (0, 1)]
    for _ in range(_SWEEPS):
        for side in (0, 1):
            rest = (vectors - made[1 - side][at[:, 1 - side]]) * weights[:, None]
            order = np.argsort(at[:, side], kind="stable")
            used, starts = np.unique(at[order, side], return_index=True)
            moved = made[side].copy()
            moved[used] = np.add.reduceat(rest[order], starts, axis=0) / counts[side][used, None]
            made[side] = moved * masks[side]
    return made


def matched(vectors: Floats, at: Ints, books: list[Floats], weights: Floats) -> Ints:
    """Cells of no larger error: columns of the words of each row, then rows of those of each column."""
    return _matched(vectors, _matched(vectors, at, books, weights, 1), books, weights, 0)


def _matched(vectors: Floats, at: Ints, books: list[Floats], weights: Floats, side: int) -> Ints:
    """Match anew, in each line of the other side, its words with the lines of this one."""
    made, count, other = at.copy(), len(books[side]), len(books[1 - side])
    order = np.argsort(at[:, 1 - side], kind="stable")
    starts = np.searchsorted(at[order, 1 - side], np.arange(other + 1))
    squares = np.square(books[side]).sum(1)
    step = max(_CHUNK // count**2, 1)
    for first in range(0, other, step):
        lines = range(first, min(first + step, other))
        costs = np.zeros((len(lines), count, count))
        held = []
        for number, line in enumerate(lines):
            some = order[starts[line] : starts[line + 1]]
            held.append(some)
            left = vectors[some] - books[1 - side][line]
            # |x - b|^2 less what no choice changes
            costs[number, : len(some)] = weights[some, None] * (squares - 2 * left @ books[side].T)
        found = near_assignments(costs)
        for number, some in enumerate(held):
            new = found[number, : len(some)]
            rows = np.arange(len(some))
            if costs[number, rows, new].sum() < costs[number, rows, at[some, side]].sum():
                made[some, side] = new
    return made


def _filled(vectors: Floats, centers: Floats, room: int) -> Ints:
    """The nearest center of each vector that has room for it: nearer ones first."""
    costs = np.square(centers).sum(1) - 2 * vectors @ centers.T
    found = np.full(len(vectors), -1)
    free, squares = np.full(len(centers), room), np.square(vectors).sum(1)
    waiting = np.arange(len(vectors))
    while waiting.size:
        near = costs[waiting].argmin(1)
        price = costs[waiting, near] + squares[waiting]
        order = np.lexsort((price, near))
        starts = np.searchsorted(near[order], np.arange(len(centers)))
        rank = np.arange(len(order)) - starts[near[order]]
        fits = rank < free[near[order]]
        taken = order[fits]
        found[waiting[taken]] = near[taken]
        free -= np.bincount(near[taken], minlength=len(centers))
        costs[:, free == 0] = np.inf
        waiting = waiting[order[~fits]]
    return found
