"""Weights as tensors of a few small ones: Tucker, CP, tensor trains, block terms, Kronecker products.

    before   y = x @ W                      after   x [.., 16, 24] times small tensors, mode after mode, = y [.., out]
    before   y = Conv[3x3](x)               after   y = Conv[1x1](Conv[3x3](Conv[1x1](x)))
    before   e = Gather(table, ids)         after   e = Gather(G1, id / n) @ Gather(G2, id mod n)

Lossy. Which modes, ranks and order of contractions: of all forms within the ratio that cost no more multiply-adds than
before, the one that loses least. Left alone: weights that are small, not finite, quantized, computed, or that several
nodes read (a table and the heads tied to it become one network), recurrent weights, convolutions of one channel in a
group, weights that no form of the format holds in fewer bytes and as few multiply-adds, what is slower on the target.
Sources: Tucker, 1966; De Lathauwer, De Moor and Vandewalle, 2000 (HOSVD); De Lathauwer, 2008 (block terms, definition
1.2); Oseledets, 2011 (TT-SVD, theorem 2.2); Novikov et al., 2015 (TT layers, equation 3); Hrinchuk et al., 2020 (TT
embeddings, equation 4); Lebedev et al., 2015, and Kim et al., 2016 (convolutions); Van Loan and Pitsianis, 1993.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.shape_annotate import annotate
from ...ir.site import Kind, Site, computed_sites, sites
from ..base import Context, Contract, Lossy, Miss, Outcome, Pass
from ..choosing import Choice, Verdict, left_out, names, outcome, paying, sparing_nothing
from ..edit import Array
from ..lookups import Table, counts, findings, slow, standing, tables
from ..replacing import put as put_table
from ..seen import Seen, inputs
from . import convolving, convolving_products, fitted, networks
from .methods.modes import parse
from .tabling import NetworkTable
from .tensor_forms import FORMATS, Format, Size

#: The share of the numbers that stays where nobody said.
_RATIO = 0.5
#: What each format takes beside a ratio.
_TAKEN: Mapping[Format, tuple[str, ...]] = {
    "tt": ("rank",),
    "tucker": ("rank",),
    "cp": ("rank",),
    "block-term": ("rank", "terms"),
    "kronecker": ("terms",),
}


@dataclass(eq=False)
class _Changes:
    """What is to be put in the place of weights, and what is said of it."""

    made: dict[ir.Node, Callable[[], None]] = field(default_factory=dict)
    told: dict[ir.Value, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FactorizeTensor(Pass):
    """weights as products of small tensors

    format: `tt`, a chain with a core for each mode; `tucker`, a core and a basis for each mode; `cp`, a sum of products
        of vectors; `block-term`, a sum of small Tucker decompositions; `kronecker`, a sum of Kronecker products.
        `tucker` and `block-term` need TensorLy.
    ratio: the share of each weight's numbers that stays, at most; 0.5 unless a rank or terms are given.
    rank: of all modes and cuts, in the place of a ratio (tt, tucker, cp, block-term).
    terms: Kronecker products that are added, in the place of a ratio, or blocks of a block-term decomposition, 2.
    modes: the dimensions of linear weights and tables as products, inputs (rows of tables) first: `16x24/32x48`; chosen
        unless given. Dimensions without such a product, as primes are, are padded.
    algorithm: `whitened`: inputs weigh the error, by their Gram matrix or the counts of ids, where calibration data see
        them; `plain`: all numbers count alike, and no data are read.
    embeddings: take in tables, which are then looked up digit by digit of the ids, and the heads tied to them.
    convolutions: take in convolutions; `kronecker` leaves those in groups and transposed ones.
    smallest: weights with fewer numbers than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "factorize-tensor"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.3)
    format: Format = "tt"
    ratio: float | None = None
    rank: int | None = None
    terms: int | None = None
    modes: str = ""
    algorithm: Literal["whitened", "plain"] = "whitened"
    embeddings: bool = False
    convolutions: bool = False
    smallest: int = 1024
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise OptionError(f"{self.name}: expected a format of {', '.join(FORMATS)}, found {self.format}")
        if self.algorithm not in ("whitened", "plain"):
            raise OptionError(f"{self.name}: expected the algorithm whitened or plain, found {self.algorithm}")
        for option in ("rank", "terms"):
            value = getattr(self, option)
            if value is not None and option not in _TAKEN[self.format]:
                taken = ", ".join(("ratio", *_TAKEN[self.format]))
                raise OptionError(f"{self.name}: {self.format} does not take {option}={value}; it takes {taken}")
            if value is not None and value < 1:
                raise OptionError(f"{self.name}: expected {option} of at least 1, found {value}")
        if self.ratio is not None and self._fixed:
            raise OptionError(f"{self.name}: expected a ratio or {self._fixed}, found both")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise OptionError(f"{self.name}: expected a ratio above 0 and at most 1, found {self.ratio:g}")
        if self.modes:
            try:
                ins, outs = parse(self.modes)
            except ValueError as error:
                raise OptionError(f"{self.name}: {error}") from error
            if self.format == "tt" and not len(ins) == len(outs) > 1:
                raise OptionError(f"{self.name}: tt takes as many modes of inputs as of outputs, found {self.modes}")
            if self.format == "kronecker" and not len(ins) == len(outs) == 2:
                raise OptionError(f"{self.name}: kronecker takes two modes of inputs and two of outputs")
            if len(ins) + len(outs) < 3:
                raise OptionError(f"{self.name}: expected three modes at least, found {self.modes}")

    @property
    def _fixed(self) -> str:
        """The option that says how large a form is in the place of a ratio."""
        option = "terms" if self.format == "kronecker" else "rank"
        return option if getattr(self, option) is not None else ""

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        found = tables(model) if self.embeddings else []
        of_tables = {site.node for table in found for site in table.sites}
        choice = self._choice()
        verdicts: list[Verdict] = [
            (site, self._verdict(site, choice)) for site in sites(model) if site.node not in of_tables
        ]
        stored: list[Verdict] = [(site, choice.computed(site)) for site in computed_sites(model)]
        changes = _Changes()
        verdicts = self._fitted(model, verdicts, context, changes)
        verdicts = paying(self, model, verdicts, context)
        held, told = self._tables(model, found, context)
        for site, miss in verdicts:
            if miss is None:
                changes.made[site.node]()
        for table, lookup in held:
            if isinstance(lookup, NetworkTable):
                put_table(table, lookup)
        if any(miss is None for _, miss in verdicts) or any(isinstance(each, NetworkTable) for _, each in held):
            annotate(model)
        done = [(table, None if isinstance(each, NetworkTable) else each) for table, each in held]
        known = [*(names(site) for site, _ in (*verdicts, *stored)), *(table.names for table in found)]
        spared = tuple(sparing_nothing(self.ignore, known))
        return Outcome(outcome([*verdicts, *stored], changes.told).findings + findings(done, told) + spared)

    def _choice(self) -> Choice:
        kinds = (Kind.LINEAR, *((Kind.CONV,) if self.convolutions else ()))
        options = {Kind.EMBEDDING: "embeddings", Kind.CONV: "convolutions"}
        return Choice(kinds=kinds, options=options, smallest=self.smallest, only=self.only, ignore=self.ignore)

    def _verdict(self, site: Site, choice: Choice) -> Miss | None:
        left = left_out(names(site), self.only, self.ignore) or standing(site.name, [site.node])
        if left is None and site.kind in (Kind.RECURRENT_INPUT, Kind.RECURRENT_HIDDEN):
            need = "a weight of one product; factorize-recurrent takes those of LSTM, GRU and RNN"
            return Miss("recurrent", site.kind.value, need)
        return left or choice.verdict(site) or self._unfit(site)

    def _unfit(self, site: Site) -> Miss | None:
        if site.kind is Kind.CONV:
            products = convolving_products.unfit(site) if self.format == "kronecker" else None
            return products or convolving.unfit(site, self.format)
        return networks.unfit(site)

    def _asked(self, context: Context) -> fitted.Asked:
        share = None if self._fixed else self.ratio or _RATIO
        return fitted.Asked(self.format, Size(share, self.rank, self.terms), self.modes, context.seed)

    def _fitted(
        self, model: ir.Model, verdicts: Sequence[Verdict], context: Context, changes: _Changes
    ) -> list[Verdict]:
        """The verdicts, and of weights that were taken on those without a form."""
        taken = [site for site, miss in verdicts if miss is None]
        weighs = self.algorithm == "whitened" and context.calibration is not None
        seen = inputs(model, [site for site in taken if networks.rowed(site)], context) if weighs else {}
        places = networks.places_of(model, taken, context.feeds)
        asked, made = self._asked(context), list[Verdict]()
        for site, miss in verdicts:
            known = seen.get(site.weight)
            if miss is None:
                miss = (self._convolution if site.kind is Kind.CONV else self._linear)(
                    site, asked, known, places[site.node], changes
                )
            made.append((site, miss))
        return made

    def _linear(
        self, site: Site, asked: fitted.Asked, seen: Seen | None, places: networks.Around, changes: _Changes
    ) -> Miss | None:
        fit = fitted.linear(site, asked, None if seen is None else seen.gram, places.rows)
        if isinstance(fit, Miss):
            return fit
        changes.made[site.node] = lambda: networks.put(site, fit.network, fit.order)
        changes.told[site.weight] = f"{fit.told}{_weighed(seen)}"
        return None

    def _convolution(
        self, site: Site, asked: fitted.Asked, seen: Seen | None, places: networks.Around, changes: _Changes
    ) -> Miss | None:
        if asked.format == "kronecker":
            found = convolving_products.fit(site, asked.size, seen, places)
            if isinstance(found, Miss):
                return found
            products, told = found
            changes.made[site.node] = lambda: convolving_products.put(site, products)
        else:
            fit = convolving.fit(site, asked.format, asked.size, seen, places, asked.seed)
            if isinstance(fit, Miss):
                return fit
            chain, told = fit
            changes.made[site.node] = lambda: convolving.put(site, chain)
        changes.told[site.weight] = f"{told}{_weighed(seen)}"
        return None

    def _tables(
        self, model: ir.Model, found: Sequence[Table], context: Context
    ) -> tuple[list[tuple[Table, NetworkTable | Miss]], dict[Table, str]]:
        chosen = {
            table: table.verdict(smallest=self.smallest, only=self.only, ignore=self.ignore) or _unknown(table)
            for table in found
        }
        asked = [table for table, miss in chosen.items() if miss is None]
        seen: Mapping[Table, Array] = counts(model, asked, context) if self.algorithm == "whitened" and asked else {}
        held, told = list[tuple[Table, NetworkTable | Miss]](), dict[Table, str]()
        for table, miss in chosen.items():
            made = miss or fitted.table(table, self._asked(context), seen.get(table))
            if not isinstance(made, Miss):
                made = slow(self, model, table, found, context) or made
            if isinstance(made, Miss):
                held.append((table, made))
            else:
                held.append((table, made[0]))
                told[table] = f"{made[1]}{_weighed(seen.get(table))}"
        return held, told


def _weighed(seen: object) -> str:
    return " of |W|^2" if seen is None else " of |X W|^2"


def _unknown(table: Table) -> Miss | None:
    """Why rows cannot be found digit by digit."""
    for site in table.lookups:
        if site.activation.shape is None:
            return Miss("rank", site.activation.name or "", "ids whose axes are known; run infer-shapes first")
    for site in table.heads:
        if site.activation.shape is None:
            return Miss(
                "rank", site.activation.name or "", "an activation whose axes are known; run infer-shapes first"
            )
    return None
