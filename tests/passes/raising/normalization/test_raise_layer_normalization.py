"""Layer normalisation by what it computes: every spelling, every precision, and nothing that only looks like it."""

from __future__ import annotations

import time

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.provenance import sources
from tersor.ir.text import graph, lines
from tersor.passes.raising.normalization.raise_layer_normalization import RaiseLayerNormalization
from tersor.tests.support import apply, arithmetic, holds, inside_if, misses

X = {"x": "float[batch, sequence, 8]"}
W = {"w": "float[8]", "b": "float[8]"}
MEAN = "m = ReduceMean(x, [-1])"
CENTRED = [MEAN, "d = Sub(x, m)"]
VARIANCE = [*CENTRED, "q = Mul(d, d)", "v = ReduceMean(q, [-1])"]
UNIT = [*VARIANCE, *arithmetic("u = d / Sqrt(v + 1e-05)")]
WHOLE = ["y = LayerNormalization{axis=-1, epsilon=1e-05}(x, w, b)"]
BARE = ["y = LayerNormalization{axis=-1, epsilon=1e-05}(x, y/ones)"]

SPELLED = {
    "textbook": [*UNIT, *arithmetic("y = u * w + b")],
    "commuted": [*UNIT, *arithmetic("y = b + w * u")],
    "power": [
        *CENTRED, "q = Pow(d, 2.0)", "v = ReduceMean(q, [-1])", *arithmetic("y = d / (v + 1e-05) ** 0.5 * w + b"),
    ],
    "reciprocal root": [*VARIANCE, *arithmetic("y = d * Reciprocal(Sqrt(v + 1e-05)) * w + b")],
    "one over root": [*VARIANCE, *arithmetic("y = d * (1 / Sqrt(v + 1e-05)) * w + b")],
    "negative power": [*VARIANCE, "a = Add(v, 1e-05)", "i = Pow(a, -0.5)", *arithmetic("y = d * i * w + b")],
    "scale first": [*VARIANCE, *arithmetic("y = d * w / Sqrt(1e-05 + v) + b")],
    "scale on the root": [*VARIANCE, *arithmetic("y = d * (w / Sqrt(v + 1e-05)) + b")],
    "subtracted twice": [
        *CENTRED, "e = Sub(x, m)", "q = Mul(e, e)", "v = ReduceMean(q, [-1])",
        *arithmetic("y = d / Sqrt(v + 1e-05) * w + b"),
    ],
    "mean negated": ["m = ReduceMean(x, [-1])", "n = Neg(m)", "d = Add(x, n)", *VARIANCE[2:],
                     *arithmetic("y = d / Sqrt(v + 1e-05) * w + b")],
    "sums": [
        "t = ReduceSum(x, [2])", "m = Mul(t, 0.125)", "d = Sub(x, m)", "q = ReduceSumSquare(d, [2])", "v = Div(q, 8.0)",
        *arithmetic("y = d / Sqrt(v + 1e-05) * w + b"),
    ],
    "kept no axis": [
        "m0 = ReduceMean{keepdims=0}(x, [-1])", "m = Unsqueeze(m0, [-1])", *VARIANCE[1:],
        *arithmetic("y = d / Sqrt(v + 1e-05) * w + b"),
    ],
    "mean folded into the bias": [
        *VARIANCE, *arithmetic("i = w / Sqrt(v + 1e-05)"), *arithmetic("y = x * i + (b - m * i)"),
    ],
    "epsilon of one element": [*VARIANCE, "a = Add(v, [1e-05])", *arithmetic("y = d / Sqrt(a) * w + b")],
}  # fmt: skip


def model(*text: str, **inputs: str) -> ir.Model:
    names = {word.strip(",()") for line in text for word in line.replace("(", " ").split()}
    given = {name: kind for name, kind in W.items() if name in names}
    return graph(*text, inputs=X | given | inputs)


