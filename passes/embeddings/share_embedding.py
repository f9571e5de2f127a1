"""Let words of embedding tables share vectors, and parts of them; the table is never made whole.

    before   e = Gather(table, ids)                                       [words, width]
             s = x @ table.T + b                                          where an output head is tied to it
    after    e = Reshape(Gather(pool, Gather(codes, ids)))                slim: runs of columns out of one pool
             e = Gather(rows, i) + Gather(columns, j)                     lightrnn: (i, j) = Gather(cells, ids)
             e = Gather(shares, ids) @ Gather(common, Gather(index, ids)) sparse: sums of few common words
             e = Where(p < n, Gather(own, p), Reshape(Gather(..)))        reference: p = Gather(place, ids)
             s = sum over parts of Gather(part @ x, codes) + b            a Scan; no table here either

Lossy. What the papers train from scratch is fitted here to a table that is trained:

    slim        w_v = [a_k(v,1) | .. | a_k(v,K)]: K sub-vectors out of one pool of M for all places. Which of them is by
                k-means; `random` as in the paper: each is as often as any other, and the mean of what it stands for.
    lightrnn    w_v = r_i(v) + c_j(v), or [r_i(v) | c_j(v)], one word in each cell (i, j) of a table of sqrt(V) by
                sqrt(V). The table of words and the vectors are fitted in turn; no step raises the error.
    reference   w_v = [p_1,k(v,1) | .. | p_B,k(v,B)]: each block of a word is one of a few reference vectors of that
                block, which all words share. Words that are looked up most keep vectors of their own.
    sparse      w_v = sum_j a_vj u_i(v,j): common words u stay, others are sums of few of those.

Without calibration data common words are those nearest to the means of as many clusters, and those that keep their
vectors the ones that references fit worst. Seeded by the context.

Sources: Li et al., Slim Embedding Layers for Recurrent Neural Language Models, 2018 (section 3); Li et al., LightRNN,
2016 (section 3); Suzuki and Nagata, Learning Compact Neural Word Embeddings by Parameter Space Sharing, 2016, which
finds references by training under constraints, here they are k-means; Chen, Mou et al., Compressing Neural Language
Models by Sparse Word Representations, 2016 (section 3).

Left alone: tables that are read otherwise too, given out, quantized, coded, small or not finite; those with fewer words
than a pool has vectors; those that do not fit into the ratio; and on a target where their output head would be slower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import OptionError
from ..base import Miss
from ..edit import Array
from ..numerics.arrays import Floats
from .embedding_pass import Stand, WordsPass
from .methods.cells import cells
from .methods.compositional import compose, trial
from .methods.pools import central, drawn, referenced
from .methods.sparse import combine
from .sizes import combination, composition, rows_and_columns

#: The options that each method takes.
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "slim": ("pool", "width", "assign"),
    "lightrnn": ("width", "join"),
    "sparse": ("common", "nonzeros", "nonnegative"),
    "reference": ("pool", "width", "common"),
}
#: Vectors of a pool where nobody says: of all places, of a block.
_POOL, _REFERENCES = (4096, 256, 64, 16), (256, 128, 64, 32, 16, 4)
#: Of the bytes that may stay, for words that keep their vectors.
_OWN = 0.25


@dataclass(frozen=True, kw_only=True)
class ShareEmbedding(WordsPass):
    """embedding tables whose words share vectors

    method: `slim`, sub-vectors out of one pool; `lightrnn`, vectors of the rows and columns of a table of words;
        `sparse`, sums of few common words; `reference`, blocks that are one of few reference vectors each.
    ratio: the share of a table's bytes that may stay, 1/8 unless told; of the sizes that fit into it, those that
        lose the least of some columns, or say most of a word (slim). Without a ratio `width`, or for sparse `common`
        and `nonzeros` together, may come to any number of bytes that is fewer than before.
    pool: slim, reference: vectors of the pool, 4096 or fewer by the ratio, or of each block, 256 or fewer.
    width: slim, reference: columns of a vector. lightrnn: of a run with a table of words of its own, 0 for all. By the
        ratio.
    assign: slim: which vector of the pool, by `kmeans` or `random`. join: lightrnn: `sum` or `concat`.
    common: sparse, reference: words that keep their vectors; 0.4 and 0.25 of the bytes by the ratio.
    nonzeros: sparse: common words of a word; the rest. nonnegative: sparse: no coefficient below zero.
    iterations: of fitting in turn, 4.
    weight: words count as often as calibration data have them (`frequency`), all the same (`none`), or by frequency
        where there are data (`auto`). smoothing: how often each word counts beside that. power: of the sum, by which an
        error weighs.
    heads: output heads whose scores are computed so too: those `tied` to a table, `all` that are as long as one, or
        `none`: tables with a head stay as they are.
    smallest: tables of fewer numbers stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "share-embedding"
    method: Literal["slim", "lightrnn", "sparse", "reference"] = "slim"
    pool: int | None = None
    width: int | None = None
    assign: Literal["kmeans", "random"] | None = None
    join: Literal["sum", "concat"] | None = None
    common: int | None = None
    nonzeros: int | None = None
    nonnegative: bool | None = None
    iterations: int = 4

    def __post_init__(self) -> None:
        given = self.takes(self.method, _OPTIONS)
        sizes = {name: given[name] for name in ("pool", "width", "common", "nonzeros")}
        least = {
            "pool": 2,
            "width": 0 if self.method == "lightrnn" else 1,
            "common": 0 if self.method == "reference" else 1,
            "iterations": 0,
        }
        self.check(sizes | {"iterations": self.iterations}, least)
        if self.pool is not None and self.pool > 1 << 16:
            raise OptionError(f"{self.name}: expected a pool of at most 65536, found {self.pool}")

    def stand(self, table: Array, seen: NDArray[np.int64] | None, weights: Floats | None, seed: int) -> Stand | Miss:
        words, columns = table.shape
        if self.width is not None and self.width > columns:
            return Miss("width", f"{columns} columns", f"at least the {self.width} of a vector")
        if self.common is not None and self.common > words:
            return Miss("words", f"{words}", f"at least the {self.common} common ones")
        if self.method == "slim":
            return self._slim(table, weights, seed)
        if self.method == "lightrnn":
            return self._cells(table, weights, seed)
        if self.method == "sparse":
            return self._sparse(table, seen, weights, seed)
        return self._reference(table, seen, weights, seed)

    def _slim(self, table: Array, weights: Floats | None, seed: int) -> Stand | Miss:
        sizes = composition(
            (len(table), table.shape[1]),
            table.itemsize,
            self._room(table, self.width),
            entries=_POOL if self.pool is None else (self.pool,),
            widths=None if self.width is None else (self.width,),
            shared=True,
            rule=self._rule(self.width),
        )
        if isinstance(sizes, Miss):
            return sizes
        size = sizes[0]
        if self.assign == "random":
            made = drawn(table, size.entries, size.width, weights=weights, seed=seed)
        else:
            made = compose(
                table,
                entries=size.entries,
                width=size.width,
                shared=True,
                weights=weights,
                iterations=self.iterations,
                seed=seed,
            )
        return Stand(made, f"{size.runs} of {size.entries:,} vectors of {size.width} columns")

    def _cells(self, table: Array, weights: Floats | None, seed: int) -> Stand | Miss:
        words, columns = table.shape
        if words < 4 or columns < 2:
            return Miss("words", f"{words} of {columns} columns", "at least 4 words of 2 columns")
        join = self.join or "sum"
        room = self._room(table, self.width)
        width = rows_and_columns(
            (words, columns),
            table.itemsize,
            room,
            halves=join == "concat",
            width=self.width,
            rule=self._rule(self.width),
        )
        if isinstance(width, Miss):
            return width
        made = cells(table, join=join, width=width, weights=weights, iterations=self.iterations, seed=seed)
        # a row and a column for each table of words
        runs = made.codes[0].size // 2
        tables = "1 table" if runs == 1 else f"{runs} tables"
        return Stand(made, f"{tables} of words, {made.books.shape[1]} rows and as many columns")

    def _sparse(self, table: Array, seen: NDArray[np.int64] | None, weights: Floats | None, seed: int) -> Stand | Miss:
        told = self.ratio is None and self.common is not None and self.nonzeros is not None
        room = table.nbytes if told else self.room(table)
        size = combination(
            (len(table), table.shape[1]),
            table.itemsize,
            room,
            atoms=self.common,
            nonzeros=self.nonzeros,
            rule="bytes" if told else "ratio",
        )
        if isinstance(size, Miss):
            return size
        count, nonzeros = size
        common = central(table, count, weights=weights, seed=seed) if seen is None else _most(seen, count)
        made = combine(table, common, nonzeros=nonzeros, nonnegative=bool(self.nonnegative))
        return Stand(made, f"{nonzeros} of {count:,} common words")

    def _reference(
        self, table: Array, seen: NDArray[np.int64] | None, weights: Floats | None, seed: int
    ) -> Stand | Miss:
        words, columns = table.shape
        room = self._room(table, self.width)
        each = columns * table.itemsize
        own = int(_OWN * self.room(table)) // each if self.common is None else self.common
        if own > words - 2:
            return Miss("words", f"{words}", f"2 more than the {own} that keep their vectors")
        sizes = composition(
            (words, columns),
            table.itemsize,
            room,
            entries=_REFERENCES if self.pool is None else (self.pool,),
            widths=None if self.width is None else (self.width,),
            # where the vector of a word is stands beside it
            beside=own * each + words * (0 if not own else 1 if own < 1 << 8 else 2 if own < 1 << 16 else 4),
            rule=self._rule(self.width),
        )
        if isinstance(sizes, Miss):
            return sizes
        size = min(
            sizes,
            key=lambda each: trial(table, entries=each.entries, width=each.width, stages=1, weights=weights, seed=seed),
        )
        kept = None if seen is None else _most(seen, own)
        made = referenced(
            table,
            own,
            kept,
            entries=size.entries,
            width=size.width,
            weights=weights,
            iterations=self.iterations,
            seed=seed,
        )
        return Stand(made, f"{own:,} words of their own, {size.runs} blocks of {size.entries} references")

    def _room(self, table: Array, width: int | None) -> int:
        """Bytes that may stay: those of the ratio, or fewer than now where sizes are given instead."""
        return table.nbytes if self.ratio is None and width is not None else self.room(table)

    def _rule(self, width: int | None) -> str:
        """What does not fit where it is too large."""
        return "bytes" if self.ratio is None and width is not None else "ratio"


def _most(seen: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The words that are looked up most, most first."""
    return np.argsort(-seen, kind="stable")[:count]
