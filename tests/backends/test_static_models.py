"""Trained models with weights and activations on calibrated grids: every backend computes what the graph says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tersor
from tersor.backends.onnxruntime.lowering import LOWERING
from tersor.examples import babyllama, g2p, minilm, silero
from tersor.ir.compare import compare
from tersor.ir.runner import runner
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.presets import RAISING
from tersor.passes.run import run_pipeline
from tersor.passes.statistics import Calibration
from tersor.tests.support import distance, installed

Feeds = Mapping[str, np.ndarray]

PASS = "quantize-static{embeddings=true, convolutions=true}"
TEXTS = ["A man is playing a large flute.", "Three women sit at a table.", "It rained all night.", "Prices fell."]


def _minilm() -> tuple[ir.Model, list[Feeds]]:
    source = minilm.source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    return model, [*minilm.batches(TEXTS, 2)]


def _babyllama() -> tuple[ir.Model, list[Feeds]]:
    source = babyllama.source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    tokens = np.array(babyllama.Characters().encode(babyllama.stories()[0])[:192], np.int64)
    return model, [{"tokens": part[None]} for part in tokens.reshape(4, 48)]


def _encoder() -> tuple[ir.Model, list[Feeds]]:
    source = g2p.encoder_source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    return model, [{"graphemes": g2p.graphemes(words)} for words in (["weights", "octopus"], ["quality", "example"])]


def _silero() -> tuple[ir.Model, list[Feeds]]:
    model = tersor.load(silero.model_path(silero.OPENVINO))
    heard = silero.chunks(silero.sample_audio()[: 43 * silero.CHUNK])[-4:]
    state = np.random.default_rng(0).standard_normal(silero.STATE_SHAPE).astype(np.float32) / 2
    return model, [{"input": np.ascontiguousarray(chunk[None]), "state": state} for chunk in heard]


#: Each model, and the relative L2 error that int8 may cost it on what it was calibrated on.
MODELS: Mapping[str, tuple[Callable[[], tuple[ir.Model, list[Feeds]]], float]] = {
    "minilm": (_minilm, 0.3),
    "babyllama": (_babyllama, 0.3),
    "g2p": (_encoder, 0.1),
    "silero": (_silero, 0.2),
}


@cache
def original(name: str) -> tuple[ir.Model, list[Feeds]]:
    """The model as passes see it."""
    model, feeds = MODELS[name][0]()
    run_pipeline(RAISING, model)
    return model, feeds


@cache
def quantized(name: str) -> ir.Model:
    source, feeds = original(name)
    model = source.clone()
    Pipeline.of(PASS).apply(model, Context(calibration=Calibration(feeds)))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_little_is_lost(data_dir: Path, name: str) -> None:
    (source, feeds), model = original(name), quantized(name)
    assert "QuantizeLinear" in {node.op_type for node in model.graph}
    for batch in feeds:
        wanted, found = (list(runner(each)(batch).values()) for each in (source, model))
        assert 0 < distance(found, wanted) < MODELS[name][1]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("name", MODELS)
def test_backends_agree_with_the_graph(data_dir: Path, name: str, backend: str) -> None:
    """A number that falls on the other side of a half moves others: what differs stays below what int8 costs."""
    (source, feeds), model = original(name), quantized(name).clone()
    made = installed(backend)
    run_pipeline(made.pipeline(), model)
    session = made.compile(model)
    cost = compare(runner(source), runner(quantized(name)), feeds[:1]).relative_l2
    assert compare(runner(quantized(name)), session, feeds[:1]).relative_l2 < cost


def test_attention_is_fused_with_its_rounded_projections(data_dir: Path) -> None:
    model = quantized("minilm").clone()
    run_pipeline(LOWERING, model)
    found = Counter(node.op_type for node in model.graph)
    assert (found["QAttention"], found["MatMulIntegerToFloat"], found["QuantizeLinear"]) == (6, 18, 24)
    assert not found.keys() & {"MatMul", "DequantizeLinear", "MultiHeadAttention", "Attention"}
