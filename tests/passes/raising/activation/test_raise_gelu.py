"""GELU by what it computes: every spelling, and nothing that only looks like it."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.provenance import sources
from tersor.ir.text import graph, lines
from tersor.passes.raising.activation.raise_gelu import RaiseGelu
from tersor.tests.support import apply, arithmetic, holds, inside_if, misses

X = {"x": "float[batch, 8]"}
TORCH = "y = (x * 0.5) * (Erf(x / 1.4142135623730951) + 1)"

EXACT = [
    TORCH,
    "y = x * (Erf(x / 1.4142135623730951) + 1) * 0.5",
    "y = x * ((1 + Erf(x / 1.4142135623730951)) * 0.5)",
    "y = (1 + Erf(x * 0.7071067811865476)) * (x / 2)",
    "y = 0.5 * x * (1 + Erf(x / Sqrt(2)))",
    "y = 0.5 * x * (1 - Erf(-x / 1.4142135623730951))",
    "y = x / 2 + x / 2 * Erf(x * 0.7071067811865476)",
]
TANH = [
    "y = x * 0.5 * (Tanh((x + x ** 3 * 0.044715) * 0.7978845608028654) + 1)",
    "y = 0.5 * (x * (1 + Tanh(0.7978845608028654 * (x + 0.044715 * (x * x * x)))))",
    "y = x * (1 + Tanh(x * 0.7978845608028654 * (1 + 0.044715 * (x * x)))) / 2",
]
ALIKE = [
    "y = x * 0.5 * (1 + Erf(1.1 * x / 1.4142135623730951))",
    "y = x * (1 + Erf(x / 1.4142135623730951))",
    "y = x * 0.5 * Erf(x / 1.4142135623730951)",
    "y = 0.5 * (1 + Erf(x / 1.4142135623730951))",
    "y = x * 0.5 * (1 - Erf(x / 1.4142135623730951))",
    "y = x * 0.5 * (1.0001 + Erf(x / 1.4142135623730951))",
    "y = z * 0.5 * (1 + Erf(x / 1.4142135623730951))",
    "y = x * v * (1 + Erf(x / 1.4142135623730951))",
    "y = x * 0.5 * (1 + Erf(x / nan))",
    "y = x * 0.5 * (1 + Erf(my.Div(x, 1.4142135623730951)))",
    "y = x * 0.5 * (1 + my.Abs(Erf(x / 1.4142135623730951)))",
    "y = x * 0.5 * (1 + Tanh(0.7978845608028654 * (x + 0.0447 * x ** 3)))",
    "y = x * 0.5 * (1 + Tanh(0.5 * x))",
    "y = Tanh(x)",
]


def model(formula: str, *more: str, outputs: list[str] | None = None, **inputs: str) -> ir.Model:
    return graph(*arithmetic(formula), *more, inputs=X | inputs, outputs=outputs)


class TestRewrites:
    @pytest.mark.parametrize("formula", EXACT)
    def test_the_exact_form(self, formula: str) -> None:
        assert apply(RaiseGelu(), model(formula)) == ["y = Gelu{approximate=none}(x)"]

    @pytest.mark.parametrize("formula", TANH)
    def test_the_tanh_form(self, formula: str) -> None:
        assert apply(RaiseGelu(), model(formula)) == ["y = Gelu{approximate=tanh}(x)"]

    @pytest.mark.parametrize("dtype", [np.float16, np.float64])
    def test_constants_of_another_precision(self, dtype: type) -> None:
        text = ["a = Div(x, root)", "e = Erf(a)", "p = Add(e, one)", "h = Mul(x, half)", "y = Mul(h, p)"]
        numbers = {"root": dtype(2**0.5), "one": dtype(1), "half": dtype(0.5)}
        made = graph(*text, inputs={"x": f"{'float16' if dtype is np.float16 else 'double'}[4]"}, **numbers)
        assert apply(RaiseGelu(), made) == ["y = Gelu{approximate=none}(x)"]

    def test_inside_a_longer_formula(self) -> None:
        made = model("y = (x - 1) * 3", *arithmetic("z = y * 0.5 * (Erf(y / 1.4142135623730951) + 1)"), "u = Neg(z)")
        assert apply(RaiseGelu(), made)[2:] == ["z = Gelu{approximate=none}(y)", "u = Neg(z)"]

    def test_constants_of_one_element_and_no_more_axes(self) -> None:
        text = [
            "a = Div(x, [1.4142135623730951])",
            "e = Erf(a)",
            "p = Add(e, [1.0])",
            "h = Mul(x, [[0.5]])",
            "y = Mul(h, p)",
        ]
        assert apply(RaiseGelu(), graph(*text, inputs=X)) == ["y = Gelu{approximate=none}(x)"]

    def test_what_others_read_beside_the_cone_stays(self) -> None:
        made = model(TORCH, "z = Neg(y.0)")
        assert [line.split(" = ")[1].split("(")[0] for line in apply(RaiseGelu(), made)] == [
            "Mul",
            "Gelu{approximate=none}",
            "Neg",
        ]

    def test_x_may_have_other_readers(self) -> None:
        made = model(TORCH, "z = Neg(x)")
        assert sorted(apply(RaiseGelu(), made)) == ["y = Gelu{approximate=none}(x)", "z = Neg(x)"]

    def test_half_of_a_product_with_a_cube(self) -> None:
        """GPT-2 halves x first and reads it four times."""
        text = [
            "h = Mul(x, 0.5)", "c = Pow(x, 3.0)", "k = Mul(c, 0.044715)", "s = Add(x, k)",
            "i = Mul(s, 0.7978845608028654)", "t = Tanh(i)", "o = Add(t, 1.0)", "y = Mul(h, o)",
        ]  # fmt: skip
        assert apply(RaiseGelu(), graph(*text, inputs=X)) == ["y = Gelu{approximate=tanh}(x)"]

    def test_in_branches(self) -> None:
        found = apply(RaiseGelu(), inside_if(model(TORCH)))
        assert [line.strip() for line in found if "Gelu" in line] == [
            "y_else = Gelu{approximate=none}(x)",
            "y_then = Gelu{approximate=none}(x)",
        ]

    def test_it_stands_for_all_it_replaced(self) -> None:
        made = model(TORCH)
        names = {node.name for node in made.graph}
        apply(RaiseGelu(), made)
        assert set(sources(made.graph.node(0))) == names


def left_alone(made: ir.Model) -> None:
    (miss,) = misses(RaiseGelu(), made)
    assert (miss.rule, miss.need) == ("function", "0.5 x (1 + erf(x / sqrt 2)) or its tanh approximation")
    before = lines(made)
    assert apply(RaiseGelu(), made) == before


@pytest.mark.parametrize("formula", ALIKE)
def test_leaves_look_alikes_alone(formula: str) -> None:
    others = {"z": "float[batch, 8]", "v": "float[8]"}
    left_alone(
        model(
            formula, **{name: kind for name, kind in others.items() if f"{name} *" in formula or f"* {name}" in formula}
        )
    )


@pytest.mark.parametrize("between", ["y.2", "y.3"])
def test_leaves_alone_a_value_between_that_is_read_elsewhere(between: str) -> None:
    assert {line.split(" = ")[0] for line in arithmetic(TORCH)} > {"y.2", "y.3"}
    left_alone(model(TORCH, f"z = Neg({between})"))
    left_alone(model(TORCH, outputs=["y", between]))


def test_leaves_alone_a_constant_that_adds_axes() -> None:
    """x / [[[c]]] has three axes where x has two, and so has y."""
    text = ["a = Div(x, [[[1.4142135623730951]]])", "e = Erf(a)", "p = Add(e, 1.0)", "h = Mul(x, 0.5)", "y = Mul(h, p)"]
    left_alone(graph(*text, inputs=X))
    left_alone(graph(*text))


@pytest.mark.parametrize("bound", [10.0, 60.0, 200.0])
def test_leaves_alone_what_is_clipped_far_out(bound: float) -> None:
    text = [f"c = Clip(x, _, {bound})", *arithmetic("y = c * 0.5 * (Erf(x / 1.4142135623730951) + 1)")]
    left_alone(graph(*text, inputs=X))


def test_leaves_an_erf_of_another_domain_alone() -> None:
    assert misses(RaiseGelu(), model(TORCH.replace("Erf", "my.Erf"))) == []


def test_a_long_chain_of_squares_is_no_trouble() -> None:
    """Each square reads its operand twice: followed naively, the cone of n squares has 2^n paths."""
    squares = [f"v{i + 1} = Mul(v{i}, v{i})" for i in range(11)]
    made = graph(*squares, "e = Erf(v11)", "y = Mul(e, v0)", inputs={"v0": "float[2]"})
    start = time.process_time()
    left_alone(made)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("formula", EXACT + TANH)
def test_holds(formula: str) -> None:
    holds(RaiseGelu(), model(formula))


def test_holds_in_branches_and_far_out_on_both_tails() -> None:
    holds(RaiseGelu(), inside_if(model(TORCH)))
    holds(RaiseGelu(), model("z = x * 30", *arithmetic("y = z * 0.5 * (Erf(z / 1.4142135623730951) + 1)")))
