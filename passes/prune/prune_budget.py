"""Prune neurons, heads and whole branches together under one budget, each as far as it hurts least.

    before   y = x + Attention(12 heads), z = y + FeedForward(1536 neurons)          every block alike
    after    y = x + Attention(9 heads),  z = y + FeedForward(512 neurons)           block by block another share

Lossy. For each group of units and several numbers of them it is measured what the answers lose by that alone, the
units chosen and the rest fitted as `prune-neurons` and `prune-heads` do; a branch may also go as a whole, a constant
standing for it. A multiple-choice knapsack then says how much stays where, within the budget exactly; and everything
is pruned in graph order, each projection fitted to the original's stream, so that what was lost is made good behind.

Left alone: what `prune-neurons` and `prune-heads` leave alone. Needs calibration data.

Sources: Kwon et al., A Fast Post-Training Pruning Framework for Transformers, 2022 (a budget over masks); Kurtic et
al., ZipLM: Inference-Aware Structured Pruning of Language Models, 2023 (levels of each layer by cost on the target).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.constants import tensor_of
from ...ir.cost import cost
from ...ir.errors import OptionError
from ...ir.provenance import scope, sources
from ...ir.shapes import dimension_names
from ...ir.site import Kind, Site, sites
from ...ir.text import place
from ..base import Context, Contract, Curve, Finding, Lossy, Miss, Outcome, Pass
from ..choosing import named, names
from ..drop import Form
from ..statistics import Calibration
from .answers import Answers
from .budget import Budget, Level, chosen
from .carving import Carver
from .moments import Fitted, Moments, key_of
from .part import part_of, seen_by
from .prune_heads import PruneHeads
from .prune_neurons import PruneNeurons
from .ranking import elimination
from .stream import Branch, branches, leave_out
from .units import Key, Units, units

Part = Literal["neurons", "heads", "branches"]

#: In the metadata of a model, by unit: what it cost at first.
_FIRST = "tersor.cost"
#: Of every dynamic dimension, where FLOPs are weighed against each other.
_PROBE = 32
#: Batches that losses are measured on.
_TRIED = 12


@dataclass(frozen=True, kw_only=True)
class PruneBudget(Pass):
    """neurons, heads and branches together, each as far as it hurts least, under one budget

    budget: `0.45 flops`, of the multiply-adds with weights that there were; `0.5 latency`, of the seconds that what may
        go took on the target, each part timed alone; `0.6 bytes`, of the weights.
    kinds: what may go: `neurons`, `heads`, and whole `branches` of the residual stream.
    levels: between how many numbers of units it is chosen for each group.
    multiple: what stays of the neurons of a layer is a multiple of so many.
    drop: what answers lose: 1 - `cosine` of the rows of outputs, or the `kl` divergence of their softmax.
    repair: fit projections to the original's stream, by least squares.
    only, ignore: glob patterns over the names of the sites that read units.
    """

    name: ClassVar[str] = "prune-budget"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    budget: str = "0.7 flops"
    kinds: tuple[Part, ...] = ("neurons", "heads", "branches")
    levels: int = 8
    multiple: int = 16
    drop: Form = "cosine"
    repair: bool = True
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if self.levels < 2:
            raise OptionError(f"{self.name}: expected at least 2 levels, found {self.levels}")
        if not self.kinds:
            raise OptionError(f"{self.name}: expected kinds of what may go, found none")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        context.statistics(model, ())  # says so where there are no data
        verdicts = self._verdicts(model)
        taken = [each for each, miss in verdicts if miss is None]
        budget = Budget.parse(self.budget)
        now = sum(_costs(model, budget, taken, context).values())
        key = f"{_FIRST}.{budget.unit}"
        first = float(model.metadata_props.get(key, now))
        if not taken or now <= budget.share * first * (1 + 1e-9):
            return Outcome(tuple(_finding(each, miss) for each, miss in verdicts if miss is not None))
        model.metadata_props[key] = repr(first)
        plan = _Planning(self, model, context, first).run(taken)
        told = plan.carve()
        found = [_finding(each, miss, told.get(each.key, "")) for each, miss in verdicts]
        return Outcome(tuple(found), plan.curve)

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every group, leaving `model` as it is."""
        return Outcome(tuple(_finding(each, miss) for each, miss in self._verdicts(model)))

    def _verdicts(self, model: ir.Model) -> list[tuple[Units, Miss | None]]:
        kinds = [PruneNeurons()] if "neurons" in self.kinds or "branches" in self.kinds else []
        found: list[tuple[Units, Miss | None]] = []
        for each in units(model):
            made = PruneHeads() if each.heads else PruneNeurons() if kinds else None
            miss = Miss("kind", "neurons", "", far=True) if made is None else made.verdict(each)
            if miss is not None and miss.far:
                continue
            known = [name for site in each.readers for name in names(site)]
            if miss is None and self.only and not named(known, self.only):
                miss = Miss("only", each.name, f"a name that fits {', '.join(self.only)}")
            if miss is None and named(known, self.ignore):
                miss = Miss("ignore", each.name, f"a name that fits none of {', '.join(self.ignore)}")
            found.append((each, miss))
        return found


