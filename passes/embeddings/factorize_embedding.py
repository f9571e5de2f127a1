"""Store tables of embeddings as products of thinner matrices, for all words together or in blocks by frequency.

    before   e = Gather(table, ids)                            [words, width]
             s = x @ table.T + b                               where an output head is tied to it
    after    e = Gather(left, ids) @ right                     [words, rank] and [rank, width]           low-rank
             s = (x @ right.T) @ left.T + b
             e = Concat(Gather(left_1, p - start_1), ..) @ right,  p = Gather(place, ids)                 blocks
             s = Gather(Concat(h_1 @ left_1.T, ..), place) + b,  [h_1, ..] = x @ right.T

Lossy. Each word counts as often as calibration looks it up, and a little more, so that those never seen count too.
Blocks are runs of words by that frequency, or by their ids where nothing is known of it; words then move to the block
where they cost least, and each block has the rank that loses least for the bytes of all. Scores keep the order of the
words, so that a softmax behind them, a bias and labels stay right. Shorter tables are never made whole (see `blocked`).

Sources: Lan et al., ALBERT, 2020, section 3.1 (low-rank); Chen, Grangier and Auli, 2016 (differentiated softmax); Chen
et al., GroupReduce, 2018, equations 2 to 5; Variani et al., WEST, 2019 (formulas: `methods.blocks`). That errors count
by inner products is the whitening of SVD-LLM (Wang et al., 2024), the words themselves in the place of activations.

Left alone: tables that are read otherwise too, given out, quantized, small or not finite; those that are factors
already; that would not be smaller; and on a target where their output head would be slower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.constants import tensor_of
from ...ir.errors import OptionError
from ...ir.site import Kind, Site
from ..accumulators import Gram
from ..base import Context, Miss
from ..edit import Array, is_op, only_reader
from ..lookups import Table
from ..numerics.arrays import Floats
from ..statistics import Want
from .blocked import BESIDE, Blocked, place_bytes
from .embedding_pass import EmbeddingPass, Stand, smaller
from .methods.blocks import RoomError, blocks, whole

#: Options of each method.
_SIZES = {"low-rank": ("rank",), "blocks": ("blocks", "refine")}


@dataclass(frozen=True, kw_only=True)
class FactorizeEmbedding(EmbeddingPass):
    """embedding tables as products of thinner matrices, by how often words are used

    method: `low-rank`, one product for all words; `blocks`, one for each block of words by frequency, each with a rank
        of its own.
    ratio: the share of a table's bytes that stays, 0.5 unless there is a rank. rank: low-rank: of the product.
    blocks: how many, 4; the first has the most frequent words, each that follows as many as all before it.
    refine: blocks: how often words move to the block where they cost least, 5 at most; 0 leaves them where their
        frequency puts them.
    weight: words count as often as calibration data have them (`frequency`), all the same (`none`), or by frequency
        where there are data (`auto`).
    smoothing: how often each word counts beside that. power: of the sum, which is what a word's error counts: 1 for
        low-rank; 0.5 for blocks, whose ranks follow it too, or rare words are left with none.
    metric: an error counts by what the words of a text, and what the heads read, have in its direction (`products`, the
        squares of its inner products with them), or by its length (`none`).
    heads: output heads whose scores are computed from the factors: those `tied` to a table, `all` that are as long as
        one, or `none`: tables with a head stay as they are.
    smallest: tables of fewer numbers stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "factorize-embedding"
    method: Literal["low-rank", "blocks"] = "blocks"
    rank: int | None = None
    blocks: int | None = None
    refine: int | None = None
    metric: Literal["products", "none"] = "products"

    def __post_init__(self) -> None:
        sizes = self.takes(self.method, _SIZES)
        if self.ratio is not None and self.rank is not None:
            raise OptionError(f"{self.name}: expected ratio or rank, found both")
        self.check(sizes, {"refine": 0})

    def maker(
        self, model: ir.Model, chosen: Sequence[Table], context: Context
    ) -> Callable[[Table, NDArray[np.int64] | None], Stand | Miss]:
        """Factors by what words and heads have in each direction."""
        read = self._read(model, chosen, context)

        def make(table: Table, seen: NDArray[np.int64] | None) -> Stand | Miss:
            dense = table.dense()
            often = self._often(dense, seen)
            metric = self._metric(dense, often, read.get(table), looked_up=bool(table.lookups))
            made = self._factors(dense, self._weights(often), metric)
            return smaller(table, dense, made, None if seen is None else often)

        return make

    def _often(self, table: Array, seen: NDArray[np.int64] | None) -> Floats:
        return np.full(len(table), self.smoothing) if seen is None else seen + np.float64(self.smoothing)

    def _weights(self, often: Floats) -> Floats:
        """How much a word's error counts."""
        power = (1.0 if self.method == "low-rank" else 0.5) if self.power is None else self.power
        found: Floats = often**power
        return found

    def _verdict(self, table: Table) -> Miss | None:
        return super()._verdict(table) or next(
            (found for site in table.sites if (found := _factored(site)) is not None), None
        )

    def _read(self, model: ir.Model, chosen: Sequence[Table], context: Context) -> dict[Table, Floats]:
        """Of what the heads of tables read, as far as calibration sees it, the mean square, [width, width]."""
        if context.calibration is None or self.weight == "none" or self.metric == "none":
            return {}
        wants = {
            table: [
                Want(site.activation, Gram, table.width, axis=site.axis)
                for site in table.heads
                if site.activation.graph is model.graph
            ]
            for table in chosen
        }
        asked = [want for each in wants.values() for want in each]
        if not asked:
            return {}
        found = context.statistics(model, asked)
        return {
            table: sum((found.of(want.value, Gram, want.axis).matrix for want in each), np.zeros((table.width,) * 2))
            for table, each in wants.items()
            if each
        }

    def _metric(self, dense: Array, often: Floats, read: Floats | None, *, looked_up: bool) -> Floats | None:
        """How much of an error each direction counts, [width, width]: by the words that are looked up, and by what the
        head reads, each as much.
        """
        if self.metric == "none":
            return None
        wide = dense.astype(np.float64)
        parts = [wide.T @ (wide * often[:, None])] if looked_up else []
        parts += [] if read is None else [read]
        # of a head that no data tell about, nothing is known
        shares = [part / np.trace(part) for part in parts if np.trace(part) > 0]
        return sum(shares, np.zeros((wide.shape[1],) * 2)) if shares else None

    def _factors(self, table: Array, weights: Floats, metric: Floats | None) -> Stand | Miss:
        ratio, size = 0.5 if self.ratio is None else self.ratio, table.size
        if self.method == "low-rank":
            most = min(table.shape)
            rank = int(ratio * size / sum(table.shape)) if self.rank is None else self.rank
            if rank > most:
                return Miss("rank", str(rank), f"at most {most}, which loses nothing")
            if rank < 1:
                return Miss("ratio", f"{ratio:g} of {size:,} numbers", f"at least {sum(table.shape):,}, a rank of 1")
            lookup = Blocked.of([whole(table, weights, rank, metric=metric)], len(table), table.dtype)
            return Stand(lookup, f"rank {rank} of {most}")
        count = min(4 if self.blocks is None else self.blocks, len(table))
        places = len(table) * place_bytes(len(table), count) / table.dtype.itemsize * (count > 1)
        room = int(ratio * size - places)
        refine, extra = 5 if self.refine is None else self.refine, BESIDE * (count > 1)
        try:
            parts = blocks(table, weights, count, room, refine=refine, extra=extra, metric=metric)
        except RoomError as error:
            return Miss("ratio", f"{ratio:g} of {size:,} numbers", str(error))
        sizes = (f"{len(part.members):,} x {part.left.shape[1]}" for part in parts)
        return Stand(Blocked.of(parts, len(table), table.dtype), f"blocks of {', '.join(sizes)}")


