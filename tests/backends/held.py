"""What every pass that compresses is held to, on every kind of model and on every runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.level import Level, Signature, violations
from tersor.ir.runner import runner
from tersor.passes.base import Outcome
from tersor.passes.pipeline import Pipeline
from tersor.passes.report import Size
from tersor.passes.run import run_pipeline
from tersor.tests.passes.models import MODELS, SMALL, example
from tersor.tests.support import REORDERED, installed

BACKENDS = ("onnxruntime", "openvino", "torch")


class Row(NamedTuple):
    """How a pass is called, and what it then does.

    options: under which it prunes; nothing: under which it is the identity. fires: on each of MODELS, in their order,
    the small graphs, the trained models, the shapes of the raising table: it fires (+), says why it does not (-), or
    finds nothing of its kind (.). reasons: what it may say of places that it leaves alone.
    """

    options: str
    nothing: str
    fires: str
    reasons: str = "never"

    def on(self, name: str) -> str:
        """What it does on a model."""
        return dict(zip(MODELS, self.fires.replace(" ", ""), strict=True))[name]


def marked(name: str, *others: object) -> object:
    """Parameters of a test: all but the small graphs are slow."""
    return pytest.param(*others, name, marks=() if name in SMALL else pytest.mark.slow)


def everywhere(rows: Mapping[str, Row]) -> list[object]:
    """Each of the passes, on each model."""
    return [marked(name, each) for each in rows for name in MODELS]


def firing(rows: Mapping[str, Row]) -> list[object]:
    """Each of the passes, on each model on which it fires."""
    return [marked(name, each) for each, row in rows.items() for name in MODELS if row.on(name) == "+"]


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
    assert (Size.of(model).bytes < Size.of(source).bytes) == (said == "+")


def agrees(model: ir.Model, name: str, backend: str, folder: Path) -> None:
    """Whether a backend gives what the graph does; the test skips where it is not installed."""
    made, lowered = installed(backend), model.clone()
    run_pipeline(made.pipeline(), lowered)
    assert violations(lowered, Level.LOWERED, signature=Signature.of(model)) == []
    assert compare(runner(model), made.compile(lowered), example(name, folder).feeds[:2]).within(REORDERED)