@dataclass(eq=False)
class _Planning:
    """Measures what levels of each group cost and lose, and chooses. first: what the model cost before any pruning."""

    made: PruneBudget
    model: ir.Model
    context: Context
    first: float

    def run(self, taken: Sequence[Units]) -> _Plan:
        calibration = self.context.calibration
        assert calibration is not None
        original = self.model.clone()
        answers = Answers.of(original, calibration, batches=_TRIED, form=self.made.drop)
        budget = Budget.parse(self.made.budget)
        costs = _costs(self.model, budget, taken, self.context)
        ending = {branch.site.weight for branch in branches(self.model)}
        parts: list[list[Level]] = []
        counted: set[ir.Node] = set()
        # nothing is pruned yet: the model is the original
        gathered = Carver(self.model, self.model, answers.rest).see_all(taken)
        for each, seen in zip(taken, gathered, strict=True):
            order = elimination(each, seen).order
            ends = {site.weight for site in each.readers}
            able = "branches" in self.made.kinds and len(ends) == 1 and ends <= ending
            own = {site.node for site in (*each.makers, *each.readers)} - counted
            counted |= own
            whole = sum(costs.get(node, 0.0) for node in own)
            levels = [Level(each.size, whole, 0.0)]
            for count in self._counts(each, able):
                pruned, twin = self._at(each, count, order, seen, original)
                spent = whole * count / each.size
                if budget.unit == "latency":
                    spent = _seconds(pruned, [twin], self.context)[0] if count else 0.0
                levels.append(Level(count, spent, answers.loss(pruned)))
            parts.append(levels)
        rest = sum(cost for node, cost in costs.items() if node not in counted)
        best, curve = chosen(parts, rest, budget, self.first)
        plan = {each.key: level for each, level in zip(taken, best, strict=True)}
        return _Plan(self.made, self.model, original, calibration, plan, curve)

    def _counts(self, each: Units, able: bool) -> list[int]:
        """How many units may stay beside all of them."""
        few = "heads" if each.heads else "neurons"
        found: set[int] = set()
        if few in self.made.kinds:
            step = 1 if each.heads else min(self.made.multiple, each.size)
            spread = np.linspace(0, each.size, self.made.levels + 1)[1:-1]
            found |= {max(step, round(count / step) * step) for count in spread}
        return sorted((count for count in found if count < each.size), reverse=True) + ([0] if able else [])

    def _at(
        self, each: Units, count: int, order: NDArray[np.intp], seen: Mapping[Fitted, Moments], original: ir.Model
    ) -> tuple[ir.Model, Units]:
        """The original with so many units of one group, and what the group was there."""
        copied = original.clone()
        twin = next(other for other in units(copied) if other.key == each.key)
        known = {
            key_of(theirs): seen[key_of(mine)]
            for mine, theirs in zip(each.readers, twin.readers, strict=True)
            if key_of(mine) in seen
        }
        if count == 0:
            branch = _branch(copied, twin.readers[0])
            leave_out(branch, known[key_of(twin.readers[0])].outputs if self.made.repair else None)
            return copied, twin
        keep = np.ones(each.size, np.bool_)
        keep[order[: each.size - count]] = False
        Carver(copied).take(twin, keep, known if self.made.repair else {})
        return copied, twin