def _factored(site: Site) -> Miss | None:
    """Why a site is a factor already: its other side is right beside it."""
    if site.kind is Kind.EMBEDDING and _widened(site):
        return Miss("factored", site.name, "a table that is no factor of another yet")
    if site.kind is Kind.LINEAR and site.axis == -1:
        before = site.activation.producer()
        if is_op(before, "MatMul") and _constant_rows(before) > site.in_features:
            return Miss("factored", site.name, "a head that is no factor of another yet")
    return None


def _widened(site: Site) -> bool:
    """Whether a product alone reads the rows, and makes them wider. A layer has a bias behind it, or others beside."""
    product = only_reader(site.output)
    if not is_op(product, "MatMul") or _columns(product, site.output) <= site.out_features:
        return False
    behind = only_reader(product.outputs[0])
    return not is_op(behind, "Add") or all(tensor_of(value) is None for value in behind.inputs)


def _columns(node: ir.Node, value: ir.Value) -> int:
    """Columns of the constant matrix that a value is multiplied by."""
    side = node.inputs[1]
    shape = None if side is None or side is value or tensor_of(side) is None else side.shape
    return 0 if shape is None or len(shape) != 2 else int(shape.numpy()[1])


def _constant_rows(node: ir.Node) -> int:
    side = node.inputs[1]
    shape = None if side is None else side.shape
    dims = None if shape is None or len(shape) != 2 else shape[0]
    return dims if isinstance(dims, int) else 0
