"""A GRU and an LSTM that were trained, in fewer bits: every backend computes what the graph says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tersor
from tersor.examples import g2p, silero
from tersor.ir.compare import compare
from tersor.ir.errors import UnsupportedError
from tersor.ir.runner import runner
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.presets import RAISING
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration
from tersor.tests.support import distance, installed

Feeds = Mapping[str, np.ndarray]

#: Weights that are stored in fewer bits are read as the same floats: arithmetic is reordered, no more.
REORDERED = 1e-4
#: Quantized activations: what falls on the other side of a half is off by a step of 8 bits, 1/255 of a range.
ROUNDED = 2 / 255
_CONVOLUTIONS = 'convolutions=true, ignore=["*stft*"]'

#: By pass: what it may lose on one batch of real weights, relative L2, as a few bits lose what eight do not; and what
#: a backend may differ from the graph.
PASSES = {
    "quantize-dynamic{embeddings=true}": (0.05, ROUNDED),
    "quantize-dynamic{recurrent=computed, embeddings=true}": (0.05, ROUNDED),
    f"quantize-weights{{bits=8, group=0, embeddings=true, {_CONVOLUTIONS}}}": (0.2, REORDERED),
    f"quantize-weights{{embeddings=true, {_CONVOLUTIONS}}}": (0.6, REORDERED),
    f"quantize-weights{{algorithm=gptq, embeddings=true, {_CONVOLUTIONS}}}": (0.6, REORDERED),
    f"quantize-weights{{algorithm=awq, {_CONVOLUTIONS}}}": (0.6, REORDERED),
    f"quantize-binary{{planes=4, embeddings=true, {_CONVOLUTIONS}}}": (0.6, REORDERED),
    f"quantize-codebook{{embeddings=true, {_CONVOLUTIONS}}}": (0.6, REORDERED),
}


def _encoder() -> tuple[ir.Model, Feeds]:
    source = g2p.encoder_source()
    model = tersor.load(source.module, args=source.args, dynamic=source.dynamic)
    return model, {"graphemes": g2p.graphemes(["weights", "octopus", "quality"])}


def _silero() -> tuple[ir.Model, Feeds]:
    model = tersor.load(silero.model_path(silero.OPENVINO))
    pieces = silero.chunks(silero.sample_audio())
    chunk = pieces[np.abs(pieces).mean(1).argmax()][None]
    state = np.random.default_rng(0).standard_normal(silero.STATE_SHAPE).astype(np.float32) / 2
    return model, {"input": np.ascontiguousarray(chunk), "state": state}


MODELS: Mapping[str, Callable[[], tuple[ir.Model, Feeds]]] = {"g2p": _encoder, "silero": _silero}


@cache
def original(name: str) -> tuple[ir.Model, Feeds]:
    """The model as passes see it."""
    model, feeds = MODELS[name]()
    run_pipeline(RAISING, model)
    return model, feeds


@cache
def quantized(name: str, passes: str) -> ir.Model:
    source, feeds = original(name)
    model = source.clone()
    context = Context(calibration=Calibration([feeds]))
    run_pipeline(Pipeline.of(passes), model, context, verify=Verify.OFF)
    return model


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("name", MODELS)
def test_little_is_lost(data_dir: Path, name: str, passes: str) -> None:
    (source, feeds), model = original(name), quantized(name, passes)
    wanted, found = (list(runner(each)(feeds).values()) for each in (source, model))
    assert 0 < distance(found, wanted) < PASSES[passes][0]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("name", MODELS)
def test_backends_agree_with_the_graph(data_dir: Path, name: str, passes: str, backend: str) -> None:
    _, feeds = original(name)
    model = quantized(name, passes).clone()
    made = installed(backend)
    run_pipeline(made.pipeline(), model)
    if backend == "openvino" and "computed" in passes:
        # its frontend converts no Scan that reads a computed value of the graph around it
        with pytest.raises(UnsupportedError, match="Scan"):
            made.compile(model)
        return
    assert compare(quantized(name, passes), made.compile(model), feeds).within(PASSES[passes][1])
