"""Every pruning pass on every kind of model: it fires or says why not, leaves nothing over, and all runtimes agree."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from tersor.passes.base import Context
from tersor.passes.catalogue import PASSES as CATALOGUE
from tersor.passes.prune.tables import tables
from tersor.passes.statistics import Calibration
from tersor.tests.backends.held import (
    BACKENDS,
    Row,
    agrees,
    everywhere,
    fires_or_says_why_not,
    firing,
    leaves_as_it_is,
)
from tersor.tests.passes.models import Example, example, write_ticket

KINDS = "convolutions=true, recurrent=true"
HELD = "held: (normalized over|an input of the model|queries that share a head of keys)"
WEIGHTS = "size: |tied: |kind: embedding"
PASSES: Mapping[str, Row] = {
    "prune-neurons": Row("{ratio=0.5}", "{ratio=0}", "+++ ++++ + +++++", f"{HELD}|tied: "),
    "prune-heads": Row("{ratio=0.5}", "{ratio=0}", "+.. ++.. . ++++-", HELD),
    "drop-layers": Row("", "{count=0}", "+-- ++-- - +++++", "blocks: none"),
    "drop-sublayers": Row("", "{count=0}", "+-- ++-- - +++++", "branches: none"),
    "slice-hidden": Row("{ratio=0.25}", "{ratio=0}", "--- ++-- - ++++-", "norm: none|tied: "),
    "prune-budget": Row('{budget="0.9 flops", levels=3}', '{budget="1 flops"}', "+++ ++++ + +++++", f"{HELD}|tied: "),
    "merge-neurons": Row("{threshold=1.5}", "{ratio=0}", "+++ ++++ + +++++", f"{HELD}|kind: recurrent units"),
    "trim-vocabulary": Row("{unknown=0}", "{unknown=0}", ".+. +++. + +++.+"),
    "prune-magnitude": Row(f"{{embeddings=true, {KINDS}}}", "{sparsity=0}", "+++ ++++ + +++++", WEIGHTS),
    "prune-wanda": Row(f"{{{KINDS}}}", "{sparsity=0}", "+++ ++++ + +++++", WEIGHTS),
    "prune-obs": Row(f"{{{KINDS}}}", "{sparsity=0}", "+++ ++++ + +++++", WEIGHTS),
    "prune-ticket": Row("{masks=MASKS}", "", "+++ ++++ + +++++"),
}


def test_every_pruning_pass_is_held_to_every_model() -> None:
    assert sorted(PASSES) == [name for name, path in CATALOGUE.items() if path.startswith(".prune.")]


def call(which: str, name: str, folder: Path) -> str:
    """A pass with its options; masks are written where they are asked for."""
    options = PASSES[which].options
    masks = folder / f"{name}-{os.getpid()}.npz"
    if "MASKS" in options and not masks.exists():
        write_ticket(masks, example(name, folder).model)
    return which + options.replace("MASKS", f'"{masks}"')


@pytest.mark.parametrize(("which", "name"), everywhere(PASSES))
def test_it_fires_or_says_why_not(which: str, name: str, shared_tmp: Path) -> None:
    fires_or_says_why_not(PASSES[which], call(which, name, shared_tmp), name, shared_tmp)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("which", "name"), firing(PASSES))
def test_backends_agree_with_the_graph(which: str, name: str, backend: str, shared_tmp: Path) -> None:
    agrees(call(which, name, shared_tmp), name, backend, shared_tmp)


def all_tokens(source: Example) -> Context:
    """Calibration in which every token of every table is read."""
    rows = {name: each.rows for each in tables(source.model, outputs=False) for name in each.inputs}
    batch = {name: np.arange(count)[None] for name, count in rows.items()}
    return Context(calibration=Calibration([*source.feeds, {**source.feeds[0], **batch}]))


@pytest.mark.parametrize(("which", "name"), everywhere(PASSES))
def test_nothing_is_the_identity(which: str, name: str, shared_tmp: Path) -> None:
    context = all_tokens(example(name, shared_tmp)) if which == "trim-vocabulary" else None
    leaves_as_it_is(f"{which}{PASSES[which].nothing}", name, shared_tmp, context)
