"""Where a pass fires in a model, and where and why it does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir

from ..backends.base import Interface
from ..ir.errors import OptionError
from ..ir.level import Level
from ..ir.load import load
from ..ir.text import excerpt, place
from ..passes.base import Context, Finding
from ..passes.pipeline import Pipeline, text_of
from ..passes.presets import RAISING
from ..passes.run import Observer, Verify, run_pipeline
from .data import batches


@dataclass(frozen=True)
class Explanation:
    """raised: whether the model was brought to the semantic level first, as `compile` does.

    excerpts: the graph around each place where the pass does not fire.
    """

    text: str
    contract: str
    raised: bool
    fired: tuple[Finding, ...]
    missed: tuple[Finding, ...]
    excerpts: Mapping[str, str]


def explain(
    source: str, passes: str, *, data: str | None = None, imported: bool = False, observe: Observer | None = None
) -> Explanation:
    """Explain the last pass of `passes`, those before it applied first.

    imported: explain on the graph as it was loaded; otherwise it is raised first where the pass works at the semantic
    level or below. Raises OptionError for an empty pipeline.
    """
    steps = tuple(Pipeline.of(passes).flat())
    if not steps:
        raise OptionError("there is no pass to explain; `tersor passes` lists them")
    if observe is not None:
        observe(f"load {source}")
    model = load(source)
    context = Context(feeds=() if data is None else batches(data, Interface.of(model))[0])
    raised = not imported and steps[-1].level is not Level.IMPORTED
    if raised:
        run_pipeline(RAISING, model, context, verify=Verify.OFF, observe=observe)
    if steps[1:]:
        run_pipeline(Pipeline(steps=steps[:-1]), model, context, verify=Verify.OFF, observe=observe)
    outcome = steps[-1].explain(model, context)
    return Explanation(
        text=text_of(steps[-1]),
        contract=str(steps[-1].contract),
        raised=raised,
        fired=tuple(finding for finding in outcome.findings if finding.miss is None),
        missed=outcome.misses,
        excerpts=_excerpts(model, {finding.place for finding in outcome.misses}),
    )


def _excerpts(model: onnx_ir.Model, places: set[str]) -> dict[str, str]:
    nodes = ((place(node), node) for node in model.graph.all_nodes())
    return {where: excerpt(node) for where, node in nodes if where in places}
