"""What a change of a model does to its answers on calibration data, without labels (`passes.drop`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ...ir.feeds import Array, Feeds
from ...ir.runner import runner
from ..drop import Drop, Form
from ..statistics import Calibration


@dataclass(frozen=True, eq=False)
class Answers:
    """The original's outputs on some batches, to hold others against.

    rest: the other batches. What is fitted to those is judged here on data that it has not seen.
    """

    drop: Drop
    batches: Sequence[Feeds]
    given: Sequence[Mapping[str, Array]]
    rest: Calibration

    @classmethod
    def of(cls, original: ir.Model, calibration: Calibration, *, batches: int, form: Form = "cosine") -> Answers:
        """On at most so many batches, taken evenly from all of them, and no more than half.

        Of a single batch there is no rest, and that batch is both.
        """
        every = calibration.batches
        count = max(1, min(batches, len(every) // 2))
        held = {(2 * at + 1) * len(every) // (2 * count) for at in range(count)}
        taken = [every[at] for at in sorted(held)]
        rest = [feeds for at, feeds in enumerate(every) if at not in held] or taken
        run = runner(original)
        drop = Drop.of(original, form)
        # the run may hand out what it uses again
        given = [{name: found[name].copy() for name in drop.outputs} for found in map(run, taken)]
        return cls(drop, taken, given, calibration.over(rest))

    def loss(self, model: ir.Model) -> float:
        """The mean drop over the rows of the outputs."""
        run = runner(model)
        measured = [
            self.drop.measure(before, run(feeds), feeds) for feeds, before in zip(self.batches, self.given, strict=True)
        ]
        return sum(total for total, _ in measured) / max(sum(rows for _, rows in measured), 1)
