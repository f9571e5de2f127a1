"""`tersor bench MODEL --layers`: make the model and what passes make of it, from an artifact's recipe or a source."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import onnx_ir

from ..backends.base import Interface
from ..backends.catalogue import create
from ..ir.errors import OptionError
from ..ir.feeds import Feeds
from ..ir.load import load
from ..ir.provenance import settle
from ..ir.runner import trial_feeds
from ..ir.text import place
from ..passes.base import Candidate, Context, Miss, Pass
from ..passes.pipeline import Pipeline, title
from ..passes.presets import RAISING
from ..passes.run import Observer, Verify, run_pipeline
from ..passes.statistics import Calibration
from . import data as inputs
from . import manifest as manifests
from . import metric as metrics
from . import recipe as recipes
from .feeding import RANDOM_BATCHES, feeds_for
from .layers import By, Layers, Sort, Subject, rank, spread
from .original import BATCHES as CALIBRATED
from .recipe import Recipe, pipeline_of
from .stages import halves
from .variants import OnTarget, rewrite


def diagnose(
    model: str | Path,
    *,
    passes: str | Pass | Sequence[object] | None = None,
    data: str | None = None,
    dimensions: Mapping[str, int] | None = None,
    metric: str | None = None,
    target: str | None = None,
    outputs: Collection[str] = (),
    by: By = "site",
    sort: Sort = "alone",
    seed: int = 0,
    observe: Observer | None = None,
) -> Layers:
    """Rank the sites of a model that passes rewrite by the error that each adds.

    model: an artifact, whose recipe names source, passes, data and metric, or a source. What is given here wins. On a
    target each choice of sites is compiled; without one all is measured in the reference interpreter.
    Raises OptionError where nothing says which passes, or none of them is lossy, and what `compile` and `rank` do.
    """
    say = observe or (lambda _: None)
    recipe, misses = _recipe(Path(model))
    pipeline = pipeline_of(passes) if passes is not None else recipe.passes or Pipeline()
    exact, rest = halves(pipeline.exact() if recipe.exact and passes is None else pipeline)
    if not rest:
        raise OptionError(
            f"{model}: no lossy pass to rank sites for; give --passes, as in 'quantize-weights{{bits=4}}'"
        )
    backend = None if target is None else create(target)
    measure = metric or recipe.metric
    found = None if measure is None else metrics.find(measure)
    source = recipe.source or str(model)
    say(f"load {source}")
    before = load(source)
    spec = data if data is not None else recipe.data if not dimensions else None
    calibration, batches, note = _batches(before, spec, dimensions or {}, seed)
    context = Context(
        feeds=calibration[:CALIBRATED],
        seed=seed,
        calibration=Calibration(calibration) if calibration else None,
        pays=_as_compiled(misses),
    )
    for stage in (RAISING, Pipeline(steps=exact)):
        run_pipeline(stage, before, context, verify=Verify.OFF, undo=False, observe=observe)
    settle(before)
    after = before.clone()
    steps = rewrite(after, rest, context, observe)
    subject = Subject(before, after, rest, context, batches, note)
    variants = None if backend is None else (target or "", OnTarget(before, steps, context, backend))
    return rank(subject, by=by, sort=sort, outputs=outputs, metric=found, variants=variants, observe=observe)


def _recipe(model: Path) -> tuple[Recipe, dict[str, set[str]]]:
    """An artifact's recipe, and the places that each pass left because their kernels are slower; else nothing."""
    if not (model / manifests.NAME).is_file():
        return Recipe(), {}
    recipe = Recipe.read(model / recipes.NAME)
    if recipe.source is None:
        raise OptionError(
            f"{model} was compiled from an object in memory, which its recipe cannot name: give the source and --passes"
        )
    misses: dict[str, set[str]] = {}
    for stage in manifests.read_manifest(model)["stages"]:
        for record in stage["passes"]:
            listed = record["misses"] if isinstance(record["misses"], list) else []
            slower = {str(miss["place"]) for miss in listed if miss["rule"] == "speed"}
            misses.setdefault(str(record["pass"]), set()).update(slower)
    return recipe, misses


def _as_compiled(
    misses: Mapping[str, Collection[str]],
) -> Callable[[Pass, onnx_ir.Model, Candidate], Miss | None] | None:
    """Leave alone what the compile left alone because its kernels were slower."""
    if not any(misses.values()):
        return None

    def pays(made: Pass, _: onnx_ir.Model, found: Candidate) -> Miss | None:
        at = place(found.node)
        left = any(told in misses.get(title(made), ()) for told in (at, f"{found.name} ({at})"))
        return Miss("speed", "slower when the artifact was compiled", "a kernel at least as fast") if left else None

    return pays


def _batches(
    model: onnx_ir.Model, data: str | None, dimensions: Mapping[str, int], seed: int
) -> tuple[list[Feeds], list[Feeds], str]:
    """Batches to calibrate on, to measure on, and where they come from."""
    if data is None:
        note = "seeded random feeds: no data was given"
        if dimensions:
            return [], list(feeds_for(model, None, dimensions, seed)), note
        return [], [trial_feeds(model, seed=seed + index) for index in range(RANDOM_BATCHES)], note
    if dimensions:
        raise OptionError("dimensions are for random feeds; data brings its own sizes: leave one of them out")
    batches, more = inputs.batches(data, Interface.of(model))
    split = inputs.split(batches, more=more)
    measured = spread(split.quality)
    held = "held out from calibration" if split.held_out else "which calibrated too: there is one only"
    return list(split.calibration), measured, f"{data}, {held}"
