"""Root mean square normalisation by what it computes: every spelling, and nothing that only looks like it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.normalization.raise_rms_normalization import RaiseRmsNormalization
from tersor.passes.raising.normalization.rows import reduced
from tersor.tests.support import apply, arithmetic, holds, inside_if, misses

X = {"x": "float[batch, sequence, 8]"}
W = {"w": "float[8]"}
SQUARES = ["q = Mul(x, x)", "v = ReduceMean(q, [-1])"]
WHOLE = ["y = RMSNormalization{axis=-1, epsilon=1e-06}(x, w)"]
BARE = ["y = RMSNormalization{axis=-1, epsilon=1e-06}(x, y/ones)"]

SPELLED = {
    "root": [*SQUARES, *arithmetic("y = x / Sqrt(v + 1e-06) * w")],
    "reciprocal root": [*SQUARES, *arithmetic("y = w * (x * Reciprocal(Sqrt(v + 1e-06)))")],
    "power": ["q = Pow(x, 2.0)", "v = ReduceMean(q, [-1])", *arithmetic("y = x / (v + 1e-06) ** 0.5 * w")],
    "sum": ["s = ReduceSumSquare(x, [-1])", *arithmetic("y = x / Sqrt(s * 0.125 + 1e-06) * w")],
    "sum over n": ["s = ReduceSumSquare(x, [-1])", *arithmetic("y = x / Sqrt(s / 8 + 1e-06) * w")],
    "norm": ["l = ReduceL2(x, [-1])", *arithmetic("y = x / Sqrt(l * l / 8 + 1e-06) * w")],
    "root of n outside": [
        "s = ReduceSumSquare(x, [-1])", *arithmetic("y = x / Sqrt(s + 8e-06) * 2.8284271247461903 * w"),
    ],
    "scale on the root": [*SQUARES, *arithmetic("y = x * (w / Sqrt(v + 1e-06))")],
}  # fmt: skip


class TestRewrites:
    @pytest.mark.parametrize("text", SPELLED.values(), ids=SPELLED)
    def test_every_spelling(self, text: list[str]) -> None:
        assert apply(RaiseRmsNormalization(), graph(*text, inputs=X | W)) == WHOLE

    def test_without_a_scale(self) -> None:
        text = [*SQUARES, *arithmetic("y = x / Sqrt(v + 1e-06)")]
        assert apply(RaiseRmsNormalization(), graph(*text, inputs=X)) == BARE

    def test_norm_without_epsilon(self) -> None:
        text = ["l = ReduceL2(x, [-1])", *arithmetic("y = x / l * 2.8284271247461903")]
        found = apply(RaiseRmsNormalization(), graph(*text, inputs=X))
        assert found == ["y = RMSNormalization{axis=-1, epsilon=0.0}(x, y/ones)"]

    def test_gemma_scales_by_one_more_than_its_weight(self) -> None:
        text = [*SQUARES, *arithmetic("n = x / Sqrt(v + 1e-06)"), "w1 = Add(w, 1.0)", "y = Mul(n, w1)"]
        found = apply(RaiseRmsNormalization(), graph(*text, inputs=X | W))
        assert found[1:] == ["y = RMSNormalization{axis=-1, epsilon=1e-06}(x, w1)"]

    def test_a_scaled_input_is_what_is_normalized(self) -> None:
        text = ["x = Mul(e, 2.8284271247461903)", *SQUARES, *arithmetic("y = x / Sqrt(v + 1e-06) * w")]
        found = apply(RaiseRmsNormalization(), graph(*text, inputs={"e": X["x"]} | W))
        assert found == ["x = Mul(e, const_0)", *WHOLE]

    @pytest.mark.parametrize("cast", ["before", "after"])
    def test_half_precision_computed_in_float(self, cast: str) -> None:
        """Llama scales after going back to half precision, Gemma before."""
        norm = ["q = Mul(c, c)", "v = ReduceMean(q, [-1])", *arithmetic("n = c / Sqrt(v + 1e-06)")]
        tail = ["h = Cast{to=float16}(n)", "y = Mul(w, h)"] if cast == "before" else [
            "g = Mul(n, w)", "y = Cast{to=float16}(g)"
        ]  # fmt: skip
        weight = "float16[8]" if cast == "before" else "float[8]"
        made = graph("c = Cast{to=float}(x)", *norm, *tail, inputs={"x": "float16[2, 8]", "w": weight})
        assert apply(RaiseRmsNormalization(), made) == (
            WHOLE
            if cast == "before"
            else [
                "c = Cast{to=1}(x)",
                "g = RMSNormalization{axis=-1, epsilon=1e-06}(c, w)",
                "y = Cast{to=10}(g)",
            ]
        )

    def test_constants_in_half_precision(self) -> None:
        text = ["q = Mul(x, x)", "s = ReduceSum(q, [-1])", "v = Mul(s, n)", "r = Sqrt(v)", "y = Div(x, r)"]
        made = graph(*text, inputs={"x": "float16[2, 48]"}, n=np.float16(1 / 48))
        assert apply(RaiseRmsNormalization(), made) == ["y = RMSNormalization{axis=-1, epsilon=0.0}(x, y/ones)"]
        assert made.graph.initializers["y/ones"].dtype == ir.DataType.FLOAT16

    def test_heads(self) -> None:
        """Queries and keys are normalised in heads, and stay read by others."""
        kinds = {"x": "float[batch, heads, sequence, 8]"} | W
        found = apply(RaiseRmsNormalization(), graph(*SPELLED["root"], "z = Neg(x)", inputs=kinds))
        assert sorted(found) == sorted([*WHOLE, "z = Neg(x)"])

    def test_in_branches(self) -> None:
        found = apply(RaiseRmsNormalization(), inside_if(graph(*SPELLED["root"], inputs=X | W)))
        assert sum("RMSNormalization" in line for line in found) == 2 and len(found) == 5


ALIKE = {
    "the norm": ("function", ["l = ReduceL2(x, [-1])", "y = Div(x, l)"]),
    "a clamp": ("root", ["l = ReduceSumSquare(x, [-1])", "m = Max(l, 1e-12)", "r = Sqrt(m)", "y = Div(x, r)"]),
    "a clamped norm": ("function", ["l = ReduceL2(x, [-1])", "m = Max(l, 1e-12)", "y = Div(x, m)"]),
    "another n": ("function", ["s = ReduceSumSquare(x, [-1])", *arithmetic("y = x / Sqrt(s / 9 + 1e-06)")]),
    "nearly n": ("function", ["s = ReduceSumSquare(x, [-1])", *arithmetic("y = x / Sqrt(s / 8.001 + 1e-06)")]),
    "epsilon outside": ("function", [*SQUARES, *arithmetic("y = x / (Sqrt(v) + 1e-06)")]),
    "another numerator": ("function", [*SQUARES, *arithmetic("y = z / Sqrt(v + 1e-06)")]),
    "the mean of x": ("function", ["v = ReduceMean(x, [-1])", *arithmetic("y = x / Sqrt(v + 1e-06)")]),
    "no square": ("function", ["q = Pow(x, 4.0)", "v = ReduceMean(q, [-1])", *arithmetic("y = x / Sqrt(v + 1e-06)")]),
    "layer normalisation": ("function", ["m = ReduceMean(x, [-1])", "d = Sub(x, m)", "q = Mul(d, d)",
                                         "v = ReduceMean(q, [-1])", *arithmetic("y = d / Sqrt(v + 1e-06)")]),
    "another axis": ("axes", ["q = Mul(x, x)", "v = ReduceMean(q, [1])", *arithmetic("y = x / Sqrt(v + 1e-06)")]),
    "computed axes": ("axes", ["q = Mul(x, x)", "v = ReduceMean(q, a)", *arithmetic("y = x / Sqrt(v + 1e-06)")]),
    "epsilon of the caller": ("function", [*SQUARES, *arithmetic("y = x / Sqrt(v + e)")]),
    "a row of epsilons": ("function", [*SQUARES, *arithmetic("y = x / Sqrt(v + w)")]),
    "an epsilon for each row": ("function", [
        *SQUARES, "e1 = Unsqueeze(rows, [-1])", *arithmetic("y = x / Sqrt(v + e1)"),
    ]),
    "rounded to integers": ("function", [
        *SQUARES, "t = Cast{to=int64}(v)", "f = Cast{to=float}(t)", *arithmetic("y = x / Sqrt(f + 1e-06)"),
    ]),
    "nan": ("function", [*SQUARES, *arithmetic("y = x / Sqrt(v * nan + 1e-06)")]),
    "the inverse": ("function", [*SQUARES, *arithmetic("y = x * Sqrt(v + 1e-06)")]),
    "another domain": ("axes", ["q = my.Mul(x, x)", "v = ReduceMean(q, [-1])", *arithmetic("y = x / Sqrt(v)")]),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIKE)
def test_leaves_look_alikes_alone(name: str) -> None:
    rule, text = ALIKE[name]
    kinds = X | {"z": X["x"], "e": "float[1]", "w": "float[8]", "a": "int64[1]", "rows": "float[batch, sequence]"}
    used = {key: kind for key, kind in kinds.items() if any(f"({key}," in line or f" {key})" in line for line in text)}
    made = graph(*text, inputs=used)
    assert rule in {miss.rule for miss in misses(RaiseRmsNormalization(), made)}
    before = lines(made)
    assert apply(RaiseRmsNormalization(), made) == before


def test_a_scale_of_no_sign_is_not_its_own_root() -> None:
    text = [*SQUARES, *arithmetic("n = x / Sqrt(v + 1e-06)"), "s = Mul(w, w)", "r = Sqrt(s)", "y = Mul(n, r)"]
    assert apply(RaiseRmsNormalization(), graph(*text, inputs=X | W))[-1] == "y = Mul(n, r)"


def test_leaves_alone_another_axis_of_known_size() -> None:
    text = [line.replace("[-1]", "[1]") for line in SPELLED["root"][:-1]]
    made = graph(*text, inputs={"x": "float[batch, 3, 8]"})
    assert [miss.rule for miss in misses(RaiseRmsNormalization(), made)] == ["axes"]


@pytest.mark.parametrize(
    ("kind", "rule"),
    [("float[batch, width]", "axes"), ("float[batch, 0]", "width"), ("float", "axes"), ("double[batch, 8]", "dtype")],
)
def test_leaves_alone_shapes_and_types_that_do_not_do(kind: str, rule: str) -> None:
    made = graph(*SQUARES, "a = Sqrt(v)", "y = Div(x, a)", inputs={"x": kind})
    (miss,) = misses(RaiseRmsNormalization(), made)
    assert miss.rule == rule


def test_leaves_alone_means_whose_place_is_computed() -> None:
    """Exporters may declare the shape of what they compute; where the axis of the means goes is not known for that."""
    text = ["q = Mul(x, x)", "v0 = ReduceMean{keepdims=0}(q, [-1])", "v = Unsqueeze(v0, a)"]
    made = graph(*text, *arithmetic("y = x / Sqrt(v + 1e-06)"), inputs={"x": "float[8, 8]", "a": "int64[1]"})
    made.graph.outputs[0].shape = ir.Shape([8, 8])
    (miss,) = misses(RaiseRmsNormalization(), made)
    assert miss.rule == "function"


def test_axes_out_of_range_are_none_of_it() -> None:
    assert reduced(graph("v = ReduceMean(x, [5])", inputs=X).graph.node(0)) is None


@pytest.mark.parametrize("text", SPELLED.values(), ids=SPELLED)
def test_holds(text: list[str]) -> None:
    holds(RaiseRmsNormalization(), graph(*text, inputs=X | W))


def test_holds_in_branches_and_beside_epsilon() -> None:
    holds(RaiseRmsNormalization(), inside_if(graph(*SPELLED["root"], inputs=X | W)))
    text = ["x = Mul(z, 0.001)", *SPELLED["root"]]
    holds(RaiseRmsNormalization(), graph(*text, inputs={"z": X["x"]} | W))
