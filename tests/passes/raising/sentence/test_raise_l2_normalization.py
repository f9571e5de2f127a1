"""Rows over their norms: every spelling, and nothing that only looks like it."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.ir.compare import compare
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.raising.sentence.raise_l2_normalization import RaiseL2Normalization
from tersor.tests.support import apply, arithmetic, holds, inside_if, misses

X = {"x": "float[batch, 8]"}
SQUARES = ["q = Mul(x, x)", "s = ReduceSum(q, [1])"]

SPELLED = {
    "clamped": (["l = ReduceL2(x, [-1])", "m = Max(l, 1e-12)", "y = Div(x, m)"], 1e-12),
    "clamped the other way": (["l = ReduceL2(x, [-1])", "m = Max(1e-12, l)", "y = Div(x, m)"], 1e-12),
    "of torch": (
        ["l = ReduceL2(x, [1])", "m = Clip(l, 1e-12)", "t = Shape(x)", "e = Expand(m, t)", "y = Div(x, e)"], 1e-12,
    ),
    "of tensorflow": ([*SQUARES, "m = Max(s, 1e-12)", "r = Sqrt(m)", "i = Reciprocal(r)", "y = Mul(x, i)"], 1e-6),
    "root of the sum": ([*SQUARES, "r = Sqrt(s)", "m = Clip(r, 1e-05)", "y = Div(x, m)"], 1e-5),
    "a power": (["q = Pow(x, 2.0)", "s = ReduceSum(q, [1])", "r = Pow(s, 0.5)", "y = Div(x, r)"], 0.0),
    "a negative power": (["s = ReduceSumSquare(x, [1])", "r = Pow(s, -0.5)", "y = Mul(x, r)"], 0.0),
    "nothing clamped": (["l = ReduceL2(x, [1])", "y = Div(x, l)"], 0.0),
}  # fmt: skip

ALIKE = {
    "epsilon added": ("function", ["l = ReduceL2(x, [-1])", *arithmetic("y = x / (l + 1e-06)")]),
    "epsilon added under the root": ("function", [*SQUARES, *arithmetic("y = x / Sqrt(s + 1e-06)")]),
    "the mean": ("function", [*SQUARES, *arithmetic("y = x / Sqrt(s / 8)")]),
    "clamped from above": ("function", ["l = ReduceL2(x, [-1])", "m = Clip(l, 1e-12, 5.0)", "y = Div(x, m)"]),
    "clamped from above alone": ("function", ["l = ReduceL2(x, [-1])", "m = Clip(l, _, 1e-12)", "y = Div(x, m)"]),
    "clamped by the caller": ("function", ["l = ReduceL2(x, [-1])", "m = Max(l, e)", "y = Div(x, m)"]),
    "scaled": ("function", ["l = ReduceL2(x, [-1])", *arithmetic("y = x * 2 / l")]),
    "another numerator": ("function", ["l = ReduceL2(x, [-1])", "y = Div(z, l)"]),
    "squared": ("root", [*SQUARES, "y = Div(x, s)"]),
    "a bound on what is divided": ("function", ["c = Max(x, -10000.0)", "l = ReduceL2(x, [-1])", "y = Div(c, l)"]),
    "nan": ("function", ["l = ReduceL2(x, [-1])", "m = Max(l, nan)", "y = Div(x, m)"]),
    "infinity": ("function", ["l = ReduceL2(x, [-1])", "m = Max(l, inf)", "y = Div(x, m)"]),
    "another axis": ("axes", ["l = ReduceL2(x, [0])", "y = Div(x, l)"]),
    "all axes": ("axes", ["l = ReduceL2(x, [0, 1])", "y = Div(x, l)"]),
    "stretched to more rows": ("function", ["l = ReduceL2(x, [-1])", "e = Expand(l, [5, 8])", "y = Div(x, e)"]),
    "stretched to another shape": (
        "function", ["l = ReduceL2(x, [-1])", "e = Expand(l, [3, 4, 8])", "y = Div(x, e)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELLED)
def test_every_spelling(name: str) -> None:
    text, epsilon = SPELLED[name]
    made = graph(*text, inputs=X)
    (line,) = apply(RaiseL2Normalization(), made)
    assert line.startswith("y = tersor.L2Normalization{")
    assert made.graph.node(0).attributes["epsilon"].as_float() == pytest.approx(epsilon, rel=1e-5)
    holds(RaiseL2Normalization(), graph(*text, inputs=X))


@pytest.mark.parametrize("scale", [1e-4, 1e-6, 1e-13])
@pytest.mark.parametrize("name", ["clamped", "root of the sum"])
def test_holds_on_both_sides_of_epsilon(name: str, scale: float) -> None:
    made = graph(*SPELLED[name][0], inputs=X)
    after = made.clone()
    RaiseL2Normalization().apply(after, Context())
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32) * np.float32(scale)
    assert compare(made, after, {"x": x}).within(1e-5)


@pytest.mark.parametrize("name", ALIKE)
def test_leaves_look_alikes_alone(name: str) -> None:
    rule, text = ALIKE[name]
    kinds = {"z": X["x"], "e": "float[1]"}
    used = {key: kind for key, kind in kinds.items() if any(f"({key}," in line or f" {key})" in line for line in text)}
    defined = {line.split(" = ")[0] for line in text}
    made = graph(*text, inputs=X | {key: kind for key, kind in used.items() if key not in defined})
    assert rule in {miss.rule for miss in misses(RaiseL2Normalization(), made)}
    before = lines(made)
    assert apply(RaiseL2Normalization(), made) == before


@pytest.mark.parametrize(
    ("kind", "rule"),
    [("float[batch, width]", "axes"), ("float[batch, 0]", "width"), ("float", "axes"), ("float16[batch, 8]", "dtype")],
)
def test_leaves_alone_shapes_and_types_that_do_not_do(kind: str, rule: str) -> None:
    made = graph("l = ReduceL2(x, [-1])", "y = Div(x, l)", inputs={"x": kind})
    assert [miss.rule for miss in misses(RaiseL2Normalization(), made)] == [rule]


@pytest.mark.parametrize(("kind", "axes"), [("float[3, 8]", "[0]"), ("float[batch, 3, 8]", "[1, 2]")])
def test_leaves_alone_norms_of_more_or_other_than_rows(kind: str, axes: str) -> None:
    made = graph(f"l = ReduceL2(x, {axes})", "m = Max(l, 1e-12)", "y = Div(x, m)", inputs={"x": kind})
    assert [miss.rule for miss in misses(RaiseL2Normalization(), made)] == ["axes"]


def test_in_branches() -> None:
    made = inside_if(graph(*SPELLED["clamped"][0], inputs=X))
    holds(RaiseL2Normalization(), made)
    assert sum("L2Normalization" in line for line in apply(RaiseL2Normalization(), made)) == 2
