"""Where a pass fires in a model, and where and why it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir

from ..backends.base import Interface
from ..ir.errors import OptionError, TersorError
from ..ir.load import load
from ..ir.text import excerpt, place
from ..passes.base import Context, Curve, Finding, Pass
from ..passes.failure import failure
from ..passes.pipeline import Pipeline, text_of
from ..passes.presets import RAISING
from ..passes.report import count
from ..passes.run import Observer, Verify, run_pipeline
from ..passes.statistics import Calibration
from ..passes.syntax import build, parse
from .data import batches
from .stages import standing


@dataclass(frozen=True)
class Explanation:
    """What a pass finds in a model.

    after: what was run before it, in words.
    whole: how many of what it looks for the graph holds already.
    excerpts: the graph around each place where the pass does not fire.
    curve: between what the pass would choose, where it has a choice and data were given.
    """

    text: str
    contract: str
    after: str
    whole: int
    fired: tuple[Finding, ...]
    missed: tuple[Finding, ...]
    excerpts: Mapping[str, str]
    curve: Curve | None = None


def explain(
    source: str, passes: str, *, data: str | None = None, imported: bool = False, observe: Observer | None = None
) -> Explanation:
    """Explain the last pass of `passes` on the graph that it meets in a compile.

    A pass that raising or a lowering runs is explained where it stands there, any other after raising and the passes
    named before it. imported: explain on the graph as it was loaded. Raises OptionError where there is no such pass.
    """
    after, before, made = _prepared(passes)
    if observe is not None:
        observe(f"load {source}")
    model = load(source)
    context = Context()
    if data is not None:
        feeds = batches(data, Interface.of(model))[0]
        context = Context(feeds=feeds, calibration=Calibration(feeds))
    if not imported:
        run_pipeline(Pipeline(steps=before), model, context, verify=Verify.OFF, observe=observe)
    try:
        outcome = made.explain(model, context)
    except TersorError:
        raise
    except Exception as error:
        raise failure(text_of(made), type(made), error) from error
    return Explanation(
        text=text_of(made),
        contract=str(made.contract),
        after="nothing, as loaded" if imported else after,
        whole=count(model, made.whole) if made.whole else 0,
        fired=tuple(finding for finding in outcome.findings if finding.miss is None),
        missed=outcome.misses,
        excerpts=_excerpts(model, {finding.place for finding in outcome.misses}),
        curve=outcome.curve,
    )


def _prepared(passes: str) -> tuple[str, tuple[Pass, ...], Pass]:
    """What the pass to explain comes after, in words and as passes, and the pass."""
    parsed = parse(passes)
    place = standing(parsed[0].name) if len(parsed) == 1 and parsed[0].steps is None else None
    if place is not None:
        options = parsed[0].options
        made = build(type(place.made), place.made.name, options) if options else place.made
        return f"what stands before it in {place.stage}", place.before, made
    steps = tuple(Pipeline.of(passes).flat())
    if not steps:
        raise OptionError("there is no pass to explain; `tersor passes` lists them")
    words = ", ".join(["raising", *map(text_of, steps[:-1])])
    return words, (*RAISING.flat(), *steps[:-1]), steps[-1]


def _excerpts(model: onnx_ir.Model, places: set[str]) -> dict[str, str]:
    nodes = ((place(node), node) for node in model.graph.all_nodes())
    return {where: excerpt(node) for where, node in nodes if where in places}
