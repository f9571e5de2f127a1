"""Let weights of one role in neighbouring layers be combinations of one stored basis.

    before   q0 = x0 @ Q0 + b0                  q1 = x1 @ Q1 + b1
    after    q0 = (x0 @ B) @ C0 + c0            q1 = (x1 @ B) @ C1 + c1          B stored once

Lossy. B comes from the joint SVD of the weights side by side, whitened by what each of them reads, and each C is the
best for it on its own inputs (`numerics.bases`). Sites that read one activation (Q, K and V) share a basis or have one
each, neighbouring layers too, whichever loses least: how, and through how many features, is chosen for all of them
together (`numerics.knapsack`) from what every rank loses. With data the parts C are then fitted to the original's
stream, layer after layer (`passes.fitting`), and biases to what the error is in the mean. Roles are found in the graph
(`share.roles`). Left alone: weights that are tied, small, not finite, computed or factors already, layers that keep all
of their numbers, and sites that the options leave out. `ratio` is of what there was at first: applied twice, the pass
takes nothing more.

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
from ..base import Context, Contract, Curve, Lossy, Miss, Outcome, Pass
from ..choosing import Choice, Verdict, outcome, paying
from ..drop import Drop, Form
from ..fitting import refit, write_bias
from ..gradients import reached
from ..importance import DAMPING, columns
from ..moments import biased
from ..numerics.arrays import Floats
from ..numerics.knapsack import knapsack
from ..pairs import paired, pairs, split
from ..seen import Seen, inputs
from ..statistics import Calibration
from ..trail import Trail
from .roles import roles
from .structures import Costs, Way, Window

#: Points of the curve that a report draws.
_DRAWN = 64


@dataclass(frozen=True, kw_only=True)
class ShareBasis(Pass):
    """linear weights of neighbouring layers as combinations of one stored basis

    ratio: the share of the numbers of linear weights that stays, above 0 and at most 1; chosen for all roles together.
    rank: columns of every basis instead, of each role by itself.
    group: neighbouring layers that share a basis at most; 0 for all, 1 for none.
    alone: let layers have bases of their own where that loses less, which it does in most.
    algorithm: what an error costs. `svd`: its square; `whitened`: what it does to the layer's outputs on data;
        `kronecker`: what it does to the model's answers, by gradients as well. `auto` is kronecker with data, svd
        without.
    multiple: ranks are multiples of so many.
    repair: where there are data, fit what each weight makes of its basis, and its bias, to the original's stream.
    drop, draws: kronecker: what an answer loses, 1 - `cosine` of the rows of outputs or the `kl` divergence of their
        softmax; and how many gradients are drawn.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "share-basis"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    ratio: float = 0.8
    rank: int | None = None
    group: int = 2
    alone: bool = True
    algorithm: Literal["auto", "svd", "whitened", "kronecker"] = "auto"
    multiple: int = 8
    repair: bool = True
    drop: Form = "cosine"
    draws: int = 64
    smallest: int = 1024
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise OptionError(f"{self.name}: expected a ratio above 0 and at most 1, found {self.ratio:g}")
        if self.rank is not None and self.rank < 1:
            raise OptionError(f"{self.name}: expected a rank of at least 1, found {self.rank}")
        if self.group < 0 or self.multiple < 1 or self.draws < 1:
            raise OptionError(
                f"{self.name}: expected a group of at least 0, a multiple and draws of at least 1, found "
                f"{self.group}, {self.multiple} and {self.draws}"
            )

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site, leaving `model` as it is; what it loses is not asked."""
        return outcome(self._verdicts(model, context), ignore=self.ignore)

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self._verdicts(model, context)
        chosen = [site for site, miss in verdicts if miss is None]
        algorithm = self._algorithm(model, chosen, context)
        seen = {} if algorithm == "svd" or not chosen else inputs(model, chosen, context)
        unseen = Miss("inputs", "a weight in a subgraph", "inputs that calibration sees; algorithm=svd needs none")
        left = {site.weight: unseen for site in chosen if algorithm != "svd" and site.weight not in seen}
        chosen = [site for site in chosen if site.weight not in left]
        if not chosen:
            return outcome([(site, miss or left.get(site.weight)) for site, miss in verdicts], ignore=self.ignore)
        costs = self._costs(model, chosen, seen, algorithm, context)
        original = model.clone() if self.repair and context.calibration is not None else None
        windows = [
            Window(tuple(layers[at : at + size]), self.multiple, self.alone)
            for layers in roles(model, chosen)
            for size in [self.group or len(layers)]
            for at in range(0, len(layers), size)
        ]
        told: dict[ir.Value, str] = {}
        found, curve = self._ways(model, windows, costs)
        for window, way in zip(windows, found, strict=True):
            for piece, rank in window.pieces(way):
                weights = [site for layer in piece for site in layer]
                if rank is None:
                    need = "a rank at which the factors have fewer numbers, or a smaller ratio"
                    left |= {site.weight: Miss("rank", str(self.rank or "all of it"), need) for site in weights}
                    continue
                basis = costs.bases(weights)
                vectors, parts = basis.factors(rank)
                told |= {site.weight: _told(rank, len(piece), len(layer)) for layer in piece for site in layer}
                self._store(piece, vectors, parts, seen)
        if original is not None and context.calibration is not None and told:
            _fit(model, original, context.calibration, {site.node for site in chosen if site.weight in left})
        final: list[Verdict] = [(site, miss or left.get(site.weight)) for site, miss in verdicts]
        return outcome(final, told, curve, ignore=self.ignore)

    def _verdicts(self, model: ir.Model, context: Context) -> list[Verdict]:
        choice = Choice(kinds=(Kind.LINEAR,), smallest=self.smallest, only=self.only, ignore=self.ignore)
        every = sites(model)
        factors = paired(every)
        halves = Miss("factorised", "a factor", "a weight that is none yet")
        found: list[Verdict] = [(site, halves if site.node in factors else choice.verdict(site)) for site in every]
        stored: list[Verdict] = [(site, choice.computed(site)) for site in computed_sites(model)]
        return [*paying(self, model, found, context), *stored]

    def _algorithm(self, model: ir.Model, chosen: Sequence[Site], context: Context) -> str:
        if self.algorithm != "auto":
            return self.algorithm
        if context.calibration is None:
            return "svd"
        weights = {site.weight for site in chosen}
        try:
            Drop.of(model, self.drop)
        except OptionError:
            return "whitened"
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
        after = columns(model, [(site,) for site in chosen], before, context, drop, self.draws)
        return Costs(before, {site.weight: each for site, each in zip(chosen, after, strict=True)}, DAMPING)

    def _gram(self, site: Site, seen: Seen) -> Floats:
        """Of the inputs; about their means where the bias makes up for the rest."""
        gram, part = seen.gram, seen.parts[0]
        found: Floats = gram - part.count * np.outer(part.mean, part.mean) if self._repaired(site) else gram
        return found

    def _repaired(self, site: Site) -> bool:
        return self.repair and biased(site)

    def _ways(self, model: ir.Model, windows: Sequence[Window], costs: Costs) -> tuple[list[Way], Curve | None]:
        """How each window is computed."""
        if self.rank is not None:
            return [window.at(self.rank) for window in windows], None
        first, now = _numbers(model)
        whole = first + sum(window.whole for window in windows)
        room = int(self.ratio * whole) - now
        if sum(window.whole for window in windows) <= room:
            return [window.kept for window in windows], None
        ways = [window.ways(costs) for window in windows]
        found = knapsack([[way.size for way in each] for each in ways], [[way.loss for way in each] for each in ways])
        if room < found.least:
            raise OptionError(
                f"{self.name}: a ratio of {self.ratio:g} cannot be kept: bases of rank {self.multiple} leave "
                f"{(now + found.least) / whole:.3f} of the numbers. Let fewer be a multiple, or a larger ratio stay"
            )
        taken = [each[at] for each, at in zip(ways, found.within(room), strict=True)]
        drawn = found.columns[:: max(1, len(found.columns) // _DRAWN)]
        points = tuple(
            (float((now + found.least + int(at) * found.unit) / whole), float(found.best[at])) for at in drawn
        )
        spent = (now + sum(way.size for way in taken)) / whole, sum(way.loss for way in taken)
        return taken, Curve("share of the numbers", "what is lost", points, spent)

    def _store(
        self,
        piece: Sequence[Sequence[Site]],
        vectors: Floats,
        parts: Sequence[Floats],
        seen: Mapping[ir.Value, Seen],
    ) -> None:
        """Let the sites compute through the basis, each layer's through features of its own activation."""
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


def _fit(model: ir.Model, original: ir.Model, calibration: Calibration, whole: Collection[ir.Node]) -> None:
    """Fit what each weight makes of its basis, and those that stayed whole, to the original's stream, front to back."""
    every, trail = sites(model), Trail()
    behind = {right.node for pair in pairs(every) for right in pair.rights}
    for site in every:
        if site.node in behind or site.node in whole:
            refit(model, original, calibration, site, trail=trail)


def _numbers(model: ir.Model) -> tuple[int, int]:
    """Of weights that are factors already: how many numbers they had as one, and how many they have."""
    known = pairs(sites(model))
    now = {site.weight: site.in_features * site.out_features for pair in known for site in pair.sites}
    return sum(pair.whole for pair in known), sum(now.values())


def _told(rank: int, layers: int, members: int) -> str:
    beside = f", {members} that read one activation" if members > 1 else ""
    return f"rank {rank}, a basis of {layers} layers{beside}" if layers > 1 else f"rank {rank}{beside}"
