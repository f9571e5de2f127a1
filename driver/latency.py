"""How long a small model takes on the target: what passes weigh that keep to a latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..backends.base import Backend
from ..ir.errors import OptionError, TersorError
from ..ir.feeds import Feeds
from .pays import opened

#: Seconds of untimed and of timed calls, and how many of the latter at least.
WARM_UP, TIMED = 0.02, 0.1
LEAST = 5


@dataclass(eq=False)
class Latency:
    """The median of the seconds of a call, on one of the backends that compile at once: the one that is fastest on the
    first model asked about, so that the times of all can be added up.
    """

    backends: Sequence[Backend]
    _chosen: Backend | None = field(default=None, repr=False)

    def __call__(self, model: ir.Model, feeds: Feeds) -> float:
        """Raises OptionError where no backend can be asked, with what one said."""
        found: list[tuple[float, Backend]] = []
        refused = "targets that take long to compile are not timed"
        for backend in self.backends if self._chosen is None else [self._chosen]:
            if not backend.quick:
                continue
            try:
                session = opened(backend, model.clone())
                session.run(feeds)
            except TersorError as error:
                refused = f"{backend.name}: {error}"
                continue
            found.append((_median(session.run_unchecked, feeds), backend))
        if not found:
            raise OptionError(f"no target could be timed: {refused}")
        seconds, self._chosen = min(found, key=lambda pair: pair[0])
        return seconds


def _median(run: Callable[[Feeds], object], feeds: Feeds) -> float:
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
