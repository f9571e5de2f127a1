"""Layers of one weight, quantized: every backend gives what the graph does, and stores the weight once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from tersor.driver.recipe import pipeline_of
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, violations
from tersor.ir.text import graph
from tersor.passes.base import Context, Lossy
from tersor.passes.report import Size
from tersor.passes.run import Verify, run_pipeline
from tersor.passes.statistics import Calibration
from tersor.tests.backends.few_bits import PASSES
from tersor.tests.support import REORDERED, installed, parse

WIDTH = 96
#: Of the answers, where activations are rounded as well: a number on the other side of a half moves others.
ROUNDED = 0.03
#: What layers may add to what is stored: sizes and constants of nodes, grids of activations.
FEW = 1024
STATIC = "quantize-static{embeddings=true}"
HASHED = "share-hashed{method=hashed, embeddings=true}"


def normal(*shape: int) -> np.ndarray:
    return (np.random.default_rng(shape).standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def layers(count: int) -> ir.Model:
    lines = ["s0 = Gather(table, ids)", "t = Gather(table, others)"]
    for number in range(count):
        lines += [f"m{number} = MatMul(s{number}, w)", f"g{number} = Gelu(m{number})"]
        lines += [f"s{number + 1} = Add(g{number}, t)"]
    given = {"ids": "int64[batch, time]", "others": "int64[batch, time]"}
    return graph(*lines, inputs=given, outputs=[f"s{count}"], table=normal(200, WIDTH), w=normal(WIDTH, WIDTH))


def convolutions(count: int) -> ir.Model:
    lines = []
    for number in range(count):
        lines += [f"m{number} = Conv{{pads=[1, 1]}}(s{number}, w)", f"s{number + 1} = Relu(m{number})"]
    return graph("s0 = Tanh(x)", *lines, inputs={"x": "float[batch, 32, time]"}, w=normal(32, 32, 3))


def cells(count: int) -> ir.Model:
    lines = []
    for number in range(count):
        lines += [f"(y{number}, _, _) = LSTM{{hidden_size=32}}(s{number}, w, r)"]
        lines += [f"s{number + 1} = Squeeze(y{number}, a)"]
    weights = {"w": normal(1, 128, 32), "r": normal(1, 128, 32)}
    return graph("s0 = Tanh(x)", *lines, inputs={"x": "float[time, batch, 32]"}, a=np.array([1]), **weights)


def turns(count: int) -> ir.Model:
    """A loop whose body reads a weight beside it, so many times."""
    lines = "".join(f"m{number} = MatMul (h{number}, w) h{number + 1} = Tanh (m{number})\n" for number in range(count))
    numbers = ", ".join(f"{number:.9g}" for number in normal(32, 32).reshape(-1))
    return parse(
        f"""main (float[batch, time, 32] x) => (float[batch, time, 32] y)
            <float[32, 32] w = {{{numbers}}}, int64 three = {{3}}, bool go = {{1}}> {{
          y = Loop (three, go, x) <body = turn (int64 i, bool c, float[batch, time, 32] h0)
              => (bool d, float[batch, time, 32] h{count}) {{
            d = Identity (c)
            {lines}
          }}>
        }}"""
    )


def agreed(make: Callable[[int], ir.Model], passes: str, backend: str, limit: float) -> None:
    """Whether a backend gives what the graph does, and stores of several layers what it stores of one."""
    made, sizes = installed(backend), []
    for count in (1, 3):
        model = make(count)
        data = [random_feeds(model, {"batch": 2, "time": 5}, seed=seed) for seed in range(3)]
        context = Context(calibration=Calibration(data))
        report = run_pipeline(pipeline_of(passes), model, context, verify=Verify.OFF)
        assert not [finding.miss for step in report.passes for finding in step.findings if finding.miss]
        assert [step for step in report.passes if step.matches and isinstance(step.contract, Lossy)]
        lowered = model.clone()
        run_pipeline(made.pipeline(), lowered)
        assert violations(lowered, Level.LOWERED) == []
        assert compare(model, made.compile(lowered), data[:1]).relative_l2 < limit
        sizes.append(Size.of(lowered).bytes)
    assert sizes[1] < sizes[0] + FEW


BACKENDS = ("onnxruntime", "openvino", "torch")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("passes", [*PASSES, STATIC, HASHED])
def test_a_weight_of_many_layers_is_stored_once(passes: str, backend: str) -> None:
    agreed(layers, passes, backend, ROUNDED if "dynamic" in passes or "static" in passes else REORDERED)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "passes", ["quantize-weights{convolutions=true, smallest=1}", "quantize-static{convolutions=true, smallest=1}"]
)
def test_so_is_that_of_many_convolutions(passes: str, backend: str) -> None:
    agreed(convolutions, passes, backend, ROUNDED)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("passes", ["quantize-weights{bits=8}", "quantize-dynamic"])
def test_so_is_that_of_many_cells(passes: str, backend: str) -> None:
    agreed(cells, passes, backend, ROUNDED)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("passes", ["quantize-weights{bits=8, smallest=1}", "quantize-dynamic{smallest=1}"])
def test_so_is_that_of_layers_in_a_loop(passes: str, backend: str) -> None:
    agreed(turns, passes, backend, ROUNDED)
