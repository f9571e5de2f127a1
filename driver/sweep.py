"""How much error each rewritten site adds, from runs of the original and the rewritten graph side by side.

One sweep over a batch costs four runs of the model and, for each site, two runs of what comes behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..ir.compare import Tally
from ..ir.feeds import Feeds
from .lockstep import Both, Lockstep, slot_of, tally
from .rewritten import Part, Rewritten

#: What a model answers to a batch.
Answer = Callable[[Feeds], Mapping[str, object]]


@dataclass(frozen=True)
class Loss:
    """An error of outputs, the worst of them: relative L2, and 1 - cosine."""

    relative_l2: float
    cosine: float


@dataclass
class Sums:
    """Errors of outputs, summed over batches."""

    tallies: dict[str, Tally] = field(default_factory=dict)

    def add(self, reference: Mapping[str, object], found: Mapping[str, object]) -> None:
        """Take in what two models answered to a batch; only tensors and arrays count."""
        for name, value in reference.items():
            if isinstance(value, torch.Tensor | np.ndarray):
                self.add_one(name, _tensor(value), _tensor(found[name]))

    def add_one(self, name: str, reference: torch.Tensor, found: torch.Tensor) -> None:
        """Take in one value."""
        self.tallies[name] = self.tallies.get(name, Tally()).plus(tally(reference, found))

    @property
    def loss(self) -> Loss:
        """Of the worst output."""
        each = self.tallies.values()
        return Loss(max((t.relative_l2 for t in each), default=0.0), max((1.0 - t.cosine for t in each), default=0.0))


@dataclass
class Errors:
    """Of one site: its own output's on the original's activations and in the rewritten model, the model's with only
    this site rewritten, and with all up to it."""

    local: Sums = field(default_factory=Sums)
    in_place: Sums = field(default_factory=Sums)
    alone: Sums = field(default_factory=Sums)
    prefix: Sums = field(default_factory=Sums)


@dataclass
class Swept:
    """The errors of every site, and of the whole rewritten model."""

    errors: dict[Part, Errors]
    whole: Sums = field(default_factory=Sums)


def sweep(
    steps: Lockstep,
    batches: Sequence[Feeds],
    outputs: Collection[str],
    *,
    each: bool = True,
    observe: Callable[[str], None] = lambda _: None,
) -> Swept:
    """Measure on these batches the errors of `outputs`; without `each`, no site's alone and prefix."""
    found = Swept({part: Errors() for part in steps.found.parts})
    for number, feeds in enumerate(batches, 1):
        reference = kept(steps.before.tensors(feeds), outputs)
        base, full = steps.start(feeds), steps.start(feeds, steps.slots[:-1] or (None,))
        for stop in steps.found.stops:
            observe(f"batch {number} of {len(batches)}, {stop.parts[0].name}")
            original, local = base.next()
            _, placed = full.next()
            for index, part in enumerate(stop.parts):
                errors = found.errors[part]
                value, upto = local[slot_of(stop, (part,))], placed[slot_of(stop, stop.parts[: index + 1])]
                errors.local.add_one(stop.value, original, value)
                errors.in_place.add_one(stop.value, original, placed[None])
                if each:
                    errors.alone.add(reference, _rest(base, value))
                    errors.prefix.add(reference, _rest(full, upto))
            base.put(original)
            full.put(placed[None])
        found.whole.add(reference, full.after[None].finish())
    return found


def local_errors(found: Rewritten, batches: Iterable[Feeds]) -> dict[Part, Sums]:
    """Of each site its own output's error on the original's activations: one run of each graph for a batch."""
    steps = Lockstep(found)
    errors = {part: Sums() for part in found.parts}
    for feeds in batches:
        both = steps.start(feeds)
        for stop in found.stops:
            original, values = both.next()
            for part in stop.parts:
                errors[part].add_one(stop.value, original, values[slot_of(stop, (part,))])
            both.put(original)
    return errors


def measured(answer: Answer, batches: Sequence[Feeds], references: Sequence[Mapping[str, object]]) -> Sums:
    """The error of what a model answers, against what the original answered."""
    sums = Sums()
    for feeds, reference in zip(batches, references, strict=True):
        sums.add(reference, answer(feeds))
    return sums


def kept(found: Mapping[str, torch.Tensor], outputs: Collection[str]) -> dict[str, torch.Tensor]:
    """Of a model's answers those that count."""
    return {name: value for name, value in found.items() if name in outputs}


def _rest(both: Both, value: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """What the original makes of a value at the stop where the runs are."""
    run = both.before.fork()
    run.put(value)
    return run.finish()


def _tensor(value: object) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    return torch.from_numpy(np.ascontiguousarray(value))
