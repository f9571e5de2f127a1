"""Take branches of the residual stream out: an attention or a feed-forward layer, and the stream goes on alone.

    before   s1 = s0 + Attention(s0),  s2 = s1 + FeedForward(s1)
    after    s2 = s0 + c + FeedForward(s0 + c)                           without the attention

Lossy. A branch is what ends in a projection that is added to the stream (`prune.stream`), whatever lies in it. With
data a constant stands for it, the mean of what the original's stream has there over the stream as it is now; without,
nothing does. What something else reads of a branch, such as the cache of an attention, stays computed. Branches that
are gone count where the patterns fit them; names are those of the model as it is when the pass runs.

Sources: Lin et al., Pruning Redundant Mappings in Transformer Models via Spectral-Normalized Identity Prior, 2020
(`spectral`: the branch that could add least goes); Men et al., ShortGPT, 2024, of branches (`influence`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.provenance import scope, sources
from ...ir.text import place
from ..answers import Answers
from ..base import Context, Contract, Finding, Lossy, Miss, Outcome, Pass
from ..choosing import left_out, names, sparing_nothing
from ..drop import Form
from ..moments import key_of, moments
from ..statistics import Calibration
from .stream import Branch, branches, leave_out, turning

#: In the metadata of a model: what patterns knew each branch by that is gone.
_GONE = "tersor.branches.gone"
#: Batches that greedy choices are tried on.
_TRIED = 16


@dataclass(frozen=True, kw_only=True)
class DropSublayers(Pass):
    """branches of the residual stream out, a constant in the place of each

    count: how many go of those that the patterns fit, those that went before counted in.
    score: which go. `output`: one after the other those whose loss changes the answers least, tried on calibration
        data; `influence`: those that turn the stream least; `spectral`: those whose last projection has the least
        largest singular value. `auto` is output with data and spectral without.
    drop: what answers lose: 1 - `cosine` of the rows of outputs, or the `kl` divergence of their softmax.
    repair: a constant in the place of a branch, where there are data.
    only, ignore: glob patterns over the names of the projections that end branches.
    """

    name: ClassVar[str] = "drop-sublayers"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    count: int = 1
    score: Literal["auto", "output", "influence", "spectral"] = "auto"
    drop: Form = "cosine"
    repair: bool = True
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.count < 0:
            raise OptionError(f"{self.name}: expected a count of at least 0, found {self.count}")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        if not self.count:
            return Outcome()
        gone = [list(known) for known in json.loads(model.metadata_props.get(_GONE, "[]"))]
        before = sum(left_out(known, self.only, self.ignore) is None for known in gone)
        count = self.count - before
        verdicts = self._verdicts(model)
        findings = [_finding(branch, miss) for branch, miss in verdicts if miss is not None]
        known = [names(branch.site) for branch, _ in verdicts]
        findings += sparing_nothing(self.ignore, [*known, *gone], "a branch")
        able = [branch for branch, miss in verdicts if miss is None]
        if count <= 0:
            none = Miss("count", f"{before} gone", "more branches to go than have gone")
            return Outcome((*findings, Finding("the graph", miss=none)))
        if not able:
            none = Miss("branches", "none", "a projection that is added to a stream", near=True)
            return Outcome((*findings, *([] if findings else [Finding("the graph", miss=none)])))
        if count > len(able):
            raise OptionError(
                f"{self.name}: expected a count of at most {len(able) + before} branches, found {self.count}"
            )
        original = model.clone()
        told = "not repaired" if not self.repair else "no data to repair on" if not self._repairs(context) else ""
        for name in self._order(original, [_name(branch) for branch in able], count, context):
            branch = _named(model, name)
            findings.append(_finding(branch, None, f"dropped, {told or 'its mean stays'}"))
            gone.append(names(branch.site))
            _drop(model, branch, original if self.repair else None, context.calibration)
        model.metadata_props[_GONE] = json.dumps(gone)
        return Outcome(tuple(findings))

    def _repairs(self, context: Context) -> bool:
        return self.repair and context.calibration is not None

    def _verdicts(self, model: ir.Model) -> list[tuple[Branch, Miss | None]]:
        return [(branch, left_out(names(branch.site), self.only, self.ignore)) for branch in branches(model)]

    def _order(self, original: ir.Model, able: list[str], count: int, context: Context) -> list[str]:
        """The nodes, by name, of the projections whose branches go, in the order in which they do."""
        score = self.score if self.score != "auto" else "spectral" if context.calibration is None else "output"
        known = {_name(branch): branch for branch in branches(original) if _name(branch) in able}
        if score == "spectral":
            norms = {name: float(np.linalg.norm(_dense(branch), 2)) for name, branch in known.items()}
            return sorted(known, key=lambda name: norms[name])[:count]
        context.statistics(original, ())  # says so where there are no data
        assert context.calibration is not None
        if score == "influence":
            turned = _influence(original, known, context.calibration)
            return sorted(known, key=lambda name: turned[name])[:count]
        return self._greedy(original, able, count, context.calibration)

    def _greedy(self, original: ir.Model, able: list[str], count: int, calibration: Calibration) -> list[str]:
        """One after the other the branch without which the answers change least."""
        answers = Answers.of(original, calibration, batches=_TRIED, form=self.drop)
        model, order = original.clone(), list[str]()
        for _ in range(count):
            tried: dict[str, tuple[float, ir.Model]] = {}
            for name in (name for name in able if name not in order):
                copied = model.clone()
                _drop(copied, _named(copied, name), original if self.repair else None, answers.rest)
                tried[name] = answers.loss(copied), copied
            best = min(tried, key=lambda name: tried[name][0])
            model = tried[best][1]
            order.append(best)
        return order


def _name(branch: Branch) -> str:
    """What a branch is known by in copies, and after others have gone: sites are counted anew then."""
    return branch.site.node.name or ""


def _named(model: ir.Model, name: str) -> Branch:
    return next(branch for branch in branches(model) if _name(branch) == name)


def _drop(model: ir.Model, branch: Branch, original: ir.Model | None, calibration: Calibration | None) -> None:
    if original is None or calibration is None:
        leave_out(branch, None)
        return
    seen = moments(original, model, calibration, [branch.site])[key_of(branch.site)]
    leave_out(branch, seen.outputs)


def _dense(branch: Branch) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(branch.site.dense(), np.float64)


def _influence(original: ir.Model, known: Mapping[str, Branch], calibration: Calibration) -> dict[str, float]:
    """How far each branch turns the stream."""
    found = {}
    for name, branch in known.items():
        site, target = branch.site, branch.target
        ends = target.residual or "", target.stream
        found[name] = turning(original, calibration, *ends, site.output, site.output_axis)
    return found


def _finding(branch: Branch, miss: Miss | None, chosen: str = "") -> Finding:
    node = branch.site.node
    return Finding(f"{branch.site.name} ({place(node)})", sources(node), miss, scope(node), chosen)
