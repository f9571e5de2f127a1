"""Compute weights as products of two thinner ones, as thin as it hurts least.

    before   y = Gelu(x @ W + b) @ V + c             W [384, 1536], V [1536, 384]
    after    y = Gelu((x @ A) @ B + b') @ V' + c'    A [384, 200], B [200, 1536]

Lossy. With data the factors are those of least error as the inputs and the answers weigh it (`numerics.low_rank`); each
weight's rank is that at which all together are predicted to lose least within the budget, exactly; and layer after
layer each is fitted to the original's stream (`passes.fitting`) before it is factored, so that what was lost before is
made good. Weights that read one activation, as Q, K and V do, are factored together or apart, as does better, and so
are the parts of one whose outputs a Split takes apart.

Left alone: weights that no rank makes smaller, weights whose two products are slower on the target than their one, and
those that are tied, computed, quantized or factored already.

Sources: `numerics.low_rank`; Wang et al., SVD-LLM, 2024 (whitening, fitted layer after layer); Idelbayev and
Carreira-Perpinan, Low-Rank Compression of Neural Nets: Learning the Rank of Each Layer, 2020 (ranks by what all lose).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Kind, Site, sites
from ..base import Context, Contract, Lossy, Miss, Outcome, Pass
from ..budget import Budget
from ..choosing import Choice, Verdict, outcome
from ..drop import Form
from ..fitting import repairable
from ..pairs import paired, pairs
from ..ranks import Way, amount
from ..seen import inputs
from .beside import Beside, Residual
from .costs import Costs, Counted, Timed
from .factoring import Factoring
from .groups import Group, groups
from .measure import Algorithm, Measure
from .planning import Plan, Planning

#: Of the numbers of weights, what stays unless anything is told.
_RATIO = 0.7


@dataclass(frozen=True, kw_only=True)
class FactorizeLinear(Pass):
    """weights as products of two thinner ones, each of the rank that hurts least

    algorithm: what the factors are the best for. `svd`: the weight itself; `scaled`: its rows times the mean magnitude
        of their inputs; `fisher`: times how much the answers hang on them; `whitened`: its outputs on the data;
        `kronecker`: the answers, as far as they hang on these outputs. `auto` is kronecker with data, svd without.
    ratio: the share of the numbers of these weights that stays, above 0 and at most 1; 0.7 unless anything is told.
    budget: instead, `0.6 flops`, of the multiply-adds with weights; `0.6 bytes`, of all weights; or `0.6 latency`, of
        the seconds that these weights take on the target.
    rank, energy: instead, one rank for all; or the least that keeps this share of the sum of squared singular values.
    scope: `global` gives each weight the rank that hurts least at that ratio; `layer` the same share to each.
    joint: weights that read one activation: factored `together`, with one left factor, `apart`, or as does better.
    multiple: ranks are multiples of so many.
    drop: what answers lose: 1 - `cosine` of the rows of outputs, or the `kl` divergence of their softmax.
    probes: how many random projections of the outputs derivatives are taken of.
    repair: fit each weight to the original's stream before it is factored, by least squares, where there are data.
    residual: what stays beside the factors. `diagonal`: x * d, of square weights that are factored apart; `sparse`: the
        entries that cost the most; `quantized`: all in few bits. The last two are stored beside the factors and added
        up where the model is loaded: the file is smaller, what is computed is as much as before.
    keep: the share of the entries of a sparse residual, 0.02. bits, block: of a quantized one, 4, and how many inputs
        share a scale, 32; 0 for all.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "factorize-linear"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    algorithm: Algorithm = "auto"
    ratio: float | None = None
    budget: str = ""
    rank: int | None = None
    energy: float | None = None
    scope: Literal["global", "layer"] = "global"
    joint: Literal["auto", "together", "apart"] = "auto"
    multiple: int = 8
    drop: Form = "cosine"
    probes: int = 32
    repair: bool = True
    residual: Residual = "none"
    keep: float | None = None
    bits: int | None = None
    block: int | None = None
    smallest: int = 1024
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        told = amount(self, "ratio", "budget", "rank", "energy")
        if self.scope == "layer" and told not in (None, "ratio"):
            raise OptionError(f"{self.name}: scope=layer is of a ratio, found {told}")
        if self.multiple < 1 or self.probes < 1:
            raise OptionError(f"{self.name}: expected a multiple and probes of at least 1")
        self._check_residual()

    def _check_residual(self) -> None:
        for name, residual in (("keep", "sparse"), ("bits", "quantized"), ("block", "quantized")):
            if getattr(self, name) is not None and self.residual != residual:
                raise OptionError(f"{self.name}: {name} is of residual={residual}, found residual={self.residual}")
        if not 0 < self.beside.keep < 1:
            raise OptionError(f"{self.name}: expected to keep a share above 0 and below 1, found {self.keep}")
        if not 2 <= self.beside.bits <= 8 or self.beside.block < 0:
            raise OptionError(f"{self.name}: expected 2 to 8 bits and a block of at least 0")
        if self.budget and Budget.parse(self.budget).unit != "bytes" and self.beside.stored:
            raise OptionError(f"{self.name}: residual={self.residual} saves bytes alone: give the budget in bytes")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts, plan, measure = self._plan(model, context)
        repaired = self.repair and context.calibration is not None
        original = model.clone() if repaired else None
        Factoring(model, measure, self.beside, plan.whole, original, context.calibration).run(plan.taken)
        return _told(verdicts, plan, self.ignore)

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every site and the ranks that `apply` would take, leaving `model` as it is; as long as that
        takes but for the fitting. Without data, for an algorithm that needs them, the verdicts alone.
        """
        if context.calibration is None and self.algorithm not in ("auto", "svd"):
            return outcome(self._verdicts(model, context), ignore=self.ignore)
        verdicts, plan, _ = self._plan(model, context)
        return _told(verdicts, plan, self.ignore)

    def at(self, rank: int, together: bool) -> FactorizeLinear:
        """The same of all weights at one rank, whatever it loses: what is timed."""
        joint: Literal["together", "apart"] = "together" if together else "apart"
        plain = replace(self, algorithm="svd", scope="global", ratio=None, energy=None, budget="", repair=False)
        return replace(plain, rank=rank, joint=joint, only=(), ignore=(), smallest=1)

    @property
    def beside(self) -> Beside:
        """What stays beside factors."""
        plain = Beside(self.residual)
        keep = plain.keep if self.keep is None else self.keep
        bits = plain.bits if self.bits is None else self.bits
        return Beside(self.residual, keep, bits, plain.block if self.block is None else self.block)

    def limit(self) -> Budget | None:
        """What all together may cost; None where each rank is told."""
        if self.rank is not None or self.energy is not None:
            return None
        return Budget.parse(self.budget) if self.budget else Budget(self.ratio or _RATIO, "weights")

    def _plan(self, model: ir.Model, context: Context) -> tuple[list[Verdict], Plan, Measure]:
        algorithm = self.algorithm
        if algorithm == "auto" and context.calibration is None:
            algorithm = "svd"
        if algorithm != "svd":
            context.statistics(model, ())  # says so where there are no data
        verdicts = self._verdicts(model, context)
        every = groups((site for site, miss in verdicts if miss is None), alone=self.beside.stored)
        limit = self.limit()
        compared = limit is not None and (self.scope == "global" or bool(self.budget))
        measure = Measure.of(model, every, algorithm, context, drop=self.drop, probes=self.probes, compared=compared)
        plan = Planning(self, model, context, measure, limit, self._costs(model, every, context)).run(every)
        return verdicts, plan, measure

    def _costs(self, model: ir.Model, every: Sequence[Group], context: Context) -> Costs:
        limit, known = self.limit(), pairs(_linear(model))
        if limit is not None and limit.unit == "latency":
            return Timed.of_model(model, every, known, context, self.at)
        return Counted.of_model(model, every, known, "weights" if limit is None else limit.unit, self.beside)

    def _verdicts(self, model: ir.Model, context: Context) -> list[Verdict]:
        """Every weight site, and why it stays as it is whatever the ranks are."""
        choice = Choice(kinds=(Kind.LINEAR,), smallest=self.smallest, only=self.only, ignore=self.ignore)
        every = sites(model)
        halves = paired(_linear(model))
        verdicts = [(site, choice.verdict(site) or self._unfit(site, halves)) for site in every]
        if context.calibration is None:
            return verdicts
        seen = inputs(model, [site for site, miss in verdicts if miss is None], context)
        away = Miss("data", "a subgraph", "inputs that calibration sees; without data algorithm=svd takes it in")
        return [(site, miss or (None if site.weight in seen else away)) for site, miss in verdicts]

    def _unfit(self, site: Site, halves: set[ir.Node]) -> Miss | None:
        if site.node in halves:
            return Miss("factored", site.name, "a weight that is no factor already")
        reason = repairable(site)
        if reason is not None:
            return Miss("weight", reason, "a matrix that is stored")
        full = min(site.in_features, site.out_features)
        if self.rank is not None and self.rank > full:
            return Miss("rank", str(self.rank), f"a rank of at most {full}, the full one")
        return None


def _linear(model: ir.Model) -> list[Site]:
    """The sites that may be factors of another: what stands for a table is none."""
    return [site for site in sites(model) if site.kind is Kind.LINEAR]


def _told(verdicts: Sequence[Verdict], plan: Plan, ignore: Sequence[str]) -> Outcome:
    """What became of every site."""
    chosen: dict[ir.Value, str] = {}
    missed: dict[ir.Value, Miss] = {}
    for group, way in plan.taken:
        for site, said in _ranks(group, way):
            if said:
                chosen[site.weight] = said
            else:
                missed[site.weight] = Miss("budget", "whole", "a smaller budget: others lose less by a lower rank")
    nodes = {site.node: miss for group, miss in plan.missed.items() for site in group.sites}
    found = [(site, miss or nodes.get(site.node) or missed.get(site.weight)) for site, miss in verdicts]
    return outcome(found, chosen, plan.curve, ignore=ignore)


def _ranks(group: Group, way: Way) -> Iterator[tuple[Site, str]]:
    """What became of each weight of a group; nothing where it is whole."""
    for site, columns in zip(group.sites, group.columns, strict=True):
        if way.whole:
            yield site, ""
        elif len(way.ranks) == 1:
            others = [other.name for other in group.sites if other is not site]
            full, beside = min(group.inputs, group.outputs), f", together with {', '.join(others)}" if others else ""
            yield site, f"rank {way.ranks[0]} of {full}{beside}"
        else:
            parts = [(rank, part) for rank, part in zip(way.ranks, group.parts, strict=True)
                     if columns.start <= part.start < columns.stop]  # fmt: skip
            said = [f"{rank} of {min(group.inputs, group.width(part))}" for rank, part in parts if rank is not None]
            yield site, f"rank {', '.join(said)}" if said else ""
