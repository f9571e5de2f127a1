"""Let weights of one role in neighbouring layers be combinations of one stored basis.

    before   q0 = x0 @ Q0 + b0                  q1 = x1 @ Q1 + b1
    after    q0 = (x0 @ B) @ C0 + c0            q1 = (x1 @ B) @ C1 + c1          B stored once

Lossy. B comes from the joint SVD of the weights side by side, whitened by what each of them reads, and each C is the
best for it on its own inputs (`numerics.bases`). Sites that read one activation (Q, K and V) share a basis or have one
each, neighbouring layers too, whichever loses least: how, and through how many features, is chosen for all of them
together (`numerics.knapsack`) from what every rank loses. With data the parts C are then fitted to the original's
stream, layer after layer (`passes.fitting`), and biases to what the error is in the mean. Roles are found in the graph
(`share.roles`). Left alone: weights that are tied, small, not finite, computed or factors already, layers that keep all
of their numbers or would be slower on the target, and sites that the options leave out. `ratio` is of what there was at
first: applied twice, the pass takes nothing more.

Sources: Wang et al., Basis Sharing, 2024, arXiv 2410.03765; whitening: SVD-LLM, Wang et al., 2024, arXiv 2403.07378.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Kind, Site, computed_sites, sites
from ..base import Context, Contract, Curve, Lossy, Miss, Outcome, Pass, Several
from ..budget import Budget, chosen
from ..choosing import Choice, Verdict, outcome
from ..drop import Drop, Form
from ..fitting import refit, write_bias
from ..gradients import reached
from ..importance import DAMPING, columns
from ..moments import biased
from ..numerics.arrays import Floats
from ..numerics.gram import centred
from ..pairs import paired, pairs, split
from ..ranks import amount
from ..seen import Seen, inputs
from ..statistics import Calibration
from ..trail import Trail
from .roles import roles
from .structures import Costs, Piece, Shared, Slow, Window
from .thinning import Thin

#: Of the numbers of weights, what stays unless anything is told.
_RATIO = 0.8
_ADVICE = "Let fewer be a multiple, or a larger ratio stay"


@dataclass(frozen=True, kw_only=True)
class ShareBasis(Pass):
    """linear weights of neighbouring layers as combinations of one stored basis

    ratio: the share of the numbers of linear weights that stays, above 0 and at most 1, 0.8 unless anything is told;
        ranks and structures are chosen for all roles together.
    rank: columns of every basis instead, of each role by itself.
    group: neighbouring layers that share a basis at most; 0 for all, 1 for none.
    alone: let layers have bases of their own where that loses less, which it does in most.
    algorithm: what an error costs. `svd`: its square; `whitened`: what it does to the layer's outputs on data;
        `kronecker`: what it does to the model's answers, by gradients as well. `auto` is kronecker with data, svd
        without.
    multiple: ranks are multiples of so many.
    repair: where there are data, fit what each weight makes of its basis, and its bias, to the original's stream.
    drop, probes: kronecker: what an answer loses, 1 - `cosine` of the rows of outputs or the `kl` divergence of their
        softmax; and how many gradients are drawn.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "share-basis"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    ratio: float | None = None
    rank: int | None = None
    group: int = 2
    alone: bool = True
    algorithm: Literal["auto", "svd", "whitened", "kronecker"] = "auto"
    multiple: int = 8
    repair: bool = True
    drop: Form = "cosine"
    probes: int = 32
    smallest: int = 1024
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        amount(self, "ratio", "rank")
        if self.group < 0 or self.multiple < 1 or self.probes < 1:
            raise OptionError(
                f"{self.name}: expected a group of at least 0, a multiple and probes of at least 1, found "
                f"{self.group}, {self.multiple} and {self.probes}"
            )

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site and the ranks that `apply` would take, leaving `model` as it is; as long as
        that takes but for the fitting. Without data, for an algorithm that needs them, the verdicts alone.
        """
        if context.calibration is None and self.algorithm not in ("auto", "svd"):
            return outcome(self._verdicts(model), ignore=self.ignore)
        return self._plan(model, context).outcome(self.ignore)

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        plan = self._plan(model, context)
        repaired = self.repair and context.calibration is not None and plan.taken
        original = model.clone() if repaired else None
        made: set[ir.Node] = set()
        for piece, rank in plan.taken:
            vectors, parts = plan.costs.bases([site for layer in piece for site in layer]).factors(rank)
            made |= self._store(piece, vectors, parts, plan.seen)
        if original is not None and context.calibration is not None:
            _fit(model, original, context.calibration, made | plan.whole)
        return plan.outcome(self.ignore)

    def _plan(self, model: ir.Model, context: Context) -> _Plan:
        """What shares a basis, of which rank."""
        verdicts = self._verdicts(model)
        able = [site for site, miss in verdicts if miss is None]
        algorithm = self._algorithm(model, able, context)
        seen = {} if algorithm == "svd" or not able else inputs(model, able, context)
        unseen = Miss("inputs", "a weight in a subgraph", "inputs that calibration sees; algorithm=svd needs none")
        left = {site.weight: unseen for site in able if algorithm != "svd" and site.weight not in seen}
        able = [site for site in able if site.weight not in left]
        if not able:
            return _Plan(verdicts, (), left, Costs(), seen)
        costs = self._costs(model, able, seen, algorithm, context)
        windows = [
            Window(tuple(layers[at : at + size]), self.multiple, self.alone)
            for layers in roles(model, able)
            for size in [self.group or len(layers)]
            for at in range(0, len(layers), size)
        ]
        found, missed, curve = self._ways(model, windows, costs, context)
        taken: list[tuple[Piece, int]] = []
        for window, way in zip(windows, found, strict=True):
            for piece, rank in window.pieces(way):
                if rank is not None:
                    taken.append((piece, rank))
                    continue
                need = "a smaller ratio: others lose less by bases of a lower rank"
                miss = missed.get(piece) or missed.get(window.layers) or Miss("ratio", "whole", need)
                left |= {site.weight: miss for layer in piece for site in layer}
        return _Plan(verdicts, taken, left, costs, seen, curve)

    def _verdicts(self, model: ir.Model) -> list[Verdict]:
        choice = Choice(kinds=(Kind.LINEAR,), smallest=self.smallest, only=self.only, ignore=self.ignore)
        every = sites(model)
        factors = paired(every)
        found: list[Verdict] = [
            (site, Miss("factored", site.name, "a weight that is no factor already") if site.node in factors
             else choice.verdict(site))
            for site in every
        ]  # fmt: skip
        return [*found, *((site, choice.computed(site)) for site in computed_sites(model))]

    def _algorithm(self, model: ir.Model, chosen: Sequence[Site], context: Context) -> str:
        if self.algorithm != "auto":
            return self.algorithm
        if context.calibration is None:
            return "svd"
        weights = {site.weight for site in chosen}
        return "kronecker" if weights and reached(model, weights) == weights else "whitened"

    def _costs(
        self, model: ir.Model, chosen: Sequence[Site], seen: Mapping[ir.Value, Seen], algorithm: str, context: Context
    ) -> Costs:
        """What errors of the weights cost by their inputs and outputs."""
        if algorithm == "svd":
            return Costs()
        before = {site.weight: self._gram(site, seen[site.weight]) for site in chosen}
        if algorithm == "whitened":
            return Costs(before, damping=DAMPING)
        drop = Drop.of(model, self.drop)
        after = columns(model, [(site,) for site in chosen], before, context, drop, self.probes)
        return Costs(before, {site.weight: each for site, each in zip(chosen, after, strict=True)}, DAMPING)

    def _gram(self, site: Site, seen: Seen) -> Floats:
        """Of the inputs; about their means where the bias makes up for the rest."""
        gram, part = seen.gram, seen.parts[0]
        return centred(gram, part.count, part.mean) if self._repaired(site) else gram

    def _repaired(self, site: Site) -> bool:
        return self.repair and biased(site)

    def _ways(
        self, model: ir.Model, windows: Sequence[Window], costs: Costs, context: Context
    ) -> tuple[Sequence[Shared], dict[Piece, Miss], Curve | None]:
        """How each window is computed, and why what cannot be otherwise stays as it is."""
        slow, missed = self._slow(model, context), dict[Piece, Miss]()
        if self.rank is not None:
            told = [window.at(self.rank, slow) for window in windows]
            return [way for way, _ in told], {piece: miss for _, each in told for piece, miss in each.items()}, None
        budget, (first, now) = Budget(self.ratio or _RATIO, "weights"), _numbers(model)
        if _fits(budget, windows, first, now):
            return [window.kept for window in windows], {}, None
        able: dict[Window, list[Shared]] = {}
        for window in windows:
            found, none = window.ways(costs, slow)
            if none is None:
                able[window] = found
            else:
                missed |= dict.fromkeys((window.layers, *window.structures[0]), none)
        if _fits(budget, list(able), first, now):
            return [window.kept for window in windows], missed, None
        whole = first + sum(window.whole for window in able)
        best, curve = chosen(list(able.values()), now, budget, whole, advice=_ADVICE)
        taken = dict(zip(able, best, strict=True))
        return [taken.get(window, window.kept) for window in windows], missed, curve

    def _slow(self, model: ir.Model, context: Context) -> Slow:
        """Why a piece is slower on the target through so many features, where there is one."""

        def slow(piece: Piece, rank: int) -> Miss | None:
            if context.pays is None:
                return None
            several = (Several(layer[0].name, tuple(site.node for site in layer)) for layer in piece)
            asked = (context.pays(Thin(rank=rank), model, layer) for layer in several)
            return next((miss for miss in asked if miss is not None), None)

        return slow

    def _store(
        self,
        piece: Sequence[Sequence[Site]],
        vectors: Floats,
        parts: Sequence[Floats],
        seen: Mapping[ir.Value, Seen],
    ) -> set[ir.Node]:
        """Let the sites compute through the basis, each layer's through features of its own activation; give the nodes
        that read those.
        """
        at, held = 0, None
        for layer in piece:
            own = parts[at : at + len(layer)]
            at += len(layer)
            for site, part in zip(layer, own, strict=True):
                bias = site.bias_array()
                if bias is not None and site.weight in seen and self._repaired(site):
                    # b' = b + mean(x) (W - W')
                    error = np.asarray(site.dense(), np.float64) - vectors @ part
                    write_bias(site, np.asarray(bias, np.float64) + seen[site.weight].parts[0].mean @ error)
            held = split(layer, vectors if held is None else held, np.concatenate(own, axis=1))
        assert held is not None  # a piece has a layer
        return {reader for node in held.consumers() for reader in node.outputs[0].consumers()}


def _fit(model: ir.Model, original: ir.Model, calibration: Calibration, fitted: Collection[ir.Node]) -> None:
    """Fit what weights make of their bases, and those that were weighed and stayed, to the original's stream, front to
    back.
    """
    trail = Trail()
    for site in sites(model):
        if site.node in fitted:
            refit(model, original, calibration, site, trail=trail)


def _fits(budget: Budget, windows: Sequence[Window], first: int, now: int) -> bool:
    """Whether all may stay as they are. first, now: what factors that are there were, and are."""
    here = sum(window.whole for window in windows)
    return now + here <= int(budget.share * (first + here))


def _numbers(model: ir.Model) -> tuple[int, int]:
    """Of weights that are factors already: how many numbers they had as one, and how many they have."""
    known = pairs(sites(model))
    now = {site.weight: site.in_features * site.out_features for pair in known for site in pair.sites}
    return sum(pair.whole for pair in known), sum(now.values())


@dataclass(frozen=True)
class _Plan:
    """taken: what shares a basis, of which rank. left: why weights stay that the options take in. costs, seen: what
    calibration says of them.
    """

    verdicts: Sequence[Verdict]
    taken: Sequence[tuple[Piece, int]]
    left: Mapping[ir.Value, Miss]
    costs: Costs
    seen: Mapping[ir.Value, Seen]
    curve: Curve | None = None

    @property
    def whole(self) -> set[ir.Node]:
        """Of sites that calibration sees and that stay whole."""
        return {
            site.node for site, miss in self.verdicts
            if miss is None and site.weight in self.left and (site.weight in self.seen or not self.seen)
        }  # fmt: skip

    def outcome(self, ignore: Sequence[str]) -> Outcome:
        """What becomes of every site."""
        told = {
            site.weight: _told(rank, len(piece), len(layer))
            for piece, rank in self.taken
            for layer in piece
            for site in layer
        }
        return outcome(
            [(site, miss or self.left.get(site.weight)) for site, miss in self.verdicts],
            told,
            self.curve,
            ignore=ignore,
        )


def _told(rank: int, layers: int, members: int) -> str:
    beside = f", {members} that read one activation" if members > 1 else ""
    return f"rank {rank}, a basis of {layers} layers{beside}" if layers > 1 else f"rank {rank}{beside}"
