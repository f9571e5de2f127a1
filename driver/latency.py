"""How long a small model takes on the target: what passes weigh that keep to a latency."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..backends.base import Backend
from ..ir.errors import OptionError, TersorError
from ..ir.feeds import Feeds
from .pays import opened

#: Seconds of untimed and of timed calls, and how many of the latter at least.
WARM_UP, TIMED = 0.02, 0.1
LEAST = 5


@dataclass(frozen=True)
class Latency:
    """The median of the seconds of a call, on the fastest of the backends that compile at once and run the model."""

    backends: Sequence[Backend]

    def __call__(self, model: ir.Model, feeds: Feeds) -> float:
        """Raises OptionError where no backend can be asked, with what one said."""
        found: list[float] = []
        refused = "targets that take long to compile are not timed"
        for backend in self.backends:
            if not backend.quick:
                continue
            try:
                session = opened(backend, model.clone())
                session.run(feeds)
            except TersorError as error:
                refused = str(error)
                continue
            found.append(_median(session.run_unchecked, feeds))
        if not found:
            raise OptionError(f"no target could be timed: {refused}")
        return min(found)


def _median(run: object, feeds: Feeds) -> float:
    assert callable(run)
    until = time.perf_counter() + WARM_UP
    while time.perf_counter() < until:
        run(feeds)
    seconds: list[float] = []
    until = time.perf_counter() + TIMED
    while len(seconds) < LEAST or time.perf_counter() < until:
        start = time.perf_counter()
        run(feeds)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