class TestRewrites:
    @pytest.mark.parametrize("text", SPELLED.values(), ids=SPELLED)
    def test_every_spelling(self, text: list[str]) -> None:
        assert apply(RaiseLayerNormalization(), model(*text)) == WHOLE

    def test_without_scale_and_bias(self) -> None:
        assert apply(RaiseLayerNormalization(), model(*VARIANCE, *arithmetic("y = d / Sqrt(v + 1e-05)"))) == BARE

    def test_without_epsilon(self) -> None:
        found = apply(RaiseLayerNormalization(), model(*VARIANCE, *arithmetic("y = d / Sqrt(v)")))
        assert found == ["y = LayerNormalization{axis=-1, epsilon=0.0}(x, y/ones)"]

    @pytest.mark.parametrize("epsilon", [1e-3, 1e-6, 1e-8, 1e-12])
    def test_each_epsilon_is_read_as_it_is(self, epsilon: float) -> None:
        made = model(*VARIANCE, *arithmetic(f"y = d / Sqrt(v + {epsilon}) * w"))
        apply(RaiseLayerNormalization(), made)
        assert np.float32(made.graph.node(0).attributes["epsilon"].as_float()) == np.float32(epsilon)

    def test_epsilon_inside_of_a_sum(self) -> None:
        """d / sqrt(sum(d^2) + 8 epsilon) * sqrt(8)"""
        text = ["q = ReduceSumSquare(d, [-1])", *arithmetic(f"y = d / Sqrt(q + 8e-05) * {8**0.5}")]
        made = model(*CENTRED, *text)
        apply(RaiseLayerNormalization(), made)
        assert made.graph.node(0).op_type == "LayerNormalization"
        assert made.graph.node(0).attributes["epsilon"].as_float() == pytest.approx(1e-5, rel=1e-5)

    def test_several_axes(self) -> None:
        text = [line.replace("[-1]", "[-2, -1]") for line in [*UNIT, *arithmetic("y = u * w + b")]]
        kinds = {"x": "float[batch, 3, 4]", "w": "float[3, 4]", "b": "float[1, 3, 4]"}
        assert apply(RaiseLayerNormalization(), graph(*text, inputs=kinds)) == [
            "y/Reshape = Reshape(b, y/row)",
            "y = LayerNormalization{axis=-2, epsilon=1e-05}(x, w, y/Reshape)",
        ]

    def test_a_computed_scale_and_one_with_axes_of_one(self) -> None:
        kinds = X | {"w": "float[8]", "b": "float[1, 1, 8]"}
        text = [*UNIT, "w1 = Add(w, 1.0)", "g = Mul(u, w1)", "y = Add(g, b)"]
        assert apply(RaiseLayerNormalization(), graph(*text, inputs=kinds)) == [
            "w1 = Add(w, const_3)",
            "y/Reshape = Reshape(b, y/row)",
            "y = LayerNormalization{axis=-1, epsilon=1e-05}(x, w1, y/Reshape)",
        ]

    def test_half_precision_computed_in_float(self) -> None:
        text = [
            "c = Cast{to=float}(x)", *(line.replace("(x,", "(c,") for line in UNIT), "h = Cast{to=float16}(u)",
            *arithmetic("y = h * w + b"),
        ]  # fmt: skip
        kinds = {"x": "float16[batch, 8]", "w": "float16[8]", "b": "float16[8]"}
        assert apply(RaiseLayerNormalization(), graph(*text, inputs=kinds)) == WHOLE

    def test_scale_and_bias_in_float_stay_between_the_casts(self) -> None:
        text = [
            "c = Cast{to=float}(x)", *(line.replace("(x,", "(c,") for line in UNIT), *arithmetic("f = u * w + b"),
            "y = Cast{to=float16}(f)",
        ]  # fmt: skip
        kinds = {"x": "float16[batch, 8]", "w": "float[8]", "b": "float[8]"}
        assert apply(RaiseLayerNormalization(), graph(*text, inputs=kinds)) == [
            "c = Cast{to=1}(x)",
            "f = LayerNormalization{axis=-1, epsilon=1e-05}(c, w, b)",
            "y = Cast{to=10}(f)",
        ]

    def test_constants_in_half_precision(self) -> None:
        """1 / 48 is no float16: the nearest one is what the exporter had to write."""
        text = [
            "t = ReduceSum(x, [-1])", "m = Mul(t, n)", "d = Sub(x, m)", "q = Mul(d, d)", "s = ReduceSum(q, [-1])",
            "v = Mul(s, n)", "a = Add(v, e)", "r = Sqrt(a)", "y = Div(d, r)",
        ]  # fmt: skip
        made = graph(*text, inputs={"x": "float16[2, 48]"}, n=np.float16(1 / 48), e=np.float16(1e-5))
        assert apply(RaiseLayerNormalization(), made) == [
            "y = LayerNormalization{axis=-1, epsilon=1.0013580322265625e-05}(x, y/ones)".replace(
                "1.0013580322265625e-05", str(np.float32(np.float16(1e-5)))
            )
        ]
        assert made.graph.initializers["y/ones"].dtype == ir.DataType.FLOAT16

    def test_a_value_between_that_others_read_ends_it(self) -> None:
        made = model(*UNIT, *arithmetic("y = u * w + b"), "z = Neg(u)")
        found = apply(RaiseLayerNormalization(), made)
        assert found[0] == "u = LayerNormalization{axis=-1, epsilon=1e-05}(x, u/ones)"
        assert len(found) == 4

    def test_the_statistics_stay_where_others_read_them(self) -> None:
        found = apply(RaiseLayerNormalization(), model(*UNIT, *arithmetic("y = u * w + b"), "z = Neg(m)"))
        assert sorted(found) == sorted([MEAN, "z = Neg(m)", *WHOLE]) or "ReduceMean" in found[0]
        assert sum("LayerNormalization" in line for line in found) == 1

    def test_what_is_cast_to_and_fro_is_one_with_the_scale_behind(self) -> None:
        text = ["c = Cast{to=float}(x)", *(line.replace("(x,", "(c,") for line in UNIT), "h = Cast{to=float16}(u)"]
        made = graph(
            *text, "f = Cast{to=float}(h)", "y = Mul(f, w)", inputs={"x": "float16[batch, 8]", "w": "float[8]"}
        )
        assert apply(RaiseLayerNormalization(), made) == [
            "c = Cast{to=1}(x)",
            "y = LayerNormalization{axis=-1, epsilon=1e-05}(c, w)",
        ]

    def test_in_branches(self) -> None:
        found = apply(RaiseLayerNormalization(), inside_if(model(*UNIT, *arithmetic("y = u * w + b"))))
        assert sum("LayerNormalization" in line for line in found) == 2 and len(found) == 5

    def test_it_stands_for_all_it_replaced(self) -> None:
        made = model(*UNIT, *arithmetic("y = u * w + b"))
        names = {node.name for node in made.graph}
        apply(RaiseLayerNormalization(), made)
        assert set(sources(made.graph.node(0))) == names


