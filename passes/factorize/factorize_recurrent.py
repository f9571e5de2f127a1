"""Compute recurrent layers through fewer features: W and R of LSTM, GRU and RNN as products of thinner weights.

    before   h = LSTM(x, W, R)                              k = LSTM(h, W', R')
    after    h = LSTM(x @ Q, V, Z P.T)                      k = LSTM(h @ P, Z', Z" P".T)

Lossy. The weights that multiply one state share a projection P: R of a layer, and W of the layer above, which reads the
same h (Prabhavalkar et al.). Inputs are projected in front of the op, which stays: less to store and to multiply. R has
no such place in it: as `recurrent=weight` it is computed from its factors when a runtime loads the model, so that bytes
fall and speed stays; as `recurrent=loop` the steps are written out with both thin products (`factorize.projected`), an
LSTM then being Sak's LSTM with a recurrent projection. Ranks are chosen for all layers together, so that what is
lost is least (`numerics.knapsack`).

Left alone: weights that are tied, small, not finite, computed or factored already, those that keep all their numbers or
would be slower on the target, and sites that the options leave out. What `ratio` is of is what there was at first.
Factors of R are numbers that the
op never reads: passes that store weights in fewer bits leave them as they are.

Sources: Prabhavalkar, Alsharif, Bruguier and McGraw, On the Compression of Recurrent Neural Networks with an
Application to LVCSR Acoustic Modeling for Embedded Speech Recognition, 2016, arXiv 1603.08042, equations 4 to 7; Sak,
Senior and Beaufays, 2014 (`factorize.projected`); whitening: SVD-LLM, Wang et al., 2024, arXiv 2403.07378.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Kind, Site, computed_sites, sites
from ..base import Context, Contract, Curve, Lossy, Miss, Outcome, Pass, Several
from ..budget import Budget, chosen
from ..choosing import Choice, Verdict, outcome
from ..edit import declare_functions
from ..importance import DAMPING
from ..numerics.arrays import Floats
from ..ranks import Way, amount, fastest, grid, highest, ways
from ..seen import Seen, inputs
from .projected import unprojected
from .projecting import Projecting, told
from .recurrences import Item, factors, items, projections
from .recurrent_costs import Multiplied, Spent, Stored
from .timing import Thin, TimedLayers, remember_first

_KINDS = (Kind.RECURRENT_INPUT, Kind.RECURRENT_HIDDEN)
#: Of the numbers of weights, what stays unless anything is told.
_RATIO = 0.7
_ADVICE = "Let fewer be a multiple, or a larger share stay"
_LOOP = "Let a larger share stay, or write the steps out: recurrent=loop multiplies by both thin weights of R"


@dataclass(frozen=True, kw_only=True)
class FactorizeRecurrent(Pass):
    """weights of LSTM, GRU and RNN as products of thinner ones, with one projection for all that reads a state

    ratio: the share of the numbers of these weights that stays, above 0 and at most 1; 0.7 unless anything is told.
        Ranks are chosen for all layers together.
    budget: instead, `0.6 bytes`, of all weights of the model; `0.6 flops`, of its multiply-adds with weights; or
        `0.6 latency`, of the seconds that these layers take on the target. R costs fewer of the latter two only where
        the steps are written out.
    rank: of every projection, instead. energy: instead, the share of what each item's products carry that stays.
    algorithm: what the factors are the best for. `svd`: the projection is that of R alone, and W above is fitted to it
        (the paper's way); `joint`: both weights; `whitened`: what both make of the states and inputs in the data.
        `auto` is whitened with data, joint without.
    shared: whether W reads the projection of the states of the layer below: `always`, `never`, or where all together
        lose less, of an energy where they have fewer numbers (`auto`).
    recurrent: `weight` stores the factors of R and lets runtimes multiply them once; `loop` writes the steps out with
        both products. `auto` is loop where that is no slower on the target than the float op, weight elsewhere.
    multiple: ranks are multiples of so many.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "factorize-recurrent"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    ratio: float | None = None
    budget: str = ""
    rank: int | None = None
    energy: float | None = None
    algorithm: Literal["auto", "svd", "joint", "whitened"] = "auto"
    shared: Literal["auto", "always", "never"] = "auto"
    recurrent: Literal["auto", "weight", "loop"] = "auto"
    multiple: int = 8
    smallest: int = 1024
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        amount(self, "ratio", "budget", "rank", "energy")
        if self.multiple < 1:
            raise OptionError(f"{self.name}: expected a multiple of at least 1, found {self.multiple}")

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site and the ranks that `apply` would take, leaving `model` as it is. Without
        data, for an algorithm that needs them, the verdicts alone.
        """
        if context.calibration is None and self.algorithm == "whitened":
            return outcome(self._verdicts(model), ignore=self.ignore)
        plan = self._plan(model, context)
        return plan.outcome(self._stepped(model, plan, context), self.ignore)

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        plan = self._plan(model, context)
        stepped = self._stepped(model, plan, context)
        found = plan.outcome(stepped, self.ignore)
        surgery = Projecting(plan.seen, leading=self.algorithm == "svd", damping=DAMPING, stepped=stepped)
        taken = [item for item, _ in plan.taken]
        first = plan.spent.first(taken) if isinstance(plan.spent, TimedLayers) else {}
        surgery.run(plan.taken)
        remember_first(model, first)
        declare_functions(model)
        return found

    def _plan(self, model: ir.Model, context: Context) -> _Plan:
        verdicts = self._verdicts(model)
        able = list({site.weight: site for site, miss in reversed(verdicts) if miss is None}.values())[::-1]
        whitened = self.algorithm == "whitened" or (self.algorithm == "auto" and context.calibration is not None)
        seen = inputs(model, able, context) if whitened and able else {}
        unseen = Miss("inputs", "a weight in a subgraph", "inputs that calibration sees; algorithm=joint needs none")
        left = {site.weight: unseen for site in able if whitened and site.weight not in seen}
        able = [site for site in able if site.weight not in left]
        if not able:
            return _Plan(verdicts, (), left, seen)
        spent = self._spent(model, context)
        ranks, missed, curve = self._ranks(model, able, seen, context, spent)
        taken = [(item, rank) for item, rank in ranks.items() if rank is not None]
        need = "a smaller share to stay: others lose less by a lower rank"
        for item in ranks.keys() - dict(taken).keys():
            left |= dict.fromkeys(
                (site.weight for site in item.sites), missed.get(item) or Miss("rank", "all of it", need)
            )
        return _Plan(verdicts, taken, left, seen, curve, spent)

    def _verdicts(self, model: ir.Model) -> list[Verdict]:
        choice = Choice(kinds=_KINDS, smallest=self.smallest, only=self.only, ignore=self.ignore)
        found: list[Verdict] = [(site, choice.verdict(site) or self._unfit(site)) for site in sites(model)]
        for site in computed_sites(model):
            of_factors = site.kind is Kind.RECURRENT_HIDDEN and factors(site.node.inputs[2]) is not None
            found.append((site, _factored(site) if of_factors else choice.computed(site)))
        return found

    def _unfit(self, site: Site) -> Miss | None:
        if site.kind is Kind.RECURRENT_INPUT and projections(site.activation):
            return _factored(site)
        if site.kind is Kind.RECURRENT_HIDDEN and self.recurrent == "loop":
            return unprojected(site.node)
        return None

    def _stepped(self, model: ir.Model, plan: _Plan, context: Context) -> set[ir.Node]:
        """The layers of which the steps are written out."""
        return {item.node for item, rank in plan.taken if self._steps(model, item, rank, context)}

    def _steps(self, model: ir.Model, item: Item, rank: int, context: Context) -> bool:
        if item.own.kind is not Kind.RECURRENT_HIDDEN or self.recurrent == "weight":
            return False
        if self.recurrent == "loop":
            return True
        if context.pays is None or item.node.graph is not model.graph or unprojected(item.node) is not None:
            return False
        return context.pays(Thin(rank=rank, hidden=True), model, Several(item.own.name, (item.node,))) is None

    def _slow(self, model: ir.Model, item: Item, rank: int, context: Context) -> Miss | None:
        """Why a rank does not pay on the target, where there is one. What is multiplied at load costs no time."""
        if context.pays is None:
            return None
        if item.own.kind is Kind.RECURRENT_INPUT:
            return context.pays(Thin(rank=rank, hidden=False), model, item.own)
        own = context.pays(Thin(rank=rank, hidden=True), model, item.own) if self.recurrent == "loop" else None
        above = (context.pays(Thin(rank=rank * item.ways, hidden=False), model, site) for site in item.above)
        return own or next((miss for miss in above if miss is not None), None)

    def _ranks(
        self, model: ir.Model, able: Sequence[Site], seen: Mapping[ir.Value, Seen], context: Context, spent: Spent
    ) -> tuple[dict[Item, int | None], dict[Item, Miss], Curve | None]:
        """The rank of each item, None where it stays as it is; and why of those that have to."""
        known: dict[Item, Floats] = {}

        def lost(item: Item) -> Floats:
            if item not in known:
                known[item] = item.lost(seen, leading=self.algorithm == "svd", damping=DAMPING)
            return known[item]

        plans = [
            items(able, each) for each in {"auto": (True, False), "always": (True,), "never": (False,)}[self.shared]
        ]
        budget = self._budget()
        if budget is not None and spent.fits(plans[0], budget.share):
            return dict.fromkeys(plans[0]), {}, None
        # what every plan can do comes first; of two that lose as much the first is taken
        tried = []
        for plan in plans:
            found: dict[Item, list[Way]] = {}
            missed: dict[Item, Miss] = {}
            for item in plan:
                able_ways = self._ways(model, item, lost(item), context, spent)
                if isinstance(able_ways, Miss):
                    missed[item] = able_ways
                else:
                    found[item] = able_ways
            best, curve = self._best(found, budget, spent)
            weights = sum(len(item.sites) for item in found)
            price = sum(way.cost if self.energy is not None else way.loss for way in best)
            ranks: dict[Item, int | None] = dict.fromkeys(plan)
            ranks |= {item: way.ranks[0] for item, way in zip(found, best, strict=True)}
            tried.append(((-weights, price), (ranks, missed, curve)))
        return min(tried, key=lambda each: each[0])[1]

    def _budget(self) -> Budget | None:
        """What all together may cost; None where each rank is told."""
        if self.rank is not None or self.energy is not None:
            return None
        return Budget.parse(self.budget) if self.budget else Budget(self.ratio or _RATIO, "weights")

    def _spent(self, model: ir.Model, context: Context) -> Spent:
        """What items cost in the unit of the budget; in numbers of weights where each rank is told."""
        budget = self._budget()
        unit = "weights" if budget is None else budget.unit
        most: dict[Item, int] = {}

        def loops(item: Item, rank: int) -> bool:
            if item not in most:
                ranks = grid(self.multiple, item.most)
                most[item] = highest(ranks, lambda each: self._steps(model, item, each, context))
            return rank <= most[item]

        if unit == "flops":
            return Multiplied.of_model(model, loops)
        return TimedLayers.of_model(model, loops, context) if unit == "latency" else Stored(model, unit == "bytes")

    def _ways(self, model: ir.Model, item: Item, lost: Floats, context: Context, spent: Spent) -> list[Way] | Miss:
        """An item as it is, first, and the ranks that it may have; or why there are none."""
        whole = spent.whole(item)
        if not whole:
            return Miss("cost", "none is counted", spent.known)
        own = None if self._budget() is not None else self._own(item, lost)
        tried = grid(self.multiple, item.most) if own is None else [own] if item.smaller(own) else []
        every = ways(lost, tried, whole, lambda rank: spent.of(item, rank))
        ranks = [rank for way in every for rank in way.ranks if rank is not None]
        if not ranks:
            told = self.recurrent == "loop" or isinstance(spent, Stored) or item.own.kind is Kind.RECURRENT_INPUT
            loop = "" if told else "; recurrent=loop multiplies by both"
            return Miss("rank", str(own or item.most), f"a rank at which the factors {spent.less}{loop}")
        fast = fastest(ranks, lambda rank: self._slow(model, item, rank, context))
        return fast if isinstance(fast, Miss) else [way for way in every if (way.ranks[0] or 0) <= fast]

    def _own(self, item: Item, lost: Floats) -> int:
        """The rank of an item by itself."""
        if self.rank is not None:
            return self.rank
        enough = lost <= (1 - (self.energy or 1.0)) * lost[0] + np.finfo(np.float64).eps * lost[0]
        least = max(int(np.argmax(enough)), 1) if enough.any() else len(lost)
        return -(-least // self.multiple) * self.multiple

    def _best(
        self, found: Mapping[Item, list[Way]], budget: Budget | None, spent: Spent
    ) -> tuple[list[Way], Curve | None]:
        """The way of each item."""
        if budget is None:
            return [able[-1] for able in found.values()], None
        if not found or spent.fits(list(found), budget.share):
            return [able[0] for able in found.values()], None
        advice = _LOOP if budget.unit in ("flops", "latency") and self.recurrent != "loop" else _ADVICE
        rest, first = spent.around(list(found))
        return chosen(list(found.values()), rest, budget, first, advice=advice)


@dataclass(frozen=True)
class _Plan:
    """taken: the items that become factors, of which rank. left: why weights stay that the options take in."""

    verdicts: Sequence[Verdict]
    taken: Sequence[tuple[Item, int]]
    left: Mapping[ir.Value, Miss]
    seen: Mapping[ir.Value, Seen]
    curve: Curve | None = None
    spent: Spent | None = None

    def outcome(self, stepped: set[ir.Node], ignore: Sequence[str]) -> Outcome:
        """What becomes of every site. stepped: the nodes whose steps are written out."""
        found = [(site, miss or self.left.get(site.weight)) for site, miss in self.verdicts]
        return outcome(found, told(self.taken, stepped), self.curve, ignore=ignore)


def _factored(site: Site) -> Miss:
    return Miss("factored", site.name, "a weight that is no factor already")
