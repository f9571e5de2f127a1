"""Layers of one weight, quantized: every backend gives what the graph does, and stores the weight once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.driver.recipe import pipeline_of
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, violations
from tersor.ir.text import graph
from tersor.passes.report import Size
from tersor.passes.run import Verify, run_pipeline
from tersor.tests.backends.few_bits import PASSES
from tersor.tests.support import REORDERED, installed

WIDTH = 96
#: Of the answers, where activations are rounded as well: a number on the other side of a half moves others.
ROUNDED = 0.03
#: What layers may add to what is stored: sizes and constants of nodes.
FEW = 512


def layers(count: int) -> ir.Model:
    rng = np.random.default_rng(0)
    lines = ["s0 = Gather(table, ids)", "t = Gather(table, others)"]
    for number in range(count):
        lines += [f"m{number} = MatMul(s{number}, w)", f"g{number} = Gelu(m{number})"]
        lines += [f"s{number + 1} = Add(g{number}, t)"]
    return graph(
        *lines,
        inputs={"ids": "int64[batch, time]", "others": "int64[batch, time]"},
        outputs=[f"s{count}"],
        table=rng.standard_normal((200, WIDTH)).astype(np.float32),
        w=(rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)).astype(np.float32),
    )


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("passes", PASSES)
def test_a_weight_of_many_layers_is_stored_once(passes: str, backend: str) -> None:
    made, sizes = installed(backend), []
    for count in (1, 4):
        model = layers(count)
        report = run_pipeline(pipeline_of(passes), model, verify=Verify.OFF)
        assert not [finding.miss for step in report.passes for finding in step.findings if finding.miss]
        lowered = model.clone()
        run_pipeline(made.pipeline(), lowered)
        assert violations(lowered, Level.LOWERED) == []
        feeds = random_feeds(model, {"batch": 2, "time": 5}, seed=1)
        limit = ROUNDED if passes.startswith("quantize-dynamic") else REORDERED
        assert compare(model, made.compile(lowered), [feeds]).relative_l2 < limit
        sizes.append(Size.of(lowered).bytes)
    assert sizes[1] < sizes[0] + FEW
