"""Activation functions by what they compute: every spelling, and nothing that only looks like it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.activation.raise_activation import RaiseActivation
from tersor.tests.support import apply, arithmetic, holds, inside_if, misses

X = {"x": "float[batch, 8]"}

SPELLED: dict[str, tuple[list[str], str]] = {
    "silu": (arithmetic("y = x * Sigmoid(x)"), "tersor.Swish"),
    "silu by exp": (arithmetic("y = x / (1 + Exp(-x))"), "tersor.Swish"),
    "silu by reciprocal": (arithmetic("y = x * Reciprocal(Exp(-x) + 1)"), "tersor.Swish"),
    "quick gelu": (arithmetic("y = x * Sigmoid(x * 1.702)"), "tersor.Swish{alpha=1.702}"),
    "sigmoid": (arithmetic("y = 1 / (1 + Exp(-x))"), "Sigmoid"),
    "softplus": (arithmetic("y = Log(1 + Exp(x))"), "Softplus"),
    "softplus above a threshold": (
        [*arithmetic("l = Log(Exp(x) + 1)"), "c = LessOrEqual(x, 20.0)", "y = Where(c, l, x)"], "Softplus",
    ),
    "softplus of torch": (["l = Softplus(x)", "c = Greater(x, 20.0)", "y = Where(c, x, l)"], "Softplus"),
    "mish": (arithmetic("y = x * Tanh(Softplus(x))"), "Mish"),
    "mish in full": (arithmetic("y = x * Tanh(Log(Exp(x) + 1))"), "Mish"),
    "softsign": (arithmetic("y = x / (1 + Abs(x))"), "Softsign"),
    "hard swish": (["a = Add(x, 3.0)", "c = Clip(a, 0.0, 6.0)", *arithmetic("y = x * c / 6")], "HardSwish"),
    "hard swish, divided first": (
        ["a = Add(x, 3.0)", "c = Clip(a, 0.0, 6.0)", *arithmetic("y = x * (c / 6)")], "HardSwish",
    ),
    "hard swish of hard sigmoid": (
        ["c = HardSigmoid{alpha=0.16666667, beta=0.5}(x)", "y = Mul(c, x)"], "HardSwish",
    ),
    "hard sigmoid": (
        ["a = Mul(x, 0.2)", "b = Add(a, 0.5)", "y = Clip(b, 0.0, 1.0)"], "HardSigmoid{alpha=0.2, beta=0.5}",
    ),
    "elu": ([*arithmetic("e = 0.5 * (Exp(x) - 1)"), "c = Greater(x, 0.0)", "y = Where(c, x, e)"], "Elu{alpha=0.5}"),
    "selu": (
        [*arithmetic("e = 1.7580993408473766 * (Exp(x) - 1)"), "p = Mul(x, 1.0507009873554805)", "c = Greater(x, 0.0)",
         "y = Where(c, p, e)"], "Selu",
    ),
}  # fmt: skip

ALIKE = {
    "sigmoid itself": ["y = Sigmoid(x)"],
    "softplus itself": ["y = Softplus(x)"],
    "a number kept off zero": ["y = Clip(x, 1e-09, _)"],
    "hard swish kept off zero": [
        "a = Add(x, 3.0)",
        "c = Clip(a, 1e-09, 6.0)",
        "b = Mul(x, c)",
        "y = Div(b, 6.0)",
    ],
    "softsign moved by little": arithmetic("y = (x + 0.0000001) / (1 + Abs(x))"),
    "relu6": ["y = Clip(x, 0.0, 6.0)"],
    "silu of two values": ["s = Sigmoid(x)", "y = Mul(s, z)"],
    "silu off by little": arithmetic("y = x * 1.0001 * Sigmoid(x)"),
    "silu shifted": arithmetic("y = x * Sigmoid(x + 0.001)"),
    "swish of nan": arithmetic("y = x * Sigmoid(x * nan)"),
    "swish by a vector": ["a = Mul(x, v)", "s = Sigmoid(a)", "y = Mul(x, s)"],
    "half": arithmetic("y = x * Sigmoid(x * 0)"),
    "softplus of base two": arithmetic("y = Log(2 + Exp(x))"),
    "a threshold too low": ["l = Softplus(x)", "c = Greater(x, 7.0)", "y = Where(c, x, l)"],
    "a threshold the other way": ["l = Softplus(x)", "c = Greater(x, 20.0)", "y = Where(c, l, x)"],
    "another value beyond the threshold": ["l = Softplus(x)", "c = Greater(x, 20.0)", "y = Where(c, 20.0, l)"],
    "clipped far out": ["s = Sigmoid(x)", "c = Clip(x, _, 50.0)", "y = Mul(c, s)"],
    "clipped farther out": ["s = Sigmoid(x)", "c = Clip(x, _, 100.0)", "y = Mul(c, s)"],
    "hard swish of seven": ["a = Add(x, 3.0)", "c = Clip(a, 0.0, 7.0)", *arithmetic("y = x * c / 6")],
    "hard swish of no bottom": ["a = Add(x, 3.0)", "c = Clip(a, _, 6.0)", *arithmetic("y = x * c / 6")],
    "softsign of two": arithmetic("y = x / (2 + Abs(x))"),
    "gaussian": arithmetic("y = Exp(-(x * x))"),
    "another domain": arithmetic("y = x * my.Sigmoid(x) * Exp(x)"),
}


@pytest.mark.parametrize("name", SPELLED)
def test_every_spelling(name: str) -> None:
    text, op = SPELLED[name]
    assert apply(RaiseActivation(), graph(*text, inputs=X)) == [f"y = {op}(x)"]
    holds(RaiseActivation(), graph(*text, inputs=X))
    holds(RaiseActivation(), graph("x = Mul(z, 20.0)", *text, inputs={"z": X["x"]}))


@pytest.mark.parametrize("name", ALIKE)
def test_leaves_look_alikes_alone(name: str) -> None:
    text = ALIKE[name]
    kinds = {"x": X["x"], "z": X["x"], "v": "float[8]"}
    made = graph(
        *text, inputs={key: kind for key, kind in kinds.items() if any(f"{key})" in line for line in text)} | X
    )
    assert {miss.rule for miss in misses(RaiseActivation(), made)} == {"function"}
    before = lines(made)
    assert apply(RaiseActivation(), made) == before


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_constants_of_another_precision(dtype: type) -> None:
    made = graph(
        "a = Mul(x, c)", "s = Sigmoid(a)", "y = Mul(x, s)",
        inputs={"x": f"{'float16' if dtype is np.float16 else 'double'}[4]"}, c=dtype(1.702),
    )  # fmt: skip
    apply(RaiseActivation(), made)
    assert [node.op_type for node in made.graph] == ["Swish"]
    assert made.graph.node(0).attributes["alpha"].as_float() == pytest.approx(1.702, rel=1e-3)


def test_functions_are_declared() -> None:
    made = graph(*arithmetic("y = x * Sigmoid(x)"), *arithmetic("z = y * Sigmoid(y * 1.702)"), inputs=X)
    apply(RaiseActivation(), made)
    assert sorted(made.functions) == [("tersor", "Swish", ""), ("tersor", "Swish", "scaled")]


def test_x_may_have_other_readers_and_what_lies_between_may_not() -> None:
    made = graph("s = Sigmoid(x)", "y = Mul(x, s)", "z = Neg(x)", inputs=X)
    assert sorted(apply(RaiseActivation(), made)) == ["y = tersor.Swish(x)", "z = Neg(x)"]
    made = graph("s = Sigmoid(x)", "y = Mul(x, s)", "z = Neg(s)", inputs=X)
    assert [miss.rule for miss in misses(RaiseActivation(), made)] == ["function"]
    made = graph("s = Sigmoid(x)", "y = Mul(x, s)", inputs=X, outputs=["y", "s"])
    assert [miss.rule for miss in misses(RaiseActivation(), made)] == ["function"]


def test_a_constant_of_the_caller_is_no_constant() -> None:
    made: ir.Model = graph("a = Mul(x, c)", "s = Sigmoid(a)", "y = Mul(x, s)", inputs=X, c=np.float32(1.702))
    made.graph.inputs.append(made.graph.initializers["c"])
    assert [miss.rule for miss in misses(RaiseActivation(), made)] == ["function"]


def test_in_branches() -> None:
    made = inside_if(graph(*SPELLED["silu"][0], inputs=X))
    assert sum("Swish" in line for line in apply(RaiseActivation(), made)) == 2
    holds(RaiseActivation(), inside_if(graph(*SPELLED["silu"][0], inputs=X)))


def test_a_bound_that_is_computed_is_one() -> None:
    text = ["t = Mul(x, 0.2)", "u = Add(t, 0.5)", "c = Clip(u, 0.0, 1.0)", "y = Clip(c, least)"]
    found = apply(RaiseActivation(), graph(*text, inputs=X | {"least": "float[]"}))
    assert [line.split("{")[0] for line in found] == ["c = HardSigmoid", "y = Clip(c, least)"]
