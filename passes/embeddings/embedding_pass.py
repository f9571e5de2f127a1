"""What passes share that let something smaller stand for a table of embeddings: options, verdicts, surgery."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.errors import OptionError
from ...ir.shape_annotate import annotate
from ..base import Context, Contract, Lossy, Miss, Outcome, Pass
from ..edit import Array
from ..lookups import Table, counts, findings, slow, tables
from ..numerics.arrays import Floats
from ..replacing import Lookup, put


@dataclass(frozen=True)
class Stand:
    """What stands for a table, and what findings tell of it."""

    lookup: Lookup
    told: str


@dataclass(frozen=True, kw_only=True)
class EmbeddingPass(Pass):
    """ratio: the share of a table's bytes that may stay.

    weight: words count as often as calibration data have them (`frequency`), all the same (`none`), or by frequency
        where there are data (`auto`). smoothing: how often each word counts beside that. power: of the sum, by which an
        error weighs, 0.5 unless told.
    heads: output heads whose scores are computed so too: those `tied` to a table, `all` that are as long as one, or
        `none`: tables with a head stay as they are.
    smallest: tables of fewer numbers stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..`.
    """

    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    ratio: float | None = None
    weight: Literal["auto", "frequency", "none"] = "auto"
    smoothing: float = 1.0
    power: float | None = None
    heads: Literal["tied", "all", "none"] = "tied"
    smallest: int = 1 << 16
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    @abstractmethod
    def maker(
        self, model: ir.Model, chosen: Sequence[Table], context: Context
    ) -> Callable[[Table, NDArray[np.int64] | None], Stand | Miss]:
        """What makes a stand of one of the chosen tables, given how often each word is looked up."""

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts, chosen = list[tuple[Table, Miss | None]](), dict[Table, str]()
        for table, made in self.planned(model, context):
            verdicts.append((table, made if isinstance(made, Miss) else None))
            if isinstance(made, Stand):
                chosen[table] = made.told
                put(table, made.lookup)
        if chosen:
            annotate(model)
        return Outcome(findings(verdicts, chosen, self.ignore))

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every table, leaving `model` as it is; takes as long as `apply` where there are data."""
        if self.weight == "frequency" and context.calibration is None:
            return Outcome(findings([(table, self._verdict(table)) for table in self._tables(model)], {}, self.ignore))
        planned = list(self.planned(model, context))
        verdicts = [(table, made if isinstance(made, Miss) else None) for table, made in planned]
        told = {table: made.told for table, made in planned if isinstance(made, Stand)}
        return Outcome(findings(verdicts, told, self.ignore))

    def planned(self, model: ir.Model, context: Context) -> Iterator[tuple[Table, Stand | Miss]]:
        """Each table, and what stands for it from now on or why it stays as it is."""
        verdicts = [(table, self._verdict(table)) for table in self._tables(model)]
        chosen = [table for table, miss in verdicts if miss is None]
        data = self.weight == "frequency" or (self.weight == "auto" and context.calibration is not None)
        if data and chosen:
            # says what is missing where there are no data
            context.statistics(model, [])
        every = [table for table, _ in verdicts if table.lookups and table.held is None]
        seen = counts(model, [*dict.fromkeys([*every, *chosen])], context) if data and chosen else {}
        # timed alone, a head reads a matrix of its own
        timed, listed = dataclasses.replace(self, heads="all"), [table for table, _ in verdicts]
        late = {table: slow(timed, model, table, listed, context) for table in chosen}
        make = self.maker(model, chosen, context)
        for table, miss in verdicts:
            yield table, miss or late[table] or make(table, seen.get(table))

    def takes(self, method: str, options: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Options of all methods, as they are given. Raises OptionError for one that this method does not take."""
        given = {name: getattr(self, name) for names in options.values() for name in names}
        for name, value in given.items():
            if value is not None and name not in options[method]:
                raise OptionError(
                    f"{self.name}: method={method} does not take {name}={value}; it takes {', '.join(options[method])}"
                )
        return given

    def check(self, sizes: dict[str, int | None], least: dict[str, int]) -> None:
        """Raises OptionError for options that are out of their range. sizes: those of the method that are given."""
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise OptionError(f"{self.name}: expected a ratio between 0 and 1, found {self.ratio}")
        if not 0 < self.smoothing < np.inf:
            raise OptionError(f"{self.name}: expected smoothing above 0, found {self.smoothing}")
        if self.power is not None and not 0 <= self.power < np.inf:
            raise OptionError(f"{self.name}: expected a power of at least 0, found {self.power}")
        for option, value in sizes.items():
            if value is not None and value < least.get(option, 1):
                raise OptionError(f"{self.name}: expected {option} of at least {least.get(option, 1)}, found {value}")

    def _tables(self, model: ir.Model) -> list[Table]:
        return tables(model, heads=self.heads == "all")

    def _verdict(self, table: Table) -> Miss | None:
        miss = table.verdict(smallest=self.smallest, only=self.only, ignore=self.ignore)
        if miss is None and self.heads == "none" and table.heads:
            return Miss("heads", table.heads[0].name, "heads=tied, or the table is stored for its head anyway")
        return miss


@dataclass(frozen=True, kw_only=True)
class WordsPass(EmbeddingPass):
    """A pass to which a table is its numbers, and how much each word counts.

    ratio: 1/8 unless sizes are given.
    """

    @abstractmethod
    def stand(self, table: Array, seen: NDArray[np.int64] | None, weights: Floats | None, seed: int) -> Stand | Miss:
        """What stands for a table [words, width], or why nothing does.

        seen: how often each word is looked up. weights: by which its error counts; None where all count the same.
        """

    def maker(
        self, model: ir.Model, chosen: Sequence[Table], context: Context
    ) -> Callable[[Table, NDArray[np.int64] | None], Stand | Miss]:
        """What makes a stand of one of the chosen tables, given how often each word is looked up."""
        return lambda table, seen: self._stand(table, seen, context.seed)

    def room(self, table: Array) -> int:
        """Bytes that may stand for a table."""
        return int((0.125 if self.ratio is None else self.ratio) * table.nbytes)

    def _stand(self, table: Table, seen: NDArray[np.int64] | None, seed: int) -> Stand | Miss:
        dense, power = table.dense(), 0.5 if self.power is None else self.power
        weights = None if seen is None else np.asarray((seen + self.smoothing) ** power, np.float64)
        return smaller(table, dense, self.stand(dense, seen, weights, seed), weights)


def smaller(table: Table, dense: Array, made: Stand | Miss, weights: Floats | None) -> Stand | Miss:
    """What stands for a table where it takes fewer bytes, with what that costs. weights: by which errors count."""
    if isinstance(made, Miss):
        return made
    if made.lookup.bytes >= table.bytes:
        return Miss("bytes", str(made.lookup.bytes), f"fewer than the table's {table.bytes}")
    share, lost = made.lookup.bytes / table.bytes, _lost(dense, made.lookup.dense(), weights)
    how = "all words count the same" if weights is None else "by frequency"
    return Stand(made.lookup, f"{made.told}; {100 * share:.1f} % of the bytes; error {100 * lost:.1f} %, {how}")


def _lost(table: Array, made: Array, weights: Floats | None) -> float:
    """The share of the squares of a table that is lost."""
    wide = table.astype(np.float64)
    errors, squares = np.square(wide - made.astype(np.float64)).sum(1), np.square(wide).sum(1)
    each = np.ones(len(wide)) if weights is None else weights
    return float(errors @ each / max(squares @ each, np.finfo(np.float64).tiny))
