"""A model and its rewritten self run side by side, so that any choice of sites may be the rewritten ones.

At each value that both compute (`rewritten.Stop`) each has computed it from the same values before; the one that was
chosen is put into both. What is rewritten between two sites goes with the later one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir
import torch
from numpy.typing import NDArray

from ..ir.compare import Tally
from ..ir.errors import ModelError
from ..ir.feeds import Feeds
from ..ir.fx import Interpreter, to_fx
from ..ir.fx.dtypes import to_numpy
from ..ir.fx.kernels.constants import fold
from ..ir.fx.stepwise import Run, Stepwise
from .rewritten import Part, Rewritten, Stop

#: The rewritten graph with all that was rewritten; with of several weights of a node only the one at a slot.
Slot = int | None

Tensors = Mapping[str, torch.Tensor]


class Lockstep:
    """Two graphs, ready to run together. Raises UnsupportedError for ops that the interpreter does not know."""

    def __init__(self, found: Rewritten) -> None:
        self.found = found
        names = [stop.value for stop in found.stops]
        slots = max((len(stop.parts) for stop in found.stops), default=1)
        self.slots: tuple[Slot, ...] = (None, *range(slots)) if slots > 1 else (None,)
        self.before = Interpreter(to_fx(found.before))
        self._before = Stepwise(self.before, names)
        graphs = {slot: found.after if slot is None else found.with_only(slot) for slot in self.slots}
        self._after = {slot: Stepwise(_unpacked(graph), names) for slot, graph in graphs.items()}

    def start(self, feeds: Feeds, slots: Collection[Slot] | None = None) -> Both:
        """Runs of the original and of the rewritten graphs that are asked for, at their beginning."""
        wanted = self.slots if slots is None else slots
        return Both(
            self.found.stops, self._before.start(feeds), {slot: self._after[slot].start(feeds) for slot in wanted}
        )

    def outputs(self, feeds: Feeds, chosen: Collection[Part]) -> Tensors:
        """What the model answers with only the sites of `chosen` rewritten; with all of them, the rewritten model."""
        stops = self.found.stops
        picked = [tuple(part for part in stop.parts if part in chosen) for stop in stops]
        if all(parts == stop.parts for parts, stop in zip(picked, stops, strict=True)):
            return self._after[None].start(feeds).finish()
        taken = [slot_of(stop, parts) for stop, parts in zip(stops, picked, strict=True) if parts]
        last = max((index for index, parts in enumerate(picked) if parts), default=-1)
        both = self.start(feeds, set(taken))
        for stop, parts in zip(stops[: last + 1], picked, strict=False):
            original, values = both.next()
            both.put(values[slot_of(stop, parts)] if parts else original)
        return both.before.finish()


def _unpacked(model: onnx_ir.Model) -> Interpreter:
    """A rewritten graph whose weights are unpacked once, not at every run."""
    module = to_fx(model)
    fold(module)
    return Interpreter(module)


def slot_of(stop: Stop, parts: tuple[Part, ...]) -> Slot:
    """The rewritten graph in which, of a stop's weights, these are rewritten."""
    return None if parts == stop.parts else stop.parts.index(parts[0])


@dataclass
class Both:
    """Runs of the original and of rewritten graphs that have come to the same stop."""

    stops: tuple[Stop, ...]
    before: Run
    after: Mapping[Slot, Run]
    _behind: int = 0
    _dtypes: Mapping[Slot, torch.dtype] = field(default_factory=dict)

    def next(self) -> tuple[torch.Tensor, dict[Slot, torch.Tensor]]:
        """Run all to the next stop: the value as the original and as each rewritten graph computes it."""
        stop = self.stops[self._behind]
        self._behind += 1
        original = self.before.next()
        found = {slot: run.next() for slot, run in self.after.items()}
        self._dtypes = {slot: value.dtype for slot, value in found.items()}
        return original, {slot: _as_before(stop, value, original) for slot, value in found.items()}

    def put(self, value: torch.Tensor) -> None:
        """Let all go on from this value of the last stop's."""
        stop = self.stops[self._behind - 1]
        self.before.put(value)
        for slot, run in self.after.items():
            scaled = value if stop.scale is None else value / _like(stop.scale, value)
            run.put(scaled.to(self._dtypes[slot]))


def tally(a: torch.Tensor, b: torch.Tensor) -> Tally:
    """The sums behind the errors of `b` against `a`, in float64."""
    if a.shape == b.shape and a.is_floating_point() and b.is_floating_point():
        wide = torch.promote_types(a.dtype, torch.float32)
        left, right = a.to(wide), b.to(wide)
        difference, first, second = (_squares(value) for value in (right - left, left, right))
        if math.isfinite(difference + first + second):
            # |a - b|^2 = |a|^2 + |b|^2 - 2 <a, b>
            return Tally(difference, first, second, (first + second - difference) / 2, a.numel())
    return Tally.of(to_numpy(a), to_numpy(b))


def _squares(value: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(value, dtype=torch.float64)) ** 2


def _as_before(stop: Stop, value: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """A rewritten graph's value in the original's terms."""
    if value.shape != original.shape:
        shapes = f"{list(value.shape)} where it was {list(original.shape)}"
        raise ModelError(f"{stop.value} has become {shapes}: what its site adds to the error cannot be told apart")
    found = value.to(original.dtype)
    return found if stop.scale is None else found * _like(stop.scale, found)


def _like(scale: NDArray[np.float64], value: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(scale).to(value)
