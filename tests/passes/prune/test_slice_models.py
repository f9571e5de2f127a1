"""Hidden features out of trained models: a decoder with norms before its layers, an encoder with norms behind sums."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
import tersor
from tersor.backends.catalogue import BACKENDS
from tersor.benchmarks._calibration import sentences
from tersor.examples import babyllama, minilm
from tersor.ir.compare import compare
from tersor.ir.cost import cost
from tersor.ir.feeds import Feeds
from tersor.ir.runner import runner
from tersor.passes.base import Context
from tersor.passes.drop import Drop
from tersor.passes.presets import RAISING
from tersor.passes.prune.slice_hidden import SliceHidden
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration
from tersor.passes.verify import allowed
from tersor.tests.support import REORDERED, installed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("data_dir")]


@cache
def decoder() -> tuple[ir.Model, list[Feeds]]:
    """BabyLlama, and pieces of both stories."""
    source = babyllama.source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    run_pipeline(RAISING, model, verify=Verify.OFF)
    tokens = [babyllama.Characters().encode(story) for story in babyllama.stories()]
    pieces = np.array([each[at : at + 96] for each in tokens for at in range(0, len(each) - 96, 96)], np.int64)
    return model, [{"tokens": piece[None]} for piece in pieces]


@cache
def encoder() -> tuple[ir.Model, list[Feeds]]:
    """MiniLM, and sentences."""
    source = minilm.source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    run_pipeline(RAISING, model, verify=Verify.OFF)
    return model, list(minilm.batches(sentences(128), 16))


MODELS = {"babyllama": decoder, "minilm": encoder}


def loss(original: ir.Model, model: ir.Model, batches: list[Feeds]) -> float:
    """The mean drop of the contract's metric."""
    drop = Drop.of(original)
    runs = runner(original), runner(model)
    found = [drop.measure(*({k: v.copy() for k, v in run(feeds).items()} for run in runs), feeds) for feeds in batches]
    return sum(total for total, _ in found) / sum(count for _, count in found)


@pytest.mark.parametrize("name", MODELS)
def test_a_quarter_less_is_within_the_contract(name: str) -> None:
    plain, feeds = MODELS[name]()
    model = plain.clone()
    outcome = SliceHidden(repair=False).apply(model, Context(calibration=Calibration(feeds[::2])))
    assert outcome.matches == 1
    assert cost(model).parameters < 0.85 * cost(plain).parameters
    before = [(value.name, value.shape, value.dtype) for value in plain.graph.outputs]
    assert [(value.name, value.shape, value.dtype) for value in model.graph.outputs] == before
    assert loss(plain, model, feeds[1::2]) < allowed(SliceHidden.contract)


def test_a_tenth_of_an_encoder_would_be_no_faster() -> None:
    plain, _ = encoder()
    (finding,) = SliceHidden(ratio=0.1).explain(plain, Context()).findings
    assert finding.miss is not None
    assert finding.miss.rule == "size"


def test_repair_on_text_of_its_kind_helps_a_decoder() -> None:
    plain, feeds = decoder()
    context, losses = Context(calibration=Calibration(feeds[::2])), []
    for repair in (False, True):
        model = plain.clone()
        SliceHidden(repair=repair).apply(model, context)
        losses.append(loss(plain, model, feeds[1::2]))
    assert losses[1] < losses[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MODELS)
def test_backends_agree_with_the_graph(name: str, backend: str) -> None:
    plain, feeds = MODELS[name]()
    model = plain.clone()
    SliceHidden(repair=False).apply(model, Context(calibration=Calibration(feeds[::2])))
    sliced = model.clone()
    target = installed(backend)
    run_pipeline(target.pipeline(), model, verify=Verify.OFF)
    assert compare(sliced, target.compile(model), feeds[0]).within(REORDERED)
