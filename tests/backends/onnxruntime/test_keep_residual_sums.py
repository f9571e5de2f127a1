"""Residual additions written so that ONNX Runtime keeps its faster kernels."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from tersor.backends.onnxruntime.rules.keep_residual_sums import KeepResidualSums
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.tests.backends.onnxruntime.attention_models import feeds, normal
from tersor.tests.support import apply, distance, holds, inside_if, misses, on_onnxruntime

XY = dict.fromkeys(("x", "skip"), "float[batch, sequence, 16]")
NORM = {"g": normal(16), "b": normal(16)}
LAYER = "y = LayerNormalization{axis=-1}(a, g, b)"


def residual(
    *more: str, add: str = "a = Add(x, skip)", inputs: dict[str, str] | None = None, **constants: object
) -> ir.Model:
    return graph(add, LAYER, *more, inputs=XY if inputs is None else inputs, **NORM | constants)


def test_rewrites() -> None:
    assert apply(KeepResidualSums(), residual()) == ["a = Sum(x, skip)", LAYER]


def test_rewrites_a_sum_that_goes_on() -> None:
    assert apply(KeepResidualSums(), residual("z = Neg(a)"))[0] == "a = Sum(x, skip)"


def test_rewrites_in_branches() -> None:
    assert sum("Sum(x, skip)" in line for line in apply(KeepResidualSums(), inside_if(residual()))) == 2


@pytest.mark.parametrize(
    ("rule", "model"),
    [
        ("reader", graph("a = Add(x, skip)", "y = Relu(a)", inputs=XY)),
        ("reader", graph("a = Add(x, skip)", "y = my.LayerNormalization(a)", inputs=XY)),
        ("reader", graph("a = Add(x, skip)", inputs=XY)),
        ("operands", residual(add="a = Add(x, c)", inputs={"x": XY["x"]}, c=normal(16))),
        ("operands", residual(inputs=XY | {"skip": "float[16]"})),
        ("operands", residual(inputs=XY | {"skip": "float[1, sequence, 16]"})),
    ],
)
def test_leaves_alone(rule: str, model: ir.Model) -> None:
    (miss,) = misses(KeepResidualSums(), model)
    assert miss.rule == rule
    before = lines(model)
    assert apply(KeepResidualSums(), model) == before


def test_leaves_an_add_of_another_domain_alone() -> None:
    assert misses(KeepResidualSums(), residual(add="a = my.Add(x, skip)")) == []


def kernels(model: ir.Model) -> set[str]:
    """The ops that ONNX Runtime runs after its own optimizations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
        return {node.op_type for node in ir.load(options.optimized_model_filepath).graph}


def test_onnxruntime_keeps_the_sum_and_computes_the_same() -> None:
    model = residual()
    given = feeds(model, 3, 5)
    before = on_onnxruntime(model, given)
    assert "SkipLayerNormalization" in kernels(model)
    KeepResidualSums().apply(model, Context())
    assert kernels(model) == {"Sum", "LayerNormalization"}
    assert distance(on_onnxruntime(model, given), before) == 0.0


def test_holds() -> None:
    assert holds(KeepResidualSums(), residual()) == 0.0
    assert np.isfinite(holds(KeepResidualSums(), residual("z = Neg(a)")))
