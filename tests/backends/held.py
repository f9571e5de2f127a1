"""What every pass that compresses is held to, on every kind of model and on every runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import TOLERANCE, compare
from tersor.ir.level import Level, Signature, violations
from tersor.ir.runner import runner
from tersor.ir.text import format_model
from tersor.passes.base import Context, Outcome
from tersor.passes.pipeline import Pipeline
from tersor.passes.report import Size
from tersor.passes.run import run_pipeline
from tersor.tests.passes.models import FAST, MODELS, example
from tersor.tests.support import REORDERED, installed

BACKENDS = ("onnxruntime", "openvino", "torch")
#: Of a model, that answers are compared on.
_FEEDS = 2


class Row(NamedTuple):
    """How a pass is called, and what it then does.

    options: under which it compresses; nothing: under which it leaves all as it is, where there are some. fires: on
    each of the models, in their order: it fires (+), says why it does not (-), or finds nothing of its kind (.).
    reasons: what it may say of places that it leaves alone. whole: options under which it rewrites as with the first
    ones, and loses nothing, where there are some. less: what of the model's size is less where it fires.
    """

    options: str
    nothing: str | None
    fires: str
    reasons: str = "never"
    whole: str | None = None
    models: tuple[str, ...] = MODELS
    less: Literal["bytes", "nodes"] = "bytes"

    def on(self, name: str) -> str:
        """What it does on a model."""
        return dict(zip(self.models, self.fires.replace(" ", ""), strict=True))[name]


def marked(name: str, *others: object) -> object:
    """Parameters of a test: all but the small graphs are slow."""
    return pytest.param(*others, name, marks=() if name in FAST else pytest.mark.slow)


def everywhere(rows: Mapping[str, Row]) -> list[object]:
    """Each of the passes, on each model."""
    return [marked(name, each) for each, row in rows.items() for name in row.models]


def firing(rows: Mapping[str, Row]) -> list[object]:
    """Each of the passes, on each model on which it fires."""
    return [marked(name, each) for each, row in rows.items() for name in row.models if row.on(name) == "+"]


@cache
def rewritten(passes: str, name: str, folder: Path) -> tuple[ir.Model, Outcome]:
    """What passes make of a model."""
    source = example(name, folder)
    model = source.model.clone()
    return model, Pipeline.of(passes).apply(model, source.context)


def fires_or_says_why_not(row: Row, passes: str, name: str, folder: Path) -> None:
    """Whether it does as the row says, and leaves a model that is smaller where it does."""
    source, (model, outcome) = example(name, folder).model, rewritten(passes, name, folder)
    said = "+" if outcome.matches else "-" if outcome.misses else "."
    assert said == row.on(name), [str(finding.miss) for finding in outcome.misses]
    for finding in outcome.misses:
        assert re.match(row.reasons, str(finding.miss)), finding
    assert violations(model, Level.SEMANTIC, signature=Signature.of(source)) == []
    assert (getattr(Size.of(model), row.less) < getattr(Size.of(source), row.less)) == (said == "+")


def leaves_as_it_is(passes: str, name: str, folder: Path, context: Context | None = None) -> None:
    """Whether passes neither fire nor change a number."""
    source = example(name, folder)
    model = source.model.clone()
    assert Pipeline.of(passes).apply(model, context or source.context).matches == 0
    assert format_model(model) == format_model(source.model)
    assert _weights(model) == _weights(source.model)


def loses_nothing(row: Row, passes: str, name: str, folder: Path) -> None:
    """Whether passes rewrite a model where the row says that they fire, and the answers stay what they are."""
    source = example(name, folder)
    model = source.model.clone()
    assert bool(Pipeline.of(passes).apply(model, source.context).matches) == (row.on(name) == "+")
    assert compare(source.model, model, source.feeds[:_FEEDS]).within(TOLERANCE)


def agrees(passes: str, name: str, backend: str, folder: Path) -> None:
    """Whether a backend gives what the graph that passes make does; the test skips where it is not installed."""
    source, model, made = example(name, folder), rewritten(passes, name, folder)[0], installed(backend)
    lowered = model.clone()
    run_pipeline(made.pipeline(), lowered)
    assert violations(lowered, Level.LOWERED, signature=Signature.of(model)) == []
    feeds = source.feeds[:_FEEDS]
    answers = {id(each): found for each, found in zip(feeds, _answers(passes, name, folder), strict=True)}
    assert compare(lambda each: answers[id(each)], made.compile(lowered), feeds).within(REORDERED)


@cache
def _answers(passes: str, name: str, folder: Path) -> list[Mapping[str, np.ndarray]]:
    """Of the graph that passes make, to the first feeds; run once for all backends."""
    run = runner(rewritten(passes, name, folder)[0])
    return [run(feeds) for feeds in example(name, folder).feeds[:_FEEDS]]


def _weights(model: ir.Model) -> dict[str, bytes]:
    stored = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {name: tensor.tobytes() for name, tensor in stored.items() if tensor is not None}