ALIKE = {
    "no epsilon inside of the root": ("function", [*VARIANCE, *arithmetic("y = d / (Sqrt(v) + 1e-05) * w + b")]),
    "the mean of another value": ("function", [MEAN, "d = Sub(z, m)", *VARIANCE[2:], *arithmetic("y = d / Sqrt(v)")]),
    "the deviation of another value": ("function", [*VARIANCE, *arithmetic("y = z / Sqrt(v + 1e-05)")]),
    "no bias of Bessel": ("function", [*CENTRED, "q = ReduceSumSquare(d, [-1])", *arithmetic("y = d / Sqrt(q / 7)")]),
    "the sum of squares": ("function", [*CENTRED, "q = ReduceSumSquare(d, [-1])", *arithmetic("y = d / Sqrt(q)")]),
    "twice the mean": ("function", [MEAN, *arithmetic("d = x - m * 2"), *VARIANCE[2:], *arithmetic("y = d / Sqrt(v)")]),
    "a cube": ("function", [*CENTRED, "q = Pow(d, 3.0)", "v = ReduceMean(q, [-1])", *arithmetic("y = d / Sqrt(v)")]),
    "the variance itself": ("root", [*VARIANCE, *arithmetic("y = d / (v + 1e-05)")]),
    "nan": ("function", [*VARIANCE, *arithmetic("y = d / Sqrt(v + nan)")]),
    "an epsilon that overflowed": ("function", [*VARIANCE, "a = Add(v, inf)", *arithmetic("y = d / Sqrt(a)")]),
    "no centre": ("function", ["q = Mul(x, x)", "v = ReduceMean(q, [-1])", *arithmetic("y = x / Sqrt(v + 1e-05) * w")]),
    "cancellation": ("cancellation", [
        MEAN, "q = Mul(x, x)", "s = ReduceMean(q, [-1])", *arithmetic("y = (x - m) / Sqrt(s - m * m + 1e-05)"),
    ]),
    "not the last axis": ("axes", [line.replace("[-1]", "[1]") for line in UNIT]),
    "all axes": ("axes", [line.replace("[-1]", "[0, 1, 2]") for line in UNIT]),
    "an axis out of range": ("axes", [line.replace("[-1]", "[5]") for line in UNIT]),
    "other axes of the variance": ("function", [*CENTRED, "q = Mul(d, d)", "v = ReduceMean(q, [1])",
                                                *arithmetic("y = d / Sqrt(v + 1e-05)")]),
    "another op between": ("root", [*VARIANCE, "t = Relu(v)", *arithmetic("y = d / Sqrt(t + 1e-05)")]),
    "another domain": ("root", [*VARIANCE, *arithmetic("y = d / my.Sqrt(v + 1e-05)")]),
    "rounded between": ("root", [*VARIANCE, "t = Floor(v)", *arithmetic("y = d / Sqrt(t + 1e-05)")]),
}  # fmt: skip


