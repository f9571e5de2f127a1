"""Store words of embedding tables by codes into a few vectors; the table is never made whole.

    before   e = Gather(table, ids)                                           [words, width]
             s = x @ table.T + b                                              where an output head is tied to it
    after    e = Reshape(Gather(books, Cast(Gather(codes, ids)) + starts))    product: vectors side by side
             e = ReduceSum(..)                                                residual: vectors that add up
             e = Gather(shares, ids) @ Gather(atoms, Gather(index, ids))      sparse: sums of few atoms
             s = sum over parts of Gather(books @ x, codes) + b               a Scan; no table here either

Lossy. Books are least squares given codes, and codes the best that are found given books, in turn; no such step raises
the error. Each word counts as often as calibration looks it up, and a little more. Codes of 8 bits are bytes, of 1, 2
and 4 several in a byte, of more two bytes. `quantize-codebook` rebuilds the table at every run; this casts and gathers
the codes of the words that are there. Seeded by the context.

Sources: Shu and Nakayama, Compressing Word Embeddings via Deep Compositional Code Learning, 2018; Jegou et al., Product
Quantization for Nearest Neighbor Search, 2011; Babenko and Lempitsky, Additive Quantization, 2014; Faruqui et al.,
Sparse Overcomplete Word Vector Representations, 2015 (formulas: `methods.compositional`, `methods.sparse`).

Left alone: tables that are read otherwise too, given out, quantized, coded, small or not finite; those with fewer words
than a book has entries; those that do not fit into the ratio; and on a target where their output head would be slower.
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
from .methods.compositional import compose, trial
from .methods.sparse import learn
from .sizes import Size, combination, composition

#: The sizes that each method takes.
_SIZES: Mapping[str, tuple[str, ...]] = {
    "product": ("entries", "width"),
    "residual": ("entries", "width", "stages", "beam"),
    "sparse": ("atoms", "nonzeros"),
}
#: Entries of a book, and vectors that add up, where nobody says.
_ENTRIES, _STAGES = (256, 128, 64, 32, 16, 4), (2, 3, 4)


@dataclass(frozen=True, kw_only=True)
class CodeEmbedding(WordsPass):
    """embedding tables by codes into books of vectors

    method: `product`, vectors of a few columns side by side; `residual`, of vectors that add up; `sparse`, sums of few
        atoms of a dictionary with a coefficient each.
    ratio: the share of a table's bytes that may stay, 1/8 unless told; of the sizes that fit into it, those that
        lose the least of some columns. Without a ratio `width`, or `atoms` and `nonzeros` together, may come to any
        number of bytes that is fewer than before.
    entries: product, residual: vectors of a book, up to 65536; 256 or fewer by the ratio.
    width: product, residual: columns of a vector; by the ratio, 0 for all.
    stages: residual: vectors that add up, 2 to 4 by the ratio. beam: residual: sums that the search for codes keeps, 4.
    atoms: sparse: of the dictionary; 0.4 of the bytes by the ratio. nonzeros: sparse: atoms of a word; the rest.
    iterations: of fitting books and codes in turn, 6.
    weight: words count as often as calibration data have them (`frequency`), all the same (`none`), or by frequency
        where there are data (`auto`). smoothing: how often each word counts beside that. power: of the sum, by which an
        error weighs.
    heads: output heads whose scores are computed from codes too: those `tied` to a table, `all` that are as long as
        one, or `none`: tables with a head stay as they are.
    smallest: tables of fewer numbers stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "code-embedding"
    method: Literal["product", "residual", "sparse"] = "product"
    entries: int | None = None
    width: int | None = None
    stages: int | None = None
    beam: int | None = None
    atoms: int | None = None
    nonzeros: int | None = None
    iterations: int = 6

    def __post_init__(self) -> None:
        sizes = self.takes(self.method, _SIZES)
        self.check(sizes | {"iterations": self.iterations}, {"width": 0, "entries": 2, "iterations": 0})
        if self.entries is not None and self.entries > 1 << 16:
            raise OptionError(f"{self.name}: expected entries of at most 65536, found {self.entries}")

    def stand(self, table: Array, seen: NDArray[np.int64] | None, weights: Floats | None, seed: int) -> Stand | Miss:
        if self.method == "sparse":
            return self._summed(table, weights, seed)
        words, columns = table.shape
        if self.width is not None and self.width > columns:
            return Miss("width", f"{columns} columns", f"at least the {self.width} of a vector")
        stages = (1,) if self.method == "product" else _STAGES if self.stages is None else (self.stages,)
        told = self.ratio is None and self.width is not None
        sizes = composition(
            (words, columns),
            table.itemsize,
            table.nbytes if told else self.room(table),
            entries=_ENTRIES if self.entries is None else (self.entries,),
            widths=None if self.width is None else (self.width or columns,),
            stages=stages,
            rule="bytes" if told else "ratio",
        )
        if isinstance(sizes, Miss):
            return sizes
        size = sizes[0] if len(sizes) == 1 else min(sizes, key=lambda each: _tried(table, each, weights, seed))
        made = compose(
            table,
            entries=size.entries,
            width=size.width,
            stages=size.stages,
            weights=weights,
            iterations=self.iterations,
            beam=4 if self.beam is None else self.beam,
            seed=seed,
        )
        added = f" and {size.stages} that add up" if size.stages > 1 else ""
        return Stand(made, f"{size.runs} runs of {size.width} columns{added}, books of {size.entries}")

    def _summed(self, table: Array, weights: Floats | None, seed: int) -> Stand | Miss:
        told = self.ratio is None and self.atoms is not None and self.nonzeros is not None
        words, columns = table.shape
        if self.atoms is not None and self.atoms > words:
            return Miss("words", f"{words}", f"at least the {self.atoms} atoms of the dictionary")
        room = table.nbytes if told else self.room(table)
        size = combination(
            (words, columns),
            table.itemsize,
            room,
            atoms=self.atoms,
            nonzeros=self.nonzeros,
            rule="bytes" if told else "ratio",
        )
        if isinstance(size, Miss):
            return size
        atoms, nonzeros = size
        made = learn(table, atoms=atoms, nonzeros=nonzeros, weights=weights, iterations=self.iterations, seed=seed)
        return Stand(made, f"{nonzeros} of {atoms:,} atoms")


def _tried(table: Array, size: Size, weights: Floats | None, seed: int) -> float:
    return trial(table, entries=size.entries, width=size.width, stages=size.stages, weights=weights, seed=seed)
