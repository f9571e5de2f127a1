"""Dynamically quantized linear layers as one kernel each."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.rules.fuse_dynamic_matmul import FuseDynamicMatMul
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.tests.backends.onnxruntime.attention_models import feeds, normal
from tersor.tests.support import apply, distance, holds, inside_if, misses, on_onnxruntime

X = {"x": "float[batch, sequence, 16]"}
Q8 = np.random.default_rng(0).integers(-63, 64, (16, 24), dtype=np.int8)
SCALE = np.abs(normal(24)) + np.float32(0.01)
WEIGHTS: dict[str, object] = {"w": Q8, "s": SCALE, "b": normal(24)}
ROUND = ("(q, r, z) = DynamicQuantizeLinear(x)", "d = DequantizeLinear(q, r, z)")
STORED = "e = DequantizeLinear{axis=1}(w, s)"
PRODUCT = (*ROUND, STORED, "p = MatMul(d, e)")


def layer(
    *text: str, outputs: list[str] | None = None, inputs: dict[str, str] | None = None, **changes: object
) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    constants = {
        name: value for name, value in (WEIGHTS | changes).items() if name in read and name not in (inputs or X)
    }
    return graph(*text, inputs=inputs or X, outputs=outputs, **constants)


class TestRewrites:
    def test_a_layer_with_its_own_activation(self) -> None:
        assert apply(FuseDynamicMatMul(), layer(*PRODUCT)) == ["p = com.microsoft.DynamicQuantizeMatMul(x, w, s)"]

    @pytest.mark.parametrize("add", ["y = Add(p, b)", "y = Add(b, p)"])
    def test_its_bias(self, add: str) -> None:
        found = apply(FuseDynamicMatMul(), layer(*PRODUCT, add))
        assert found == ["y = com.microsoft.DynamicQuantizeMatMul(x, w, s, _, b)"]

    def test_an_activation_that_two_layers_read_is_quantized_once(self) -> None:
        second = ("f = DequantizeLinear{axis=1}(v, t)", "o = MatMul(d, f)")
        model = layer(*PRODUCT, "y = Add(p, b)", *second, v=Q8[::-1].copy(), t=SCALE)
        assert apply(FuseDynamicMatMul(), model) == [
            "(q, r, z) = DynamicQuantizeLinear(x)",
            "y = com.microsoft.MatMulIntegerToFloat(q, w, r, s, z, _, b)",
            "o = com.microsoft.MatMulIntegerToFloat(q, v, r, t, z)",
        ]

    def test_a_rounded_activation_that_others_read_is_kept(self) -> None:
        assert apply(FuseDynamicMatMul(), layer(*PRODUCT, "u = Neg(d)")) == [
            *ROUND,
            "p = com.microsoft.MatMulIntegerToFloat(q, w, r, s, z)",
            "u = Neg(d)",
        ]

    def test_one_scale_for_the_whole_weight(self) -> None:
        found = apply(
            FuseDynamicMatMul(), layer(*ROUND, "e = DequantizeLinear(w, s)", "p = MatMul(d, e)", s=np.float32(0.1))
        )
        assert found == ["p = com.microsoft.DynamicQuantizeMatMul(x, w, s)"]

    def test_a_zero_point_of_zero(self) -> None:
        text = (*ROUND, "e = DequantizeLinear{axis=1}(w, s, n)", "p = MatMul(d, e)")
        found = apply(FuseDynamicMatMul(), layer(*text, n=np.zeros(24, np.int8)))
        assert found == ["p = com.microsoft.DynamicQuantizeMatMul(x, w, s)"]

    def test_what_quantize_dynamic_writes(self) -> None:
        for rows in (False, True):
            model = graph("p = MatMul(x, w)", "y = Add(p, b)", inputs=X, w=normal(16, 24), b=normal(24))
            QuantizeDynamic(rows=rows, smallest=1).apply(model, Context())
            assert any("DynamicQuantizeMatMul" in line for line in apply(FuseDynamicMatMul(), model))

    def test_in_branches(self) -> None:
        found = apply(FuseDynamicMatMul(), inside_if(layer(*PRODUCT, "y = Add(p, b)")))
        assert sum("com.microsoft.DynamicQuantizeMatMul" in line for line in found) == 2


REFUSED = [
    graph("p = MatMul(x, w)", inputs=X, w=normal(16, 24)),
    graph("p = MatMul(x, y)", inputs=X | {"y": "float[16, 24]"}),
    layer(STORED, "p = MatMul(x, e)"),
    layer(*ROUND, "p = MatMul(d, e)", e=normal(16, 24)),
    layer(*ROUND, "e = DequantizeLinear{axis=0}(w, s)", "p = MatMul(d, e)", s=np.ones(16, np.float32)),
    layer(*ROUND, "e = DequantizeLinear{axis=1}(w, s, n)", "p = MatMul(d, e)", n=np.ones(24, np.int8)),
    layer(*ROUND, STORED, "p = MatMul(d, e)", w=Q8.astype(np.int32)),
    layer(*ROUND, STORED, "p = MatMul(d, e)", w=Q8.astype(np.uint8)),
    layer(*ROUND, STORED, "p = MatMul(d, e)", inputs=X | {"w": "int8[16, 24]"}),
    layer(ROUND[0], "d = DequantizeLinear(q, k, z)", STORED, "p = MatMul(d, e)", k=np.float32(0.5)),
    layer(ROUND[0], "d = DequantizeLinear(q, r)", STORED, "p = MatMul(d, e)"),
    layer("q = QuantizeLinear(x, k)", "d = DequantizeLinear(q, k)", STORED, "p = MatMul(d, e)", k=np.float32(0.5)),
]


@pytest.mark.parametrize("model", REFUSED, ids=range(len(REFUSED)))
def test_leaves_alone(model: ir.Model) -> None:
    for value in [value for value in model.graph.inputs if not value.uses()]:
        model.graph.inputs.remove(value)
    (miss,) = misses(FuseDynamicMatMul(), model)
    assert (miss.rule, miss.need) == ("layer", "a MatMul of a dynamically quantized activation with int8 columns")
    before = lines(model)
    assert apply(FuseDynamicMatMul(), model) == before


@pytest.mark.parametrize(
    ("bias", "left"),
    [(normal(1, 24), "y = Add(p, b)"), (normal(1), "y = Add(p, b)"), (np.float32(2), "y = Add(p, b)")],
)
def test_leaves_a_bias_alone_that_is_no_vector_of_the_outputs(bias: np.ndarray, left: str) -> None:
    found = apply(FuseDynamicMatMul(), layer(*PRODUCT, "y = Add(p, b)", b=bias))
    assert found == ["p = com.microsoft.DynamicQuantizeMatMul(x, w, s)", left]


def test_leaves_a_bias_alone_before_which_the_product_is_read() -> None:
    found = apply(FuseDynamicMatMul(), layer(*PRODUCT, "y = Add(p, b)", outputs=["p", "y"]))
    assert found == ["p = com.microsoft.DynamicQuantizeMatMul(x, w, s)", "y = Add(p, b)"]


MODELS = {
    "alone": layer(*PRODUCT),
    "with its bias": layer(*PRODUCT, "y = Add(p, b)"),
    "one scale": layer(*ROUND, "e = DequantizeLinear(w, s)", "p = MatMul(d, e)", s=np.float32(0.1)),
    "two layers": layer(*PRODUCT, "f = DequantizeLinear{axis=1}(v, t)", "o = MatMul(d, f)", v=Q8[::-1].copy(), t=SCALE),
}


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (3, 5)])
@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_the_same(name: str, batch: int, sequence: int) -> None:
    """Weights of 7 bits: the products of 8 saturate on x86 CPUs without VNNI, in the fused kernels alone."""
    model = MODELS[name].clone()
    given = feeds(model, batch, sequence)
    before = on_onnxruntime(model, given)
    FuseDynamicMatMul().apply(model, Context())
    assert distance(on_onnxruntime(model, given), before) <= FuseDynamicMatMul.contract.tolerance  # type: ignore[union-attr]


@pytest.mark.parametrize("name", MODELS)
def test_holds(name: str) -> None:
    holds(FuseDynamicMatMul(), MODELS[name])
