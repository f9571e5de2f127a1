"""Compute recurrent layers through fewer features: W and R of LSTM, GRU and RNN as products of thinner weights.

    before   h = LSTM(x, W, R)                              k = LSTM(h, W', R')
    after    h = LSTM(x @ Q, V, Z P.T)                      k = LSTM(h @ P, Z', Z" P".T)

Lossy. The weights that multiply one state share a projection P: R of a layer, and W of the layer above, which reads the
same h (Prabhavalkar et al.). Inputs are projected in front of the op, which stays: less to store and to multiply. R has
no such place in it: as `recurrent=weight` it is computed from its factors when a runtime loads the model, so that bytes
fall and speed stays; as `recurrent=loop` the steps are written out with both thin products (`factorize.projected`), an
LSTM then being Sak's LSTM with a recurrent projection. Ranks are chosen for all layers together, so that what is
lost is least (`numerics.knapsack`).

Left alone: weights that are tied, small, not finite, computed or factored already, those that keep all their numbers,
and sites that the options leave out. What `ratio` is of is what there was at first. Factors of R are numbers that the
op never reads: passes that store weights in fewer bits leave them as they are.

Sources: Prabhavalkar, Alsharif, Bruguier and McGraw, On the Compression of Recurrent Neural Networks with an
Application to LVCSR Acoustic Modeling for Embedded Speech Recognition, 2016, arXiv 1603.08042, equations 4 to 7; Sak,
Senior and Beaufays, 2014 (`factorize.projected`); whitening: SVD-LLM, Wang et al., 2024, arXiv 2403.07378.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Kind, Site, computed_sites, sites
from ..base import Context, Contract, Curve, Lossy, Miss, Outcome, Pass, Several
from ..choosing import Choice, Verdict, outcome, paying
from ..edit import declare_functions
from ..importance import DAMPING
from ..numerics.arrays import Floats
from ..numerics.knapsack import knapsack
from ..seen import Seen, inputs
from .projected import unprojected
from .projecting import Projecting
from .recurrences import RECURRENT, Item, factors, items, thin

_KINDS = (Kind.RECURRENT_INPUT, Kind.RECURRENT_HIDDEN)
#: Ranks of an item that are weighed, and points of the curve that a report draws.
_RANKS, _DRAWN = 128, 64


@dataclass(frozen=True, kw_only=True)
class FactorizeRecurrent(Pass):
    """weights of LSTM, GRU and RNN as products of thinner ones, with one projection for all that reads a state

    ratio: the share of the numbers of these weights that stays, above 0 and at most 1; ranks are chosen for all layers
        together.
    rank: of every projection, instead. energy: instead, the share of what each item's products carry that stays.
    algorithm: what the factors are the best for. `svd`: the projection is that of R alone, and W above is fitted to it
        (the paper's way); `joint`: both weights; `whitened`: what both make of the states and inputs in the data.
        `auto` is whitened with data, joint without.
    shared: whether W reads the projection of the states of the layer below: `always`, `never`, or where all together
        lose less (`auto`).
    recurrent: `weight` stores the factors of R and lets runtimes multiply them once; `loop` writes the steps out with
        both products. `auto` is loop where that is no slower on the target than the float op, weight elsewhere.
    multiple: ranks are multiples of so many.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "factorize-recurrent"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    ratio: float = 0.7
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
        if not 0 < self.ratio <= 1:
            raise OptionError(f"{self.name}: expected a ratio above 0 and at most 1, found {self.ratio:g}")
        if self.rank is not None and self.energy is not None:
            raise OptionError(f"{self.name}: expected a rank or an energy, found both")
        if self.rank is not None and self.rank < 1:
            raise OptionError(f"{self.name}: expected a rank of at least 1, found {self.rank}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise OptionError(f"{self.name}: expected an energy above 0 and at most 1, found {self.energy:g}")
        if self.multiple < 1:
            raise OptionError(f"{self.name}: expected a multiple of at least 1, found {self.multiple}")

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site, leaving `model` as it is; what it loses is not asked."""
        return outcome(self._verdicts(model, context), ignore=self.ignore)

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self._verdicts(model, context)
        chosen = list({site.weight: site for site, miss in reversed(verdicts) if miss is None}.values())[::-1]
        whitened = self.algorithm == "whitened" or (self.algorithm == "auto" and context.calibration is not None)
        seen = inputs(model, chosen, context) if whitened and chosen else {}
        unseen = Miss("inputs", "a weight in a subgraph", "inputs that calibration sees; algorithm=joint needs none")
        left = {site.weight: unseen for site in chosen if whitened and site.weight not in seen}
        chosen = [site for site in chosen if site.weight not in left]
        told: dict[ir.Value, str] = {}
        curve = None
        if chosen:
            plan, curve = self._plan(model, chosen, seen)
            need = "a rank at which the factors have fewer numbers, or a smaller ratio"
            for item, rank in plan:
                if rank is None:
                    found = Miss("rank", str(self.rank or "all of it"), need)
                    left |= {site.weight: found for site in item.sites}
            taken = [(item, rank) for item, rank in plan if rank is not None]
            stepped = {item.node for item, _ in taken if self._steps(model, item, context)}
            surgery = Projecting(seen, leading=self.algorithm == "svd", damping=DAMPING, stepped=stepped)
            told = surgery.run(taken)
            declare_functions(model)
        final: list[Verdict] = [(site, miss or left.get(site.weight)) for site, miss in verdicts]
        return outcome(final, told, curve, ignore=self.ignore)

    def _verdicts(self, model: ir.Model, context: Context) -> list[Verdict]:
        choice = Choice(kinds=_KINDS, smallest=self.smallest, only=self.only, ignore=self.ignore)
        found: list[Verdict] = [(site, choice.verdict(site) or self._unfit(site)) for site in sites(model)]
        stored: list[Verdict] = []
        for site in computed_sites(model):
            of_factors = site.kind is Kind.RECURRENT_HIDDEN and factors(site.node.inputs[2]) is not None
            stored.append((site, _FACTORED if of_factors else choice.computed(site)))
        return [*paying(self, model, found, context), *stored]

    def _unfit(self, site: Site) -> Miss | None:
        if site.kind is Kind.RECURRENT_INPUT and thin(site.activation) is not None:
            return _FACTORED
        if site.kind is Kind.RECURRENT_HIDDEN and self.recurrent == "loop":
            return unprojected(site.node)
        return None

    def _steps(self, model: ir.Model, item: Item, context: Context) -> bool:
        """Whether the steps of a layer are written out."""
        if item.own.kind is not Kind.RECURRENT_HIDDEN or self.recurrent == "weight":
            return False
        if self.recurrent == "loop":
            return True
        if context.pays is None or item.node.graph is not model.graph or unprojected(item.node) is not None:
            return False
        made = replace(self, recurrent="loop")
        return context.pays(made, model, Several(item.own.name, (item.node,))) is None

    def _plan(
        self, model: ir.Model, chosen: Sequence[Site], seen: Mapping[ir.Value, Seen]
    ) -> tuple[list[tuple[Item, int | None]], Curve | None]:
        """The rank of each item, None where it stays as it is."""
        known: dict[Item, Floats] = {}

        def lost(item: Item) -> Floats:
            if item not in known:
                known[item] = item.lost(seen, leading=self.algorithm == "svd", damping=DAMPING)
            return known[item]

        able = {"auto": (True, False), "always": (True,), "never": (False,)}[self.shared]
        plans = [items(chosen, shared) for shared in able]
        first, now = _numbers(model)
        whole = sum(item.whole for item in plans[0])
        if self.rank is None and self.energy is None and now + whole <= int(self.ratio * (first + whole)):
            return [(item, None) for item in plans[0]], None
        if self.rank is not None or self.energy is not None:
            return [(item, self._own(item, lost(item))) for item in plans[0]], None
        # of two plans that lose as much the first is taken
        found = min(
            (self._budgeted(model, plan, [lost(item) for item in plan]) for plan in plans), key=lambda one: one[2]
        )
        return found[0], found[1]

    def _own(self, item: Item, lost: Floats) -> int | None:
        """The rank of an item by itself."""
        rank = self.rank
        if rank is None:
            enough = lost <= (1 - (self.energy or 1.0)) * lost[0] + np.finfo(np.float64).eps * lost[0]
            least = max(int(np.argmax(enough)), 1) if enough.any() else len(lost)
            rank = -(-least // self.multiple) * self.multiple
        return rank if _pays(item, rank) else None

    def _budgeted(
        self, model: ir.Model, plan: Sequence[Item], lost: Sequence[Floats]
    ) -> tuple[list[tuple[Item, int | None]], Curve, float]:
        """The ranks that together lose least within the ratio, and what they lose."""
        ranks = [self._ranks(item) for item in plan]
        sizes = [[item.whole, *map(item.size, each)] for item, each in zip(plan, ranks, strict=True)]
        costs = [[0.0, *(float(each[rank]) for rank in able)] for each, able in zip(lost, ranks, strict=True)]
        found = knapsack(sizes, costs)
        first, now = _numbers(model)
        whole = first + sum(item.whole for item in plan)
        room = int(self.ratio * whole) - now
        if room < found.least:
            raise OptionError(
                f"{self.name}: a ratio of {self.ratio:g} cannot be kept: projections of rank {self.multiple} leave "
                f"{(now + found.least) / whole:.3f} of the numbers. Let fewer be a multiple, or a larger ratio stay"
            )
        options = found.within(room)
        drawn = found.columns[:: max(1, len(found.columns) // _DRAWN)]
        points = tuple(
            (float((now + found.least + int(at) * found.unit) / whole), float(found.best[at])) for at in drawn
        )
        spent = now + sum(size[at] for size, at in zip(sizes, options, strict=True))
        loss = sum(cost[at] for cost, at in zip(costs, options, strict=True))
        curve = Curve("share of the numbers", "squared error of the gates", points, (spent / whole, loss))
        taken = [each[at - 1] if at else None for each, at in zip(ranks, options, strict=True)]
        return list(zip(plan, taken, strict=True)), curve, loss

    def _ranks(self, item: Item) -> list[int]:
        every = [rank for rank in range(1, item.most + 1) if _pays(item, rank)]
        found = [rank for rank in every if rank % self.multiple == 0] or every
        step = max(-(-len(found) // _RANKS), 1)
        return found[step - 1 :: step]


_FACTORED = Miss("factorised", "factors", "a weight that is none yet")


def _pays(item: Item, rank: int) -> bool:
    """Whether factors of this rank are some, and have fewer numbers than the weights."""
    return rank <= item.most and item.size(rank) < item.whole


def _numbers(model: ir.Model) -> tuple[int, int]:
    """Of weights that are factors already: how many numbers they had, and how many they have."""
    first, now = 0, dict[ir.Value, int]()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        stepped = node.op_type.removeprefix("Projected") in RECURRENT and node.op_type not in RECURRENT
        if node.op_type not in RECURRENT and not stepped:
            continue
        narrow, weight = thin(node.inputs[0]), node.inputs[1]
        if narrow is not None and weight is not None and weight.shape is not None:
            rows = sum(_sizes(each)[0] for each in narrow)
            ways, gates, _ = _sizes(weight)
            first += rows * ways * gates
            now[weight] = int(np.prod(_sizes(weight)))
            # directions of one projection add up to it
            now |= {each: int(np.prod(_sizes(each))) for each in narrow if each.producer() is None}
        found = (node.inputs[2], node.inputs[3]) if stepped else factors(node.inputs[2])
        if found is not None and found[0] is not None and found[1] is not None:
            (ways, gates, _), hidden = _sizes(found[0]), _sizes(found[1])[-2]
            first += ways * gates * hidden
            now |= {each: int(np.prod(_sizes(each))) for each in found if each is not None}
    return first, sum(now.values())


def _sizes(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(dim for dim in value.shape if isinstance(dim, int))
