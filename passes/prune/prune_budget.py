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

from ...ir.errors import OptionError
from ...ir.provenance import scope, sources
from ...ir.site import Site
from ...ir.text import place
from ..answers import Answers
from ..base import Context, Contract, Curve, Finding, Lossy, Miss, Outcome, Pass
from ..budget import Budget, Level, chosen
from ..choosing import left_out, sparing_nothing
from ..drop import Form
from ..moments import Fitted, Moments, key_of, moments
from ..numerics.arrays import Floats
from ..statistics import Calibration
from .carving import Carver
from .costs import Shares, costs, is_branch
from .prune_heads import PruneHeads
from .prune_neurons import PruneNeurons
from .ranking import elimination
from .stream import Branch, branches, leave_out
from .units import Key, Units, units

Part = Literal["neurons", "heads", "branches"]

#: In the metadata of a model, by unit: what it cost at first.
_FIRST = "tersor.cost"
#: Batches that losses are measured on.
_TRIED = 12
#: Where a budget cannot be kept.
_ADVICE = "Let more kinds of units go, or a smaller multiple stay"
#: What sums of floats may be off, as a share.
_EVEN = 1e-9


@dataclass(frozen=True, kw_only=True)
class PruneBudget(Pass):
    """neurons, heads and branches together, each as far as it hurts least, under one budget

    budget: `0.45 flops`, of the multiply-adds with weights that there were; `0.5 latency`, of the seconds that what may
        go took on the target, each part timed alone; `0.6 bytes`, of all weights, those too that cannot go.
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
        if self.multiple < 1:
            raise OptionError(f"{self.name}: expected a multiple of at least 1, found {self.multiple}")
        if not self.kinds:
            raise OptionError(f"{self.name}: expected kinds of what may go, found none")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        context.statistics(model, ())  # says so where there are no data
        verdicts = self._verdicts(model)
        taken = [each for each, miss in verdicts if miss is None]
        others = self._others(model, verdicts)
        budget = Budget.parse(self.budget)
        key = f"{_FIRST}.{budget.unit}"
        if not taken:
            none = Miss("units", "none", "neurons, heads or branches that may go; see tersor explain", near=True)
            return Outcome((*self._told(verdicts), *others, Finding("the graph", miss=none)))
        # a second timing is never quite the first: what was reached counts, not what it takes now
        reached = float(model.metadata_props.get(f"{key}.share", 2)) if budget.unit == "latency" else 2.0
        now, first = reached, 1.0
        if reached > budget.share * (1 + _EVEN):
            now = sum(costs(model, budget, taken, context).values())
            first = float(model.metadata_props.get(key, now))
        if now <= budget.share * first * (1 + _EVEN):
            none = Miss(
                "budget", f"{now / max(first, 1e-30):.3f} {budget.unit}", f"more than the {budget.share:g} asked"
            )
            return Outcome((*self._told(verdicts), *others, Finding("the graph", miss=none)))
        model.metadata_props[key] = repr(first)
        plan = _Planning(self, model, context, first).run(taken)
        told = plan.carve()
        model.metadata_props[f"{key}.share"] = repr(plan.curve.chosen[0])
        found = [_finding(each, miss, told.get(each.key, "")) for each, miss in verdicts]
        return Outcome((*found, *others), plan.curve)

    def _told(self, verdicts: Sequence[tuple[Units, Miss | None]]) -> list[Finding]:
        """The findings where nothing goes."""
        return [_finding(each, miss) for each, miss in verdicts if miss is not None]

    def _others(self, model: ir.Model, verdicts: Sequence[tuple[Units, Miss | None]]) -> list[Finding]:
        """Findings about what is no group: attention that was not raised, patterns that spare nothing."""
        lost = sparing_nothing(self.ignore, [each.names for each, _ in verdicts])
        return [*(PruneHeads()._others(model) if "heads" in self.kinds else []), *lost]

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every group, leaving `model` as it is."""
        verdicts = self._verdicts(model)
        return Outcome((*(_finding(each, miss) for each, miss in verdicts), *self._others(model, verdicts)))

    def _verdicts(self, model: ir.Model) -> list[tuple[Units, Miss | None]]:
        found: list[tuple[Units, Miss | None]] = []
        ending = {branch.site.node for branch in branches(model)}
        for each in units(model):
            may = ("heads" if each.heads else "neurons") in self.kinds
            whole = "branches" in self.kinds and is_branch(each, ending)
            if not may and not whole:
                continue
            miss = (PruneHeads() if each.heads else PruneNeurons()).verdict(each)
            if miss is not None and miss.far:
                continue
            found.append((each, miss or left_out(each.names, self.only, self.ignore)))
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
        # nothing is pruned yet: the model is the original
        answers = Answers.of(self.model, calibration, batches=_TRIED, form=self.made.drop)
        budget = Budget.parse(self.made.budget)
        known = costs(self.model, budget, taken, self.context)
        shares = Shares.of(taken, budget)
        ending = {branch.site.node for branch in branches(self.model)}
        parts: list[list[Level]] = []
        gathered = Carver(self.model, self.model, answers.rest).see_all(taken)
        for number, (each, seen) in enumerate(zip(taken, gathered, strict=True)):
            order = elimination(each, seen).order
            able = "branches" in self.made.kinds and is_branch(each, ending)
            saved, lost = [0.0], [0.0]
            counts = self._counts(each, able)
            changed = _touched(each)
            for count in counts:
                pruned, twin = self._at(each, count, order, seen, original, answers.rest)
                left = costs(pruned, budget, [twin] if count else [], self.context)
                saved.append(shares.saved(number, known, left))
                lost.append(answers.loss(pruned, changed))
            # of the group alone: what the model costs but for it is the rest
            most = max(saved)
            levels = zip((each.size, *counts), saved, lost, strict=True)
            parts.append([Level(count, most - less, loss) for count, less, loss in levels])
        rest = sum(known.values()) - sum(levels[0].cost for levels in parts)
        best, curve = chosen(parts, rest, budget, self.first, advice=_ADVICE)
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
        self,
        each: Units,
        count: int,
        order: NDArray[np.intp],
        seen: Mapping[Fitted, Moments],
        original: ir.Model,
        calibration: Calibration,
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
            leave_out(branch, _mean(copied, original, calibration, branch, known) if self.made.repair else None)
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
        changed = False
        for key, level in self.levels.items():
            each = next(other for other in units(self.model) if other.key == key)
            if level.units == each.size:
                told[key] = f"{each.size:,}"
                if self.made.repair and changed:
                    for site in each.readers:
                        carver.refit(site)
                continue
            changed = True
            notes = len(carver.notes)
            seen = carver.see(each)
            each.remember()
            told[key] = f"{each.size:,} -> {level.units:,}"
            if level.units == 0:
                branch = _branch(self.model, each.readers[0])
                mean = _mean(self.model, self.original, self.calibration, branch, seen) if self.made.repair else None
                leave_out(branch, mean)
                continue
            keep = np.ones(each.size, np.bool_)
            keep[elimination(each, seen).order[: each.size - level.units]] = False
            carver.take(each, keep, seen if self.made.repair else {})
            if self.made.repair:
                told[key] = "; ".join([told[key], *dict.fromkeys(carver.notes[notes:])])
        return told


def _touched(each: Units) -> set[ir.Node]:
    """The nodes that make values which units are part of, or read constants of which they are."""
    makers = {node for value, _ in each.group.uses if (node := value.producer()) is not None}
    return makers | {node for value, _ in each.group.weights for node in value.consumers()}


def _branch(model: ir.Model, site: Site) -> Branch:
    return next(branch for branch in branches(model) if branch.site.node is site.node)


def _mean(
    model: ir.Model, original: ir.Model, calibration: Calibration, branch: Branch, seen: Mapping[Fitted, Moments]
) -> Floats:
    """What stands for a branch: the mean of what the stream of the original has there over what it has now."""
    key = key_of(branch.site)
    found = seen.get(key)
    # not seen where it cannot be fitted; what it gives can be all the same
    return (moments(original, model, calibration, [branch.site])[key] if found is None else found).outputs


def _finding(each: Units, miss: Miss | None, told: str = "") -> Finding:
    node = each.node
    return Finding(f"{each.name} ({place(node)})", sources(node), miss, scope(node), told)
