"""Tensor formats as each target runs them: a layer, a convolution, and a table with its tied head."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.factorize.factorize_tensor import FactorizeTensor
from tersor.passes.run import Verify, run_pipeline
from tersor.tests.support import REORDERED, installed

RNG = np.random.default_rng(3)
FORMATS = ["tt", "tucker", "cp", "block-term", "kronecker"]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


MODELS: dict[str, ir.Model] = {
    "layer": graph(
        "p = MatMul(x, w)", "y = Add(p, b)", inputs={"x": "float[batch, time, 24]"}, w=normal(24, 36), b=normal(36)
    ),
    "convolution": graph(
        "y = Conv{pads=[1, 1, 1, 1], strides=[2, 1]}(x, w, b)", inputs={"x": "float[batch, 12, 9, 8]"},
        w=normal(16, 12, 3, 3), b=normal(16),
    ),
    "table": graph(
        "e = Gather(w, ids)", "m = Tanh(e)", "t = Transpose{perm=[1, 0]}(w)", "y = MatMul(m, t)",
        inputs={"ids": "int64[batch, sequence]"}, w=normal(60, 36),
    ),
    "head from the left": graph(
        "e = Gather(w, ids)", "m = Transpose{perm=[0, 2, 1]}(e)", "y = MatMul(w, m)",
        inputs={"ids": "int64[batch, sequence]"}, w=normal(60, 36),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "torch"])
def test_every_target_runs_every_format(target: str, format: str, name: str) -> None:
    model = MODELS[name].clone()
    made = FactorizeTensor(format=format, ratio=0.3, smallest=1, embeddings=True, convolutions=True)
    outcome = made.apply(model, Context())
    assert outcome.matches == 1
    expected, feeds = runner(model.clone()), random_feeds(model)
    backend = installed(target)
    run_pipeline(backend.pipeline(), model, verify=Verify.OFF)
    assert backend.supports(model) == []
    assert compare(expected, backend.compile(model).run, [feeds]).within(REORDERED)
