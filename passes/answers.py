"""What a change of a model does to its answers on calibration data, without labels (`passes.drop`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import onnx_ir as ir

from ..ir.feeds import Array, Feeds
from ..ir.runner import runner
from .drop import Drop, Form
from .statistics import Calibration
from .trail import Tail, tail_of, unchanged


@dataclass(frozen=True, eq=False)
class Answers:
    """The original's outputs on some batches, to hold others against.

    original: not to be changed as long as it is asked. rest: the other batches. What is fitted to those is judged here
    on data that it has not seen.
    """

    original: ir.Model
    drop: Drop
    batches: Sequence[Feeds]
    given: Sequence[Mapping[str, Array]]
    rest: Calibration
    _known: dict[str, list[Array]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, original: ir.Model, calibration: Calibration, *, batches: int, form: Form = "cosine") -> Answers:
        """On at most so many batches, taken evenly from all of them, and no more than half.

        Of a single batch there is no rest, and that batch is both.
        """
        every = calibration.batches
        count = max(1, min(batches, len(every) // 2))
        held = {(2 * at + 1) * len(every) // (2 * count) for at in range(count)}
        taken = [every[at] for at in sorted(held)]
        others = [feeds for at, feeds in enumerate(every) if at not in held] or taken
        run = runner(original)
        drop = Drop.of(original, form)
        # the run may hand out what it uses again
        given = [{name: found[name].copy() for name in drop.outputs} for found in map(run, taken)]
        return cls(original, drop, taken, given, calibration.over(others))

    def loss(self, model: ir.Model, changed: Set[ir.Node] = frozenset()) -> float:
        """The mean drop over the rows of the outputs.

        changed: nodes of the original, where these and what follows from them are all that the model has otherwise: it
        runs from there on.
        """
        outputs = [value for value in model.graph.outputs if value.name in self.drop.outputs]
        known = self._values(unchanged(self.original, changed)) if changed else {}
        tail = tail_of(model, outputs, known) if known else Tail(model, {})
        run = runner(tail.model)
        total, rows = 0.0, 0
        for number, (feeds, before) in enumerate(zip(self.batches, self.given, strict=True)):
            lost, count = self.drop.measure(before, run(tail.feeds(feeds, number)), feeds)
            total, rows = total + lost, rows + count
        return total / max(rows, 1)

    def _values(self, wanted: Sequence[ir.Value]) -> Mapping[str, Sequence[Array]]:
        """Values of the original on the batches, by name, computed from those of the last time; none where graphs that
        nodes hold lie between.
        """
        left = [value for value in wanted if value.name not in self._known]
        found = {name: self._known[name] for value in wanted if (name := value.name or "") in self._known}
        if left:
            tail = tail_of(self.original, left, self._known)
            if tail.model is self.original:
                return {}
            run = runner(tail.model)
            for number, feeds in enumerate(self.batches):
                for name, array in run(tail.feeds(feeds, number)).items():
                    # the run may hand out what it uses again
                    found.setdefault(name, []).append(array.copy())
        self._known.clear()
        self._known.update(found)
        return found
