"""A bias added inside the GELU kernel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.rules.fuse_bias_gelu import FuseBiasGelu
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.tests.backends.onnxruntime.attention_models import feeds, normal
from tersor.tests.support import apply, distance, holds, inside_if, misses, on_onnxruntime

X = {"x": "float[batch, sequence, 16]"}
W, B = normal(16, 24), normal(24)
LAYER = ("p = MatMul(x, w)", "s = Add(p, b)")


def layer(*text: str, outputs: list[str] | None = None, **changes: object) -> ir.Model:
    return graph(*text, inputs=X, outputs=outputs, **{"w": W, "b": B} | changes)


def quantized() -> ir.Model:
    model = layer(*LAYER, "y = Gelu(s)")
    QuantizeDynamic(smallest=1).apply(model, Context())
    return model


@pytest.mark.parametrize("add", ["s = Add(p, b)", "s = Add(b, p)"])
@pytest.mark.parametrize("gelu", ["y = Gelu(s)", "y = Gelu{approximate=none}(s)"])
def test_rewrites(add: str, gelu: str) -> None:
    model = layer(LAYER[0], add, gelu, "z = Neg(y)")
    assert apply(FuseBiasGelu(), model) == ["p = MatMul(x, w)", "y = com.microsoft.BiasGelu(p, b)", "z = Neg(y)"]


def test_rewrites_at_an_output() -> None:
    assert apply(FuseBiasGelu(), layer(*LAYER, "y = Gelu(s)"))[-1] == "y = com.microsoft.BiasGelu(p, b)"


def test_rewrites_two_layers_that_share_a_bias() -> None:
    model = layer(*LAYER, "y = Gelu(s)", "q = MatMul(x, v)", "t = Add(q, b)", "z = Gelu(t)", v=W + 1)
    assert sum("BiasGelu" in line for line in apply(FuseBiasGelu(), model)) == 2
    assert "b" in model.graph.initializers


def test_rewrites_in_branches() -> None:
    assert sum("BiasGelu" in line for line in apply(FuseBiasGelu(), inside_if(layer(*LAYER, "y = Gelu(s)")))) == 2


REFUSED = [
    ("form", layer(*LAYER, "y = Gelu{approximate=tanh}(s)")),
    ("bias", graph("y = Gelu(x)", inputs=X)),
    ("bias", graph("p = MatMul(x, w)", "y = Gelu(p)", inputs=X, w=W)),
    ("bias", graph("s = Add(x, c)", "y = Gelu(s)", inputs=X, c=normal(16))),
    ("bias", graph("p = MatMul(x, w)", "s = Add(p, z)", "y = Gelu(s)", inputs=X | {"z": "float[24]"}, w=W)),
    ("bias", layer(*LAYER, "y = Gelu(s)", b=normal(1, 24))),
    ("bias", layer(*LAYER, "y = Gelu(s)", b=normal(1))),
    ("bias", layer(*LAYER, "y = Gelu(s)", "z = Neg(p)")),
    ("bias", layer(*LAYER, "y = Gelu(s)", outputs=["y", "p"])),
    ("readers", layer(*LAYER, "y = Gelu(s)", "z = Neg(s)")),
    ("readers", layer(*LAYER, "y = Gelu(s)", outputs=["y", "s"])),
    ("precision", quantized()),
]


@pytest.mark.parametrize(("rule", "model"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, model: ir.Model) -> None:
    (miss,) = misses(FuseBiasGelu(), model)
    assert miss.rule == rule, miss
    before = lines(model)
    assert apply(FuseBiasGelu(), model) == before


def test_leaves_a_gelu_of_another_domain_alone() -> None:
    assert misses(FuseBiasGelu(), layer(*LAYER, "y = com.microsoft.Gelu(s)")) == []


@pytest.mark.parametrize(("batch", "sequence"), [(1, 1), (3, 5)])
def test_onnxruntime_computes_the_same(batch: int, sequence: int) -> None:
    model = layer(*LAYER, "y = Gelu(s)")
    given = feeds(model, batch, sequence)
    before = on_onnxruntime(model, given)
    FuseBiasGelu().apply(model, Context())
    assert distance(on_onnxruntime(model, given), before) <= FuseBiasGelu.contract.tolerance  # type: ignore[union-attr]


def test_holds() -> None:
    assert np.isfinite(holds(FuseBiasGelu(), layer(*LAYER, "y = Gelu(s)")))