@dataclass(frozen=True, eq=False)
class _Plan:
    """How many units stay of each group."""

    made: PruneBudget
    model: ir.Model
    original: ir.Model
    calibration: Calibration
    levels: Mapping[Key, Level]
    curve: Curve

    def carve(self) -> dict[Key, str]:
        """Prune in graph order, every projection behind the first change fitted; what was done to each group."""
        carver = Carver(self.model, self.original, self.calibration)
        told: dict[Key, str] = {}
        for key, level in self.levels.items():
            each = next(other for other in units(self.model) if other.key == key)
            if level.units == each.size:
                told[key] = f"{each.size:,}"
                if self.made.repair and any(text.find("->") >= 0 for text in told.values()):
                    for site in each.readers:
                        carver.refit(site)
                continue
            seen = carver.see(each)
            each.remember()
            told[key] = f"{each.size:,} -> {level.units:,}"
            if level.units == 0:
                site = each.readers[0]
                leave_out(_branch(self.model, site), seen[key_of(site)].outputs if self.made.repair else None)
                continue
            keep = np.ones(each.size, np.bool_)
            keep[elimination(each, seen).order[: each.size - level.units]] = False
            carver.take(each, keep, seen if self.made.repair else {})
        return told


def _branch(model: ir.Model, site: Site) -> Branch:
    return next(branch for branch in branches(model) if branch.site.node is site.node)


def _costs(model: ir.Model, budget: Budget, taken: Sequence[Units], context: Context) -> dict[ir.Node, float]:
    """What each node with a weight costs: FLOPs, bytes, or for each group the nanoseconds of what lies in it."""
    if budget.unit == "latency":
        seconds = _seconds(model, taken, context)
        return {each.node: spent for each, spent in zip(taken, seconds, strict=True)}
    listed = [site for site in sites(model) if site.kind is not Kind.EMBEDDING]
    if budget.unit == "bytes":
        first = {site.weight: site.node for site in reversed(listed)}
        found: dict[ir.Node, float] = {}
        for weight, node in first.items():
            tensor = tensor_of(weight)
            found[node] = found.get(node, 0.0) + (0 if tensor is None else tensor.nbytes)
        return found
    nodes = {site.node for site in listed}
    spent = cost(model, dict.fromkeys(dimension_names(model), _PROBE)).nodes
    return {each.node: float(each.flops.constant or 0) for each in spent if each.node in nodes}


def _seconds(model: ir.Model, taken: Sequence[Units], context: Context) -> list[float]:
    """Nanoseconds that the parts which groups lie in take on the target, on the middle batch of the data."""
    if context.latency is None or context.calibration is None:
        raise OptionError("prune-budget: a latency is one of a target; compile for one, or give the budget in flops")
    parts = [part_of(model, each) for each in taken]
    batches = context.calibration.batches
    feeds = seen_by(model, parts, batches[len(batches) // 2])
    given = [{value.name or "": feeds[value.name or ""] for value in part.graph.inputs} for part in parts]
    return [1e9 * context.latency(part, each) for part, each in zip(parts, given, strict=True)]


def _finding(each: Units, miss: Miss | None, told: str = "") -> Finding:
    node = each.node
    return Finding(f"{each.name} ({place(node)})", sources(node), miss, scope(node), told)
