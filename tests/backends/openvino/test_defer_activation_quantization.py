from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.openvino.defer_activation_quantization import DEFERRED, DeferActivationQuantization
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.tests.support import apply, holds, misses

RNG = np.random.default_rng(0)
STORED = RNG.integers(-127, 128, (16, 8)).astype(np.int8)
SCALE = (RNG.random(8) / 100 + 0.001).astype(np.float32)
WEIGHT = "w = DequantizeLinear{axis=1}(stored, scale)"
ROUND_TRIP = ("(q, s, z) = DynamicQuantizeLinear(x)", "d = DequantizeLinear(q, s, z)")
INPUT = {"x": "float[batch, sequence, 16]"}
DIVIDED = (
    "a = Abs(x)",
    "r = ReduceMax{keepdims=1}(a, [-1])",
    "f = Max(r, 1e-30)",
    "x2 = Div(x, f)",
    "(q, s, z) = DynamicQuantizeLinear(x2)",
    "d = DequantizeLinear(q, s, z)",
    WEIGHT,
    "p = MatMul(d, w)",
)


def model_of(*lines: str) -> ir.Model:
    return graph(*lines, inputs=INPUT, outputs=["y"], stored=STORED, scale=SCALE)


def test_the_activation_stays_as_it_is() -> None:
    model = model_of(*ROUND_TRIP, WEIGHT, "p = MatMul(d, w)", "y = Add(p, 1.0)")
    assert apply(DeferActivationQuantization(), model) == [WEIGHT, "p = MatMul(x, w)", "y = Add(p, const_2)"]
    marked = [node.op_type for node in model.graph if DEFERRED in node.metadata_props]
    assert marked == ["MatMul"]


def test_rows_are_not_divided_for_nothing() -> None:
    model = model_of(*DIVIDED, "y = Mul(p, f)")
    assert apply(DeferActivationQuantization(), model) == [WEIGHT, "y = MatMul(x, w)"]


def test_a_division_that_is_not_taken_back_stays() -> None:
    model = model_of(*DIVIDED, "y = Mul(p, 2.0)")
    after = apply(DeferActivationQuantization(), model)
    assert "x2 = Div(x, f)" in after
    assert "p = MatMul(x2, w)" in after


def test_a_division_by_columns_stays() -> None:
    model = graph(
        "x2 = Div(x, f)",
        "(q, s, z) = DynamicQuantizeLinear(x2)",
        "d = DequantizeLinear(q, s, z)",
        WEIGHT,
        "p = MatMul(d, w)",
        "y = Mul(p, f)",
        inputs={"x": "float[batch, 16]", "f": "float[1, 8]"},
        stored=STORED[:8],
        scale=SCALE,
    )
    assert "x2 = Div(x, f)" in apply(DeferActivationQuantization(), model)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (model_of(WEIGHT, "y = MatMul(x, w)"), "activation"),
        (model_of(*ROUND_TRIP, "w2 = Mul(stored2, 0.1)", "y = MatMul(d, w2)"), "weight"),
        (
            model_of("(q, s, z) = DynamicQuantizeLinear(x)", "d = DequantizeLinear(q, s)", WEIGHT, "y = MatMul(d, w)"),
            "activation",
        ),
    ],
)
def test_leaves_alone(model: ir.Model, rule: str) -> None:
    assert [miss.rule for miss in misses(DeferActivationQuantization(), model)] == [rule]


@pytest.mark.parametrize("lines", [(*ROUND_TRIP, WEIGHT, "y = MatMul(d, w)"), (*DIVIDED, "y = Mul(p, f)")])
def test_holds_numerically(lines: tuple[str, ...]) -> None:
    holds(DeferActivationQuantization(), model_of(*lines))


@pytest.mark.parametrize("rows", [False, True])
def test_takes_back_what_quantize_dynamic_does_to_activations(rows: bool) -> None:
    weight = RNG.standard_normal((64, 64)).astype(np.float32)
    model = graph("p = MatMul(x, w)", "y = Add(p, b)", inputs={"x": "float[n, 64]"}, w=weight, b=weight[0])
    QuantizeDynamic(rows=rows).apply(model, Context())
    apply(DeferActivationQuantization(), model)
    assert [node.op_type for node in model.graph] == ["DequantizeLinear", "MatMul", "Add"]
