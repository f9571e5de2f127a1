"""Gated linear units: every activation, two layers or two parts of one, and nothing that only looks like it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.raising.activation.raise_activation import RaiseActivation
from tersor.passes.raising.activation.raise_glu import RaiseGlu
from tersor.tests.support import apply, holds, inside_if, misses

X = {"x": "float[batch, 4]"}
W = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
WEIGHTS = {"w": W, "v": W[::-1].copy(), "b": W[0]}
LAYERS = ["g = MatMul(x, w)", "u = MatMul(x, v)"]
SILU = ["s = Sigmoid(g)", "a = Mul(g, s)"]


def model(*text: str, swish: bool = True, **more: str) -> ir.Model:
    used = {name: array for name, array in WEIGHTS.items() if any(f", {name})" in line for line in text)}
    made = graph(*text, inputs=X | more, **used)
    if swish:
        RaiseActivation().apply(made, Context())
    return made


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ([*LAYERS, *SILU, "y = Mul(a, u)"], "y = tersor.SwiGLU(g, u)"),
        ([*LAYERS, *SILU, "y = Mul(u, a)"], "y = tersor.SwiGLU(g, u)"),
        ([*LAYERS, "c = Mul(g, 1.702)", "s = Sigmoid(c)", "a = Mul(g, s)", "y = Mul(a, u)"],
         "y = tersor.SwiGLU{alpha=1.702}(g, u)"),
        ([*LAYERS, "a = Gelu(g)", "y = Mul(a, u)"], "y = tersor.GeGLU(g, u)"),
        ([*LAYERS, "a = Gelu{approximate=tanh}(g)", "y = Mul(a, u)"], "y = tersor.GeGLU{approximate=tanh}(g, u)"),
        ([*LAYERS, "a = Relu(g)", "y = Mul(a, u)"], "y = tersor.ReGLU(g, u)"),
        ([*LAYERS, "a = Sigmoid(g)", "y = Mul(a, u)"], "y = tersor.GLU(g, u)"),
        (["p = MatMul(x, w)", "g = Add(p, b)", "u = MatMul(x, v)", *SILU, "y = Mul(a, u)"], "y = tersor.SwiGLU(g, u)"),
        (["h = MatMul(x, w)", "(u, g) = Split{axis=-1, num_outputs=2}(h)", *SILU, "y = Mul(a, u)"],
         "y = tersor.SwiGLU(g, u)"),
        (["g = Slice(x, [0], [2], [1])", "u = Slice(x, [2], [4], [1])", "a = Sigmoid(g)", "y = Mul(u, a)"],
         "y = tersor.GLU(g, u)"),
    ],
)  # fmt: skip
def test_raises(text: list[str], last: str) -> None:
    made = model(*text)
    assert apply(RaiseGlu(), made)[-1] == last
    assert not any(" = Mul(" in line for line in lines(made))
    holds(RaiseGlu(), model(*text))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ([*LAYERS, *SILU, "y = Mul(a, u)", "z = Neg(a)"], "reader"),
        ([*LAYERS, *SILU, "y = Add(a, u)"], "reader"),
        ([*LAYERS, "a = Relu(g)", "y = Mul(a, a)", "z = Neg(u)"], "up"),
        ([*LAYERS, "a = Relu(g)", "y = Mul(a, g)", "z = Neg(u)"], "up"),
        (["g = MatMul(x, w)", "a = Relu(g)", "y = Mul(a, b)"], "shape"),
        (["g = MatMul(x, w)", "a = Relu(g)", "y = Mul(a, m)"], "shape"),
        (["g = MatMul(x, w)", "a = Relu(g)", "y = Mul(a, unknown)"], "shape"),
        (["g = MatMul(x, w)", "t = MatMul(x, v)", "u = Tanh(t)", "a = Sigmoid(g)", "y = Mul(a, u)"], "linear"),
        (["a = Sigmoid(x)", "u = MatMul(x, q)", "y = Mul(a, u)"], "linear"),
        (["(p, _) = Split{axis=1, num_outputs=2}(x)", "(r, _) = Split{axis=1, num_outputs=2}(z)", "a = Relu(p)",
          "y = Mul(a, r)"], "linear"),
    ],
)  # fmt: skip
def test_leaves_alone(text: list[str], rule: str) -> None:
    kinds = {"m": "float[batch, 1]", "q": "float[4, 4]", "z": X["x"], "unknown": "float"}
    more = {name: kind for name, kind in kinds.items() if any(f"{name})" in line and f"{name} =" not in line
                                                             for line in text)}  # fmt: skip
    defined = {line.split(" = ")[0] for line in text}
    made = model(*text, **{name: kind for name, kind in more.items() if name not in defined})
    assert [miss.rule for miss in misses(RaiseGlu(), made)] == [rule]
    before = lines(made)
    assert apply(RaiseGlu(), made) == before


def test_leaves_a_computed_weight_and_one_of_the_caller_alone() -> None:
    made = graph(
        "g = MatMul(x, k)", "u = MatMul(x, k)", "a = Relu(g)", "y = Mul(a, u)", inputs=X | {"k": "float[4, 6]"}
    )
    assert [miss.rule for miss in misses(RaiseGlu(), made)] == ["linear"]
    made = model(*LAYERS, "a = Relu(g)", "y = Mul(a, u)")
    made.graph.inputs.append(made.graph.initializers["w"])
    assert [miss.rule for miss in misses(RaiseGlu(), made)] == ["linear"]


def test_in_branches() -> None:
    made = inside_if(model(*LAYERS, "a = Relu(g)", "y = Mul(a, u)"))
    holds(RaiseGlu(), made)
    assert sum("ReGLU" in line for line in apply(RaiseGlu(), made)) == 2
