"""What depends on constants alone."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.clean.fold_constants import FoldConstants
from tersor.passes.edit import constant_of
from tersor.tests.support import apply, holds, inside_if, parse

X = {"x": "float[n, 4]"}
W = np.arange(8, dtype=np.float32).reshape(2, 4)


class TestRewrites:
    def test_arithmetic(self) -> None:
        model = graph("s = Add(p, q)", "t = Mul(s, s)", "y = Mul(x, t)", inputs=X, p=2.0, q=1.0)
        assert apply(FoldConstants(), model) == ["y = Mul(x, t)"]
        assert constant_of(model.graph.initializers["t"]) == 9.0

    def test_a_transposed_weight(self) -> None:
        model = graph("v = Transpose{perm=[1, 0]}(w)", "y = MatMul(x, v)", inputs=X, w=W)
        assert apply(FoldConstants(), model) == ["y = MatMul(x, v)"]
        np.testing.assert_array_equal(constant_of(model.graph.initializers["v"]), W.T)
        assert list(model.graph.initializers) == ["v"]

    def test_constant_nodes_become_initializers(self) -> None:
        model = parse("g (float[2] x) => (float[2] y) { c = Constant <value_float = 3.0> () y = Mul (x, c) }")
        assert apply(FoldConstants(), model) == ["y = Mul(x, c)"]
        assert constant_of(model.graph.initializers["c"]) == 3.0

    def test_a_small_expansion(self) -> None:
        model = graph("m = ConstantOfShape([2, 4])", "y = Add(x, m)", inputs=X)
        assert apply(FoldConstants(), model) == ["y = Add(x, m)"]

    def test_in_branches(self) -> None:
        model = inside_if(graph("s = Add(p, q)", "y = Mul(x, s)", inputs=X, p=2.0, q=1.0))
        assert not any("Add" in line for line in apply(FoldConstants(), model))

    def test_the_layout_of_a_weight_is_a_view_of_it(self) -> None:
        weight = np.ones((64, 8), np.float32)
        model = graph(
            "v = Transpose{perm=[1, 0]}(w)",
            "r = Reshape(v, [4, -1, 64])",
            "y = MatMul(x, r)",
            inputs={"x": "float[4, 2]"},
            w=weight,
        )
        stored = model.graph.initializers["w"].const_value
        assert stored is not None
        assert apply(FoldConstants(), model) == ["y = MatMul(x, r)"]
        folded = constant_of(model.graph.initializers["r"])
        assert folded is not None and folded.shape == (4, 2, 64)
        assert np.shares_memory(folded, stored.numpy())

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            (["s = Shape(x)", "k = Gather(s, 1)"], 4),
            (["s = Shape(x)", "k = Slice(s, [1], [2])"], [4]),
            (["s = Shape(x)", "m = Mul(s, 12)", "d = Div(m, s)", "k = Gather(d, 0)"], 12),
            (["k = Shape{start=1}(x)"], [4]),
            (["k = Div([-7, 7], [2, -2])"], [-3, -3]),
        ],
    )
    def test_shape_arithmetic_whose_numbers_are_known(self, text: list[str], wanted: object) -> None:
        model = graph(*text, "y = Reshape(x, k)", inputs=X)
        assert apply(FoldConstants(), model) == ["y = Reshape(x, k)"]
        np.testing.assert_array_equal(constant_of(model.graph.initializers["k"]), wanted)

    def test_it_counts_the_nodes_that_went(self) -> None:
        model = graph("s = Add(p, q)", "t = Mul(s, s)", "y = Mul(x, t)", inputs=X, p=2.0, q=1.0)
        assert FoldConstants().apply(model, Context()).matches == 2
        assert FoldConstants().apply(model, Context()).matches == 0


HALF = np.linspace(-2, 2, 512 * 1024, dtype=np.float16).reshape(512, 1024)
ROW = np.linspace(1, 2, 1024, dtype=np.float16)
DEFERRED = {
    "cast": (["v = Cast{to=1}(w)"], lambda: HALF.astype(np.float32)),
    "cast down": (["a = Cast{to=1}(w)", "v = Cast{to=10}(a)"], lambda: HALF),
    "product": (["v = Mul(w, r)"], lambda: HALF * ROW),
    "sum": (["v = Add(w, w)"], lambda: HALF + HALF),
    "quotient": (["v = Div(w, r)"], lambda: HALF / ROW),
    "difference": (["v = Sub(w, r)"], lambda: HALF - ROW),
    "concatenation": (["v = Concat{axis=-2}(w, w)"], lambda: np.concatenate([HALF, HALF])),
    "layouts of what is computed": (
        ["c = Cast{to=1}(w)", "t = Transpose{perm=[1, 0]}(c)", "u = Unsqueeze(t, [0])", "v = Reshape(u, [-1, 512])"],
        lambda: HALF.T.astype(np.float32),
    ),
}


def folded(*text: str) -> ir.Model:
    """One application to these lines and `y = Mul(x, v)`."""
    known = {"w": HALF} | ({"r": ROW} if any("r)" in line for line in text) else {})
    model = graph(*text, "y = Mul(x, v)", inputs={"x": "float"}, **known)
    FoldConstants().apply(model, Context())
    return model


class TestDefers:
    @pytest.mark.parametrize("case", DEFERRED)
    def test_large_results_until_they_are_read(self, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
        text, wanted = DEFERRED[case]
        with monkeypatch.context() as unread:
            unread.setattr(ir.LazyTensor, "_evaluate", None)
            model = folded(*text)
        assert lines(model) == ["y = Mul(x, v)"]
        tensor = model.graph.initializers["v"].const_value
        assert isinstance(tensor, ir.LazyTensor)
        found = tensor.numpy()
        assert (found.dtype, found.shape) == (wanted().dtype, wanted().shape) == (tensor.dtype.numpy(), tensor.shape)
        np.testing.assert_array_equal(found, wanted())

    def test_the_same_twice_is_one(self) -> None:
        model = folded(
            "a = Cast{to=1}(w)",
            "b = Cast{to=1}(w)",
            "c = Cast{to=11}(w)",
            "t = MatMul(a, x)",
            "v = MatMul(t, b)",
            "u = MatMul(v, c)",
        )
        assert sorted(model.graph.initializers) == ["a", "c"]

    @pytest.mark.parametrize("size", [8, 1 << 10])
    def test_what_is_small_is_computed(self, size: int) -> None:
        model = graph("v = Cast{to=1}(w)", "y = Mul(x, v)", inputs={"x": "float[n]"}, w=np.ones(size, np.float16))
        FoldConstants().apply(model, Context())
        assert not isinstance(model.graph.initializers["v"].const_value, ir.LazyTensor)

    @pytest.mark.parametrize(
        "text",
        [
            ["v = Cast{to=6}(w)"],
            ["v = Add(w, [1.0, 2.0, 3.0])"],
            ["c = Cast{to=1}(w)", "v = Reshape(c, [7, -1])"],
            ["v = Concat{axis=2}(w, w)"],
            ["v = Concat{axis=0}(w, r)"],
        ],
    )
    def test_what_is_not_certain_is_computed_or_left_alone(self, text: list[str]) -> None:
        model = folded(*text)
        assert not any(
            isinstance(value.const_value, ir.LazyTensor) for value in [model.graph.initializers.get("v")] if value
        )

    def test_what_contradicts_its_annotation_stays(self) -> None:
        model = graph("v = Cast{to=1}(w)", "y = Mul(x, v)", inputs={"x": "float[n]"}, w=HALF)
        model.graph.node(0).outputs[0].shape = ir.Shape([5])
        assert apply(FoldConstants(), model) == ["v = Cast{to=1}(w)", "y = Mul(x, v)"]


class TestLeavesAlone:
    @pytest.mark.parametrize(
        "text",
        [
            ["t = Add(x, p)", "y = Neg(t)"],
            ["d = DequantizeLinear{axis=1}(q, s)", "y = MatMul(x, d)"],
            ["m = Expand(p, [64, 64])", "y = MatMul(x, m)"],
            ["m = ConstantOfShape([64, 64])", "y = MatMul(x, m)"],
            ["r = RandomNormal{shape=[4]}()", "y = Add(x, r)"],
        ],
    )
    def test_what_is_computed_stored_small_or_random(self, text: list[str]) -> None:
        model = graph(*text, inputs={"x": "float[n, 64]"}, p=1.0, q=np.ones((64, 4), np.int8), s=np.ones(4, np.float32))
        assert [line.split(" = ")[1].split("(")[0] for line in apply(FoldConstants(), model)] == [
            line.split(" = ")[1].split("(")[0] for line in text
        ]

    def test_a_default_that_the_caller_may_override(self) -> None:
        model = graph("t = Add(p, q)", "y = Mul(x, t)", inputs={**X, "p": "float[]"}, q=1.0)
        value = next(value for value in model.graph.inputs if value.name == "p")
        value.const_value = ir.tensor(np.float32(2.0), name="p")
        model.graph.register_initializer(value)
        before = lines(model)
        assert apply(FoldConstants(), model) == before

    @pytest.mark.parametrize(
        "text",
        [
            ["s = Shape(x)", "k = Gather(s, 0)", "y = Reshape(x, k)"],
            ["k = Div([1, 2], [0, 1])", "y = Reshape(x, k)"],
            ["y = Add(p, p)"],
            ["k = my.Twice(p)", "y = Mul(x, k)"],
        ],
    )
    def test_what_is_not_known_or_is_an_output(self, text: list[str]) -> None:
        model = graph(*text, inputs=X, **({"p": 2.0} if any("p" in line.split("(")[-1] for line in text) else {}))
        before = lines(model)
        assert apply(FoldConstants(), model) == before

    def test_what_contradicts_its_annotation(self) -> None:
        model = graph("s = Add(p, p)", "y = Mul(x, s)", inputs=X, p=[1.0, 2.0, 3.0, 4.0])
        model.graph.node(0).outputs[0].shape = ir.Shape([5])
        assert apply(FoldConstants(), model) == ["s = Add(p, p)", "y = Mul(x, s)"]

    def test_results_over_the_limit(self) -> None:
        model = graph("v = Add(w, w)", "y = Mul(x, v)", "z = Div(x, w)", inputs=X, w=W[0])
        assert apply(FoldConstants(limit=3), model)[0] == "v = Add(w, w)"


@pytest.mark.parametrize(
    "model",
    [
        graph("s = Add(p, q)", "t = Exp(s)", "v = Transpose(w)", "z = MatMul(x, v)", "y = Mul(z, t)",
              inputs=X, w=W, p=2.0, q=1.0),
        graph("s = Shape(x)", "c = Cast{to=float}(p)", "k = Sqrt(c)", "y = Div(x, k)", inputs=X, p=32),
        inside_if(graph("s = Add(p, q)", "y = Mul(x, s)", inputs=X, p=2.0, q=1.0)),
    ],
)  # fmt: skip
def test_holds(model: ir.Model) -> None:
    holds(FoldConstants(), model)
