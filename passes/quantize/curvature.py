"""What it costs to quantize each weight site: the drop of the answers that its change alone is predicted to cause.

From gradients of the outputs (`passes.gradients`) follows the second derivative of the drop, in parts, for all sites at
once; a change of a weight is then weighed without a run of the model. `alone` runs the model instead, with one site
quantized at a time. So is measured what gradients do not reach: weights of subgraphs, those whose effect is rounded on
the way, and models with an op that has no executable form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.feeds import Feeds
from ...ir.runner import runner
from ...ir.site import Site, sites
from ..base import Context
from ..drop import Drop
from ..edit import Array, declare_functions
from ..gradients import probes, reached, spaced
from ..placing import Structured, matrix, put
from ..seen import Seen
from .methods import sensitivity as cost

Sensitivity = Literal["output", "alone", "hessian", "fisher"]

#: Batches of which `alone` runs each candidate on.
_RUNS = 4


@dataclass
class Curvature:
    """The second derivatives of the mean drop by a site's weights: traces for each output, [out], and the diagonal,
    [in, out], where it is asked for.
    """

    traces: NDArray[np.float64]
    diagonal: NDArray[np.float32] | None

    def cost(self, error: Array, how: Sensitivity, seen: Seen | None) -> float:
        """Of a change of the weights, [in, out]."""
        if how == "fisher":
            assert self.diagonal is not None
            return cost.fisher(error, self.diagonal)
        if how == "hessian":
            return cost.hessian(error, self.traces.sum())
        grams = [None] if seen is None else [part.matrix for part in seen.parts]
        runs = (np.split(each, len(grams), axis=-1) for each in (error, self.traces))
        return sum(cost.output(*each) for each in zip(*runs, grams, strict=True))


@dataclass(frozen=True)
class Sensitivities:
    """Costs of sites: `curvatures` by weight, of those that gradients reach; the others are run alone.

    places: of those among all sites of the model. answers: feeds and what the model answers, for those to be run on.
    """

    model: ir.Model
    how: Sensitivity
    drop: Drop
    curvatures: Mapping[ir.Value, Curvature]
    places: Mapping[ir.Value, int]
    answers: Sequence[tuple[Feeds, Mapping[str, Array]]]

    @classmethod
    def of(
        cls, model: ir.Model, chosen: Sequence[Site], how: Sensitivity, drop: Drop, context: Context, count: int
    ) -> Sensitivities:
        """count: how many probes of the outputs to draw."""
        assert context.calibration is not None
        batches = context.calibration.batches
        near = set() if how == "alone" else reached(model, (site.weight for site in chosen))
        found = _curvatures(model, [site for site in chosen if site.weight in near], how, drop, context, count)
        places = {site.weight: place for place, site in enumerate(sites(model)) if site.weight not in found}
        left = any(site.weight in places for site in chosen)
        run = runner(model) if left else None
        answers = [] if run is None else [(feeds, run(feeds)) for feeds in spaced(batches, _RUNS)]
        return cls(model, how, drop, found, places, answers)

    def costs(self, site: Site, ways: Sequence[Structured], seen: Seen | None) -> list[float]:
        """The drop that each way to store the site's weight is predicted to cause."""
        known = self.curvatures.get(site.weight)
        if known is None:
            return [self._alone(site, way) for way in ways]
        weight = matrix(site)
        return [known.cost(np.subtract(way.dense(), weight, dtype=np.float32), self.how, seen) for way in ways]

    def _alone(self, site: Site, way: Structured) -> float:
        """The drop with nothing else quantized."""
        changed = self.model.clone()
        put(sites(changed)[self.places[site.weight]], way)
        declare_functions(changed)
        run = runner(changed)
        measured = [self.drop.measure(before, run(feeds), feeds) for feeds, before in self.answers]
        return sum(total for total, _ in measured) / max(sum(count for _, count in measured), 1)


def _curvatures(
    model: ir.Model, chosen: Sequence[Site], how: Sensitivity, drop: Drop, context: Context, count: int
) -> dict[ir.Value, Curvature]:
    if not chosen:
        return {}
    assert context.calibration is not None
    batches = spaced(context.calibration.batches, count)
    weights, draws = [site.weight for site in chosen], -(-count // len(batches))
    total, progress = draws * len(batches), context.calibration.progress
    if progress is not None:
        progress(0, total)
    found: dict[ir.Value, Curvature] = {}
    rows = 0
    for done, probe in enumerate(probes(model, weights, batches, drop, count=draws, seed=context.seed), 1):
        rows += probe.rows
        for site in chosen:
            _add(found, site, probe.gradients[site.weight], how)
        if progress is not None:
            progress(done, total)
    for each in found.values():
        each.traces /= rows
        if each.diagonal is not None:
            each.diagonal /= rows
    # behind a rounding every gradient is zero
    return {weight: each for weight, each in found.items() if each.traces.any()}


def _add(found: dict[ir.Value, Curvature], site: Site, gradient: NDArray[np.float32], how: Sensitivity) -> None:
    seen = matrix(site, gradient)
    squares: NDArray[np.float32] = np.square(seen, dtype=np.float32)
    if site.weight not in found:
        diagonal = np.zeros_like(squares) if how == "fisher" else None
        found[site.weight] = Curvature(np.zeros(squares.shape[1]), diagonal)
    known = found[site.weight]
    known.traces += squares.sum(0, dtype=np.float64)
    if known.diagonal is not None:
        known.diagonal += squares