def left_alone(made: ir.Model, rule: str) -> None:
    found = misses(RaiseLayerNormalization(), made)
    assert found and rule in {miss.rule for miss in found}, found
    before = lines(made)
    assert apply(RaiseLayerNormalization(), made) == before


@pytest.mark.parametrize("name", ALIKE)
def test_leaves_look_alikes_alone(name: str) -> None:
    rule, text = ALIKE[name]
    other = {"z": X["x"]} if any("z" in line.split("(")[1] for line in text if "(" in line) else {}
    left_alone(model(*text, **other), rule)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("float[batch, sequence, width]", "axes"),
        ("float[batch, sequence, 0]", "width"),
        ("float[batch, sequence, 1]", "width"),
        ("float[8]", "axes"),
        ("float", "axes"),
        ("double[batch, 8]", "dtype"),
    ],
)
def test_leaves_alone_shapes_and_types_that_do_not_do(kind: str, rule: str) -> None:
    text = [*VARIANCE, "a = Add(v, e)", "r = Sqrt(a)", "y = Div(d, r)"]
    dtype = np.float64 if "double" in kind else np.float32
    left_alone(graph(*text, inputs={"x": kind}, e=dtype(1e-5)), rule)


def test_leaves_alone_another_axis_of_known_size() -> None:
    text = [line.replace("[-1]", "[1]") for line in UNIT]
    left_alone(graph(*text, inputs={"x": "float[batch, 3, 8]"}), "axes")


def test_leaves_alone_an_epsilon_that_the_caller_may_override() -> None:
    made = graph(*VARIANCE, "a = Add(v, e)", "r = Sqrt(a)", "y = Div(d, r)", inputs=X, e=np.float32(1e-5))
    made.graph.inputs.append(made.graph.initializers["e"])
    left_alone(made, "function")


@pytest.mark.parametrize("kind", ["float[1]", "float[batch, sequence, 1]", "float[sequence, 8]", "float[batch, 1, 8]"])
def test_a_factor_that_is_no_scale_stays_a_factor(kind: str) -> None:
    found = apply(RaiseLayerNormalization(), graph(*UNIT, "y = Mul(u, f)", inputs=X | {"f": kind}))
    assert found == ["u = LayerNormalization{axis=-1, epsilon=1e-05}(x, u/ones)", "y = Mul(u, f)"]


def test_a_residual_sum_behind_stays() -> None:
    found = apply(RaiseLayerNormalization(), model(*UNIT, *arithmetic("g = u * w + b"), "y = Add(g, x)"))
    assert found == ["g = LayerNormalization{axis=-1, epsilon=1e-05}(x, w, b)", "y = Add(g, x)"]


def test_time_is_bounded_in_dense_arithmetic() -> None:
    text = [f"v{i + 1} = Add(v{i}, v{max(0, i - 1)})" for i in range(200)]
    made = graph(*text, "m = ReduceMean(v200, [-1])", "r = Sqrt(m)", "y = Div(v200, r)", inputs={"v0": "float[2, 8]"})
    start = time.process_time()
    left_alone(made, "function")
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize("text", SPELLED.values(), ids=SPELLED)
def test_holds(text: list[str]) -> None:
    holds(RaiseLayerNormalization(), model(*text))


def test_holds_in_branches_and_beside_epsilon() -> None:
    holds(RaiseLayerNormalization(), inside_if(model(*SPELLED["textbook"])))
    small = ["x0 = Mul(z, 0.003)", *(line.replace("(x,", "(x0,") for line in UNIT), *arithmetic("y = u * w + b")]
    holds(RaiseLayerNormalization(), graph(*small, inputs={"z": X["x"]} | W))
