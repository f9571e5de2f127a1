"""Every pruning pass on every kind of model: it fires or says why not, leaves nothing over, and all runtimes agree."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.catalogue import create, find
from tersor.ir.compare import compare
from tersor.ir.level import Level, Signature, violations
from tersor.ir.runner import runner
from tersor.ir.text import format_model
from tersor.passes.base import Context, Outcome
from tersor.passes.catalogue import PASSES as CATALOGUE
from tersor.passes.pipeline import Pipeline
from tersor.passes.prune.tables import tables
from tersor.passes.report import Size
from tersor.passes.run import run_pipeline
from tersor.passes.statistics import Calibration
from tersor.tests.passes.prune.models import MODELS, SMALL, Example, example, write_ticket
from tersor.tests.support import REORDERED


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


KINDS = "convolutions=true, recurrent=true"
HELD = "held: (normalized over|an input of the model|queries that share a head of keys)"
WEIGHTS = "size: |tied: |kind: embedding"
PASSES: Mapping[str, Row] = {
    "prune-neurons": Row("{ratio=0.5}", "{ratio=0}", "+++ ++++ +++++", HELD),
    "prune-heads": Row("{ratio=0.5}", "{ratio=0}", "+.. ++.. ++++-", HELD),
    "drop-layers": Row("", "{count=0}", "+-- ++-- +++++", "blocks: none"),
    "drop-sublayers": Row("", "{count=0}", "+-- ++-- +++++", "branches: none"),
    "slice-hidden": Row("{ratio=0.25}", "{ratio=0}", "--- ++-- ++++-", "norm: none|tied: "),
    "prune-budget": Row('{budget="0.9 flops", levels=3}', '{budget="1 flops"}', "+++ ++++ +++++", HELD),
    "merge-neurons": Row("{threshold=1.5}", "{ratio=0}", "+++ ++++ +++++", f"{HELD}|kind: recurrent units"),
    "trim-vocabulary": Row("{unknown=0}", "{unknown=0}", ".+. +++. +++.+"),
    "prune-magnitude": Row(f"{{embeddings=true, {KINDS}}}", "{sparsity=0}", "+++ ++++ +++++", WEIGHTS),
    "prune-wanda": Row(f"{{{KINDS}}}", "{sparsity=0}", "+++ ++++ +++++", WEIGHTS),
    "prune-obs": Row(f"{{{KINDS}}}", "{sparsity=0}", "+++ ++++ +++++", WEIGHTS),
    "prune-ticket": Row("{masks=MASKS}", "", "+++ ++++ +++++"),
}

BACKENDS = ("onnxruntime", "openvino", "torch")


def test_every_pruning_pass_is_held_to_every_model() -> None:
    assert sorted(PASSES) == [name for name, path in CATALOGUE.items() if path.startswith(".prune.")]


def marked(name: str, *others: object) -> object:
    """Parameters of a test: all but the small graphs are slow."""
    return pytest.param(*others, name, marks=() if name in SMALL else pytest.mark.slow)


EVERYWHERE = [marked(name, each) for each in PASSES for name in MODELS]
FIRING = [marked(name, each) for each, row in PASSES.items() for name in MODELS if row.on(name) == "+"]


@cache
def pruned(which: str, name: str, folder: Path) -> tuple[ir.Model, Outcome]:
    """What a pass makes of a model."""
    source = example(name, folder)
    model = source.model.clone()
    masks = folder / f"{name}-{os.getpid()}.npz"
    options = PASSES[which].options
    if "MASKS" in options and not masks.exists():
        write_ticket(masks, model)
    made = Pipeline.of(which + options.replace("MASKS", f'"{masks}"'))
    return model, made.apply(model, source.context)


@pytest.mark.parametrize(("which", "name"), EVERYWHERE)
def test_it_fires_or_says_why_not(which: str, name: str, shared_tmp: Path) -> None:
    source, (model, outcome) = example(name, shared_tmp).model, pruned(which, name, shared_tmp)
    said = "+" if outcome.matches else "-" if outcome.misses else "."
    assert said == PASSES[which].on(name)
    for finding in outcome.misses:
        assert re.match(PASSES[which].reasons, str(finding.miss)), finding
    assert violations(model, Level.SEMANTIC, signature=Signature.of(source)) == []
    assert (Size.of(model).bytes < Size.of(source).bytes) == (said == "+")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("which", "name"), FIRING)
def test_backends_agree_with_the_graph(which: str, name: str, backend: str, shared_tmp: Path) -> None:
    if find(backend).version() is None:
        pytest.skip(f"{backend} is not installed")
    model, feeds = pruned(which, name, shared_tmp)[0], example(name, shared_tmp).feeds[:2]
    made, lowered = create(f"{backend}{{threads=1}}"), model.clone()
    run_pipeline(made.pipeline(), lowered)
    assert violations(lowered, Level.LOWERED, signature=Signature.of(model)) == []
    assert compare(runner(model), made.compile(lowered), feeds).within(REORDERED)


def all_tokens(source: Example) -> Context:
    """Calibration in which every token of every table is read."""
    rows = {name: each.rows for each in tables(source.model, outputs=False) for name in each.inputs}
    batch = {name: np.arange(count)[None] for name, count in rows.items()}
    return Context(calibration=Calibration([*source.feeds, {**source.feeds[0], **batch}]))


def weights(model: ir.Model) -> dict[str, bytes]:
    stored = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {name: tensor.tobytes() for name, tensor in stored.items() if tensor is not None}


@pytest.mark.parametrize(("which", "name"), EVERYWHERE)
def test_nothing_is_the_identity(which: str, name: str, shared_tmp: Path) -> None:
    source = example(name, shared_tmp)
    model = source.model.clone()
    context = all_tokens(source) if which == "trim-vocabulary" else source.context
    assert Pipeline.of(which + PASSES[which].nothing).apply(model, context).matches == 0
    assert format_model(model) == format_model(source.model)
    assert weights(model) == weights(source.model)
