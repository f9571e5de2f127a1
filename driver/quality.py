"""How good the compiled model is beside the original: a metric or fidelity, on feeds held out, and what may be lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..backends.base import Session
from ..ir.errors import ContractError
from . import metric as metrics
from .manifest import FeedsData, QualityData
from .metric import FIDELITY, MaxDrop, Metric, drop
from .original import Recorded
from .select import Candidate, failure


@dataclass(frozen=True)
class Quality:
    """The standard that quality is read against. original: the metric of the original model, 1 for fidelity.

    recorded: held-out feeds with the original's answers; empty where fidelity is not measured.
    """

    recorded: Recorded = Recorded()
    metric: tuple[str, Metric] | None = None
    original: float | None = None
    max_drop: MaxDrop | None = None

    @classmethod
    def of(
        cls, session: Session, recorded: Recorded, metric: tuple[str, Metric] | None, max_drop: MaxDrop | None
    ) -> Quality:
        """Evaluate the original. Raises ModelError where the metric fails."""
        original = 1.0 if metric is None else metrics.evaluate(*metric, session, "the original model")
        return cls(recorded, metric, original, max_drop)

    def fidelity(self, session: Session) -> float | None:
        """The mean cosine between the outputs of the original and of `session`; None without feeds."""
        if not self.recorded.feeds:
            return None
        return float(np.mean([output.cosine for output in self.recorded.against(session).outputs]))

    def choose(self, ranked: Sequence[Candidate], everyone: Sequence[Candidate], *, force: bool = False) -> Candidate:
        """The first of `ranked` that loses no more than is allowed; every candidate gets its status.

        Where none does, `force` keeps the first of those that are over. Else raises ContractError with each one's drop;
        ModelError where the metric fails.
        """
        order = sorted(ranked, key=lambda candidate: bool(candidate.over))
        over: list[Candidate] = []
        for position, candidate in enumerate(order):
            self._measure(candidate)
            excess = self._excess(candidate)
            if excess is None and not candidate.over:
                return _kept(candidate, order[position + 1 :])
            if force:
                candidate.over += [] if excess is None else [str(excess)]
                candidate.status = "over-contract" if excess is None else "over-max-drop"
                over.append(candidate)
            elif excess is not None:
                candidate.fail(excess)
                candidate.status = "over-max-drop"
        if over:
            return _kept(over[0], ())
        raise failure(everyone)

    def lost(self, candidate: Candidate) -> float | None:
        """The quality that a measured candidate lost, in max_drop's unit; None where it was not measured."""
        if self.original is None or candidate.quality is None:
            return None
        absolute = self.max_drop is not None and self.max_drop.absolute
        return drop(self.original, candidate.quality, absolute=absolute)

    def to_dict(self, kept: Candidate, feeds: FeedsData) -> QualityData:
        """As written to `manifest.json`."""
        lost = self.lost(kept)
        return {
            "metric": self._name,
            "original": self.original,
            "compiled": kept.quality,
            "drop": lost if lost is not None and math.isfinite(lost) else None,
            "max_drop": None if self.max_drop is None else str(self.max_drop),
            "fidelity": kept.fidelity,
            "feeds": feeds,
        }

    @property
    def _name(self) -> str:
        return FIDELITY if self.metric is None else self.metric[0]

    def _measure(self, candidate: Candidate) -> None:
        if self.metric is None:
            candidate.quality = candidate.fidelity
        elif candidate.session is not None:
            candidate.quality = metrics.evaluate(*self.metric, candidate.session, f"the model on {candidate.text}")

    def _excess(self, candidate: Candidate) -> ContractError | None:
        """What is to be said of a candidate that lost more than is allowed."""
        lost = self.lost(candidate)
        if self.max_drop is None or lost is None or lost <= self.max_drop.limit:
            return None
        shown = f"{lost:g}" if self.max_drop.absolute else f"{lost:.2%}"
        return ContractError(
            f"{candidate.text}: {self._name} fell from {self.original:g} to {candidate.quality:g}, a drop of "
            f"{shown}; max_drop allows {self.max_drop}. Leave out or soften a lossy pass, or allow more",
            loss=lost,
        )


def _kept(candidate: Candidate, slower: Sequence[Candidate]) -> Candidate:
    """The candidate that is kept, before others in their order."""
    candidate.status = "kept"
    for other in slower:
        other.status = "over-contract" if other.over else "slower"
    return candidate
