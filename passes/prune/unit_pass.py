"""What `prune-neurons` and `prune-heads` share: how many units of each group go, which, and what then is fitted."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.axes import Why
from ...ir.provenance import scope, sources
from ...ir.text import place
from ..base import Context, Finding, Miss, Outcome, Pass
from ..choosing import left_out, sparing_nothing
from ..drop import Form
from ..moments import Fitted, Moments
from ..numerics.arrays import Floats
from .activity import confidence, firing
from .amount import check_amount, remaining
from .carving import Carver
from .methods import scores
from .ranking import BY_GRADIENT, Masks, Score, activities, chosen, elimination, magnitudes
from .units import Key, Units, units


class Ranked(NamedTuple):
    """order: units, the first to go first. costs: how much each of these matters. why: why others than asked decide."""

    order: NDArray[np.intp]
    costs: Floats
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class UnitPass(Pass):
    """ratio: the share of the units that a layer had at first that go, at least 0 and less than 1.

    scope: `layer` takes that share of each group; `global` takes it of all together, those that matter least.
    multiple: what stays of a group is a multiple of so many units, and at least that.
    drop: what `taylor` and `fisher` are derivatives of: 1 - `cosine` of the rows of outputs, or the `kl` divergence of
        their softmax.
    repair: fit the weights that read the rest to the original's stream, by least squares, where there are data.
    only, ignore: glob patterns over the names of the sites that read units.
    """

    ratio: float = 0.25
    scope: Literal["layer", "global"] = "layer"
    multiple: int = 1
    drop: Form = "cosine"
    repair: bool = True
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        why = "at 1 nothing would be left of a layer: drop-layers and drop-sublayers take whole ones"
        check_amount(self.name, self.ratio, self.multiple, why)

    @abstractmethod
    def _scored(self) -> Score:
        """The option `score`."""

    @abstractmethod
    def verdict(self, each: Units) -> Miss | None:
        """Why a group is none of this pass's, or stays as it is; `far` where it is of another kind."""

    def _others(self, model: ir.Model) -> list[Finding]:
        """Findings about what is no group at all."""
        return []

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self._verdicts(model)
        taken = [each for each, miss in verdicts if miss is None]
        told: dict[Key, str] = {}
        if self.ratio > 0 and taken:
            told = _Pruning(self, model, context, chosen(self._scored(), context)).run(taken)
        return self._outcome(model, verdicts, told)

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every group, leaving `model` as it is."""
        verdicts = self._verdicts(model)
        planned = {each.key: f"{each.size:,} -> {self.left(each.first):,}" for each, _ in verdicts}
        if self.scope == "global":
            planned = {each.key: f"{each.size:,}, of which data or weights tell how many go" for each, _ in verdicts}
        return self._outcome(model, verdicts, planned)

    def left(self, size: int) -> int:
        """How many of `size` units stay at this ratio."""
        return remaining(size, self.ratio, self.multiple)

    def _verdicts(self, model: ir.Model) -> list[tuple[Units, Miss | None]]:
        found = []
        for each in units(model):
            miss = self.verdict(each)
            if miss is not None and miss.far:
                continue
            found.append((each, miss or self._spared(each)))
        return found

    def _spared(self, each: Units) -> Miss | None:
        left = left_out(each.names, self.only, self.ignore)
        if left is not None:
            return left
        if each.first <= self.multiple:
            return Miss("size", f"{each.first} units", f"more than {self.multiple}, which stay at least")
        if self.ratio and each.size <= self.left(each.first) and self.scope == "layer":
            return Miss(
                "ratio", f"{each.size:,} of {each.first:,} units", f"more than the {self.left(each.first):,} that stay"
            )
        return None

    def _outcome(
        self, model: ir.Model, verdicts: Sequence[tuple[Units, Miss | None]], told: Mapping[Key, str]
    ) -> Outcome:
        findings = []
        for each, miss in verdicts:
            if miss is None and each.key not in told and self.ratio > 0:
                value = f"none of {each.size:,} units"
                miss = Miss("ratio", value, "units that matter less than those of other layers")
            if miss is not None or each.key in told:
                at, node = f"{each.name} ({place(each.node)})", each.node
                findings.append(Finding(at, sources(node), miss, scope(node), told.get(each.key, "")))
        lost = sparing_nothing(self.ignore, [each.names for each, _ in verdicts])
        return Outcome((*findings, *self._others(model), *lost))


def movable(each: Units, allowed: frozenset[Why] = frozenset()) -> Miss | None:
    """Why the units of a group may not be cut."""
    holds = [hold for hold in each.group.holds if hold.why not in allowed]
    if not holds and all(each.read_by(site) is None for site in each.readers):
        return Miss("joint", f"inputs of {each.name}", "inputs that are each of one unit", near=True)
    if not holds:
        return None
    more = f" and {len(holds) - 1} more" if len(holds) > 1 else ""
    return Miss("held", f"{holds[0]}{more}", "axes that nothing but weights depends on", near=True)


@dataclass(eq=False)
class _Pruning:
    """One run of a pass over the groups it has chosen."""

    made: UnitPass
    model: ir.Model
    context: Context
    score: Score
    _masks: Masks | None = field(default=None)

    def run(self, taken: Sequence[Units]) -> dict[Key, str]:
        """What was done to each group."""
        context, fits = self.context, self.made.repair and self.context.calibration is not None
        original = self.model.clone()
        carver = Carver(self.model, original, context.calibration)
        if self.score in BY_GRADIENT:
            self._masks = Masks.of(self.model, taken, context, self.made.drop)
        left = self._left(taken, carver)
        told = {}
        for key, size in left.items():
            each = next(other for other in units(self.model) if other.key == key)
            if size == each.size:
                continue
            notes = len(carver.notes)
            seen = carver.see(each) if fits or self.score in ("obs", "activation") else {}
            ranked = self._order(each, seen)
            keep = np.ones(each.size, np.bool_)
            keep[ranked.order[: each.size - size]] = False
            each.remember()
            fitted = carver.take(each, keep, seen if fits else {})
            said = [f"{each.size:,} -> {size:,}, {self._repaired(fitted, bool(seen))}", ranked.why]
            noted = dict.fromkeys(carver.notes[notes:]) if fits or ranked.why else ()
            told[key] = "; ".join(filter(None, [*said, *noted]))
        return told

    def _repaired(self, fitted: bool, seen: bool) -> str:
        """What became of the weights that read the rest."""
        if not self.made.repair:
            return "not repaired"
        if self.context.calibration is None:
            return "no data to repair on"
        if not seen:
            return "no reader that can be repaired"
        return "repaired" if fitted else "not repaired, what was there does best"

    def _left(self, taken: Sequence[Units], carver: Carver) -> dict[Key, int]:
        """How many units stay of each group."""
        if self.made.scope == "layer":
            return {each.key: self.made.left(each.first) for each in taken}
        # what takes each group down to the next multiple, at what a unit of that costs
        steps = []
        for at, each in enumerate(taken):
            seen = carver.see(each) if self.score in ("obs", "activation") else {}
            # a unit never goes before those that matter less
            rising = np.maximum.accumulate(self._order(each, seen).costs)
            for size, left in itertools.pairwise(_sizes(each.size, self.made.multiple)):
                part = rising[each.size - size : each.size - left]
                steps.append((float(part.mean()), at, size, left))
        found = {each.key: each.size for each in taken}
        gone = sum(each.first - each.size for each in taken)
        most = round(self.made.ratio * sum(each.first for each in taken)) - gone
        for _, at, size, left in sorted(steps, key=lambda step: step[:2]):
            # to the nearest: what is left over then is less than half of any step, so that another run takes none
            if size - left <= 2 * most and found[taken[at].key] == size:
                found[taken[at].key], most = left, most - (size - left)
        return found

    def _order(self, each: Units, seen: Mapping[Fitted, Moments]) -> Ranked:
        """Units, the first to go first, and how much each of these matters."""
        if self.score == "obs" and seen:
            found = elimination(each, seen)
            return Ranked(found.order, np.diff(found.errors))
        values = self._values(each, seen)
        why = values if isinstance(values, str) else ""
        measured = magnitudes(each, self.score) if isinstance(values, str) else values
        order = np.argsort(measured, kind="stable")
        return Ranked(order, measured[order], f"by magnitude: {why}" if why else "")

    def _values(self, each: Units, seen: Mapping[Fitted, Moments]) -> Floats | str:
        """How much each unit matters, or why the score cannot tell."""
        if self.score in ("obs", "activation"):
            return activities(each, seen) if seen else "no reader that can be fitted"
        if self.score == "entropy":
            often = firing(self.model, each, self.context)
            return "inputs that are of two units at once" if often is None else scores.entropy(often)
        if self.score == "confidence":
            return confidence(self.model, each, self.context)
        if self._masks is not None:
            found = self._masks.score(each, self.score)
            return "no gradient reaches what reads them" if found is None else found
        return magnitudes(each, self.score)


def _sizes(size: int, multiple: int) -> list[int]:
    """What may stay of so many units: all, and each multiple below that."""
    return [size, *range((size - 1) // multiple * multiple, 0, -multiple)]
