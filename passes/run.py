"""Run a pipeline: apply, verify, blame, roll back, report.

A stretch of exact passes is verified once at its end, a lossy pass on its own. What fails is replayed pass by pass from
the last good graph, so that the error names the pass and the first value that diverged; the model is left as it came.
"""

from __future__ import annotations

import enum
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import onnx_ir as ir

from ..ir.compare import TOLERANCE
from ..ir.errors import ContractError, ModelError, TersorError
from ..ir.feeds import Feeds
from ..ir.level import SEMANTIC_OPSET, Level, Signature
from ..ir.runner import trial_feeds
from .base import Context, Lossy, Pass, Rewrite
from .failure import failure
from .pipeline import Pipeline, title
from .report import PassReport, Report, Size, count
from .verify import allowed, judge, located

Observer = Callable[[str], None]


class Verify(enum.Enum):
    """off: nothing is measured. fast: at the end of each exact stretch and after each lossy pass. each: every pass."""

    OFF = "off"
    FAST = "fast"
    EACH = "each"


def run_pipeline(
    pipeline: Pipeline,
    model: ir.Model,
    context: Context | None = None,
    *,
    verify: Verify = Verify.FAST,
    undo: bool = True,
    force: bool = False,
    observe: Observer | None = None,
) -> Report:
    """Apply `pipeline` to `model` in place and report.

    `observe` is told each pass's text before it starts. Without calibration feeds, verification uses seeded random
    ones. Raises ContractError when a pass changes answers by more than its contract, PassError when one breaks the
    graph; both name the pass, and `model` is rolled back. For that a copy of the graph is kept, weights shared; without
    `undo` there is none, and the model of a pipeline that failed is good for nothing. With `force` a pass over its
    contract is let through and its record says so (`PassReport.over`); one that breaks the graph is still stopped.
    """
    context = context or Context()
    feeds = context.feeds if context.feeds or verify is Verify.OFF else [trial_feeds(model, seed=context.seed)]
    steps = tuple(_with_upgrade(pipeline, model))
    with _uncollected():
        original = model.clone() if undo else None
    records: list[PassReport] = []
    size = Size.of(model)
    try:
        for stretch in _stretches(steps, verify):
            signature = Signature.of(model)
            before = None if verify is Verify.OFF else model.clone() if records or original is None else original
            made: list[PassReport] = []
            with _uncollected():
                for step in stretch:
                    made.append(_record(step, model, context, observe, size))
                    size = made[-1].after
            # a pass that changes what ids mean is a stretch of its own
            for each in made[-1].renumbered:
                context, feeds = context.after([each]), [each.feeds(batch) for batch in feeds]
                before = None if before is None else each.reference(before)
            if before is not None:
                judged = judge(before, model, stretch, feeds, signature)
                if isinstance(judged, TersorError):
                    alone = bool(made[-1].renumbered) or (force and len(stretch) == 1)
                    fault = judged if alone else _blame(before, stretch, context, feeds, signature, judged)
                    if not force or not isinstance(fault, ContractError):
                        raise fault
                    made[-1] = replace(made[-1], loss=fault.loss, over=str(fault))
                else:
                    made[-1] = replace(made[-1], loss=judged)
            records += made
    except BaseException:
        if original is not None:
            _restore(model, original)
        raise
    return Report(tuple(records))


def _with_upgrade(pipeline: Pipeline, model: ir.Model) -> Iterator[Pass]:
    """The pipeline's passes, an opset upgrade put before the first that needs the semantic level."""
    from .raising.upgrade_opset import UpgradeOpset

    behind = model.opset_imports.get("", SEMANTIC_OPSET) != SEMANTIC_OPSET
    for step in pipeline.flat():
        if behind and step.level is Level.SEMANTIC:
            yield UpgradeOpset()
            behind = False
        if isinstance(step, UpgradeOpset):
            behind = False
        yield step


def _stretches(steps: Sequence[Pass], verify: Verify) -> Iterator[list[Pass]]:
    stretch: list[Pass] = []
    for step in steps:
        alone = verify is Verify.EACH or isinstance(step.contract, Lossy) or step.changes_signature
        if alone and stretch:
            yield stretch
            stretch = []
        stretch.append(step)
        if alone:
            yield stretch
            stretch = []
    if stretch:
        yield stretch


def _record(step: Pass, model: ir.Model, context: Context, observe: Observer | None, before: Size) -> PassReport:
    """Apply a pass to a model of size `before`."""
    text, opset = title(step), model.opset_imports.get("", SEMANTIC_OPSET)
    if step.level is Level.SEMANTIC and opset != SEMANTIC_OPSET:
        raise ModelError(
            f"the pass {text} reads opset {SEMANTIC_OPSET}; no converter brings this model from {opset} there"
        )
    if observe is not None:
        observe(text)
    whole = count(model, step.whole) if step.whole else 0
    start = time.perf_counter()
    try:
        outcome = step.apply(model, context)
    except TersorError as error:
        error.add_note(f"in the pass {text}")
        raise
    except Exception as error:
        raise failure(text, type(step), error) from error
    seconds = time.perf_counter() - start
    # a rewrite that fires nowhere leaves everything as it is; to count a large graph takes a while
    after = before if isinstance(step, Rewrite) and not outcome.matches else Size.of(model)
    return PassReport(
        text,
        step.contract,
        outcome.findings,
        before,
        after,
        seconds,
        subject=step.subject,
        whole=whole,
        curve=outcome.curve,
        files=outcome.files,
        renumbered=outcome.renumbered,
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cyclic collector, which would walk the whole graph again and again while nodes are made."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _blame(
    good: ir.Model,
    stretch: Sequence[Pass],
    context: Context,
    feeds: Sequence[Feeds],
    signature: Signature,
    found: TersorError,
) -> TersorError:
    """Replay the stretch pass by pass and say which one is at fault and where it first shows."""
    for step in stretch:
        after = good.clone()
        _record(step, after, context, None, Size.of(after))
        judged = judge(good, after, [step], feeds, signature)
        if isinstance(judged, TersorError):
            return located(judged, good, after, feeds, min(allowed(step.contract), TOLERANCE))
        good = after
    return found


def _restore(model: ir.Model, original: ir.Model) -> None:
    model.graph = original.graph
    model.functions.clear()
    model.functions.update(original.functions)
    model.metadata_props.clear()
    model.metadata_props.update(original.metadata_props)
