"""Constant scales beside linear layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.fuse.fold_scale import FoldScale
from tersor.tests.support import apply, holds, inside_if, misses

X = {"x": "float[batch, 4]"}
RNG = np.random.default_rng(0)
W, V = RNG.standard_normal((4, 3)).astype(np.float32), RNG.standard_normal((4, 5)).astype(np.float32)
B = RNG.standard_normal(3).astype(np.float32)
BY_OUTPUT, BY_INPUT = np.array([2.0, -0.5, 4.0], np.float32), np.array([1.0, 2.0, 0.25, -8.0], np.float32)


ONE = np.array([1.5], np.float32)
G, H = np.array([1.0, 2.0, 3.0, -4.0], np.float32), np.array([0.5, 0.0, -1.0, 2.0], np.float32)
IMAGE, KERNEL = {"x": "float[batch, 2, 3]"}, RNG.standard_normal((3, 2, 2)).astype(np.float32)
QKV = dict.fromkeys("qkx", "float[batch, n, 4]")
HEADS = "Attention{kv_num_heads=2, q_num_heads=2}"
WIDE = RNG.standard_normal((4, 4)).astype(np.float32)


def norm(*text: str, outputs: list[str] | None = None, **more: object) -> ir.Model:
    return model(*text, outputs=outputs, **({"g": G, "h": H} | more))


def attention(*text: str, outputs: tuple[str, ...] = ("y",), **inputs: str) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    held = {name: value for name, value in {"d": BY_INPUT, "w": W, "wide": WIDE}.items() if name in read}
    kinds = {name: kind for name, kind in (QKV | inputs).items() if name in read}
    return graph(*text, inputs=kinds, outputs=outputs, **held)


PAST = {"pk": "float[batch, 2, past, 2]", "pv": "float[batch, 2, past, 2]"}
VALUES = ("v = Mul(x, 0.5)", f"a = {HEADS}(q, k, v)", "y = MatMul(a, w)")
ATTENTION_REFUSED: list[tuple[tuple[str, ...], dict[str, object]]] = [
    (("v = Mul(x, 0.5)", f"(a, s, t) = {HEADS}(q, k, v, _, pk, pv)", "y = MatMul(a, w)"), PAST),
    (("v = Mul(x, 0.5)", f"(a, s, t) = {HEADS}(q, k, v)", "y = MatMul(a, w)"), {"outputs": ("y", "t")}),
    (("v = Mul(x, 0.5)", f"a = {HEADS}(q, v, v)", "y = MatMul(a, w)"), {}),
    (("v = Mul(x, 0.5)", f"a = {HEADS}(q, v, k)", "y = MatMul(a, w)"), {}),
    ((*VALUES, "z = Relu(a)"), {"outputs": ("y", "z")}),
    (VALUES, {"outputs": ("y", "a")}),
    (
        ("v = Mul(x, d)", "a = Attention{kv_num_heads=1, q_num_heads=2}(q, k, v)", "y = MatMul(a, u)"),
        {"q": "float[batch, n, 8]", "u": "float[8, 3]"},
    ),
    (
        ("v = Mul(x, d)", "a = Attention(q, k, v)", "y = MatMul(a, w)"),
        dict.fromkeys("qkx", "float[batch, 2, n, 4]"),
    ),
]


def model(*text: str, outputs: list[str] | None = None, **more: object) -> ir.Model:
    constants = {"w": W, "v": V, "b": B, "c": BY_OUTPUT, "d": BY_INPUT} | more
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    inputs = {name: str(kind) for name, kind in more.items() if isinstance(kind, str)}
    given = {name: value for name, value in constants.items() if name in read and name not in inputs}
    return graph(*text, inputs=X | inputs, outputs=outputs, **given)


BEHIND = ("p = MatMul(x, w)", "a = Add(p, b)", "y = Mul(a, c)")
AHEAD = ("s = Mul(x, d)", "y = MatMul(s, w)", "z = MatMul(s, v)")


class TestRewrites:
    def test_behind_a_layer(self) -> None:
        made = model(*BEHIND)
        assert apply(FoldScale(), made) == ["y/MatMul = MatMul(x, y/w)", "y = Add(y/MatMul, y/b)"]
        folded = [made.graph.initializers[name].const_value for name in ("y/w", "y/b")]
        np.testing.assert_allclose(np.asarray(folded[0]), W * BY_OUTPUT, rtol=1e-6)
        np.testing.assert_allclose(np.asarray(folded[1]), B * BY_OUTPUT, rtol=1e-6)

    def test_behind_a_layer_without_a_bias(self) -> None:
        assert apply(FoldScale(), model("p = MatMul(x, w)", "y = Mul(0.5, p)")) == ["y = MatMul(x, y/w)"]

    def test_a_division(self) -> None:
        made = model("p = MatMul(x, w)", "y = Div(p, c)")
        apply(FoldScale(), made)
        folded = made.graph.initializers["y/w"].const_value
        np.testing.assert_allclose(np.asarray(folded), W / BY_OUTPUT, rtol=1e-6)

    def test_in_front_of_every_layer_that_reads_it(self) -> None:
        assert apply(FoldScale(), model(*AHEAD)) == ["y = MatMul(x, y/w)", "z = MatMul(x, z/v)"]

    def test_one_number_in_front(self) -> None:
        assert apply(FoldScale(), model("s = Mul(x, 3.0)", "y = MatMul(s, w)")) == ["y = MatMul(x, y/w)"]

    def test_a_normalization(self) -> None:
        made = norm("n = LayerNormalization{axis=-1}(x, g, h)", "y = Mul(n, d)")
        assert apply(FoldScale(), made) == ["y = LayerNormalization{axis=-1}(x, y/g, y/h)"]
        np.testing.assert_array_equal(np.asarray(made.graph.initializers["y/g"].const_value), G * BY_INPUT)
        np.testing.assert_array_equal(np.asarray(made.graph.initializers["y/h"].const_value), H * BY_INPUT)

    def test_a_normalization_without_a_bias(self) -> None:
        assert apply(FoldScale(), norm("n = RMSNormalization(x, g)", "y = Div(n, 2.0)")) == [
            "y = RMSNormalization(x, y/g)"
        ]

    def test_a_scale_that_several_normalizations_share(self) -> None:
        made = norm("n = RMSNormalization(x, g)", "y = Mul(n, 2.0)", "z = RMSNormalization(y, g)")
        assert apply(FoldScale(), made) == ["y = RMSNormalization(x, y/g)", "z = RMSNormalization(y, g)"]

    def test_a_gemm_on_both_sides(self) -> None:
        made = model("s = Mul(x, d)", "p = Gemm{transB=1}(s, t, b)", "y = Mul(p, c)", t=np.ascontiguousarray(W.T))
        (line,) = apply(FoldScale(), made)
        weight = line.split("(x, ")[1].split(",")[0]
        folded = np.asarray(made.graph.initializers[weight].const_value)
        np.testing.assert_allclose(folded, (BY_INPUT[:, None] * W * BY_OUTPUT).T, rtol=1e-6)

    def test_convolutions(self) -> None:
        made = graph("s = Mul(x, 2.0)", "a = Conv(s, k)", "y = Mul(a, c)", inputs=IMAGE, k=KERNEL, c=BY_OUTPUT[:, None])
        (line,) = apply(FoldScale(), made)
        assert line.startswith("y = Conv(x, ")

    def test_one_number_passes_views_up(self) -> None:
        text = (
            "p = MatMul(x, w)",
            "a = Add(p, b)",
            "r = Reshape(a, [-1, 3, 1])",
            "t = Transpose(r)",
            "y = Mul(t, 0.5)",
        )
        assert apply(FoldScale(), model(*text)) == [
            "y/MatMul = MatMul(x, y/w)",
            "y/Add = Add(y/MatMul, y/b)",
            "y/Reshape = Reshape(y/Add, const_2)",
            "y = Transpose(y/Reshape)",
        ]

    def test_one_number_passes_views_down(self) -> None:
        text = ("s = Mul(x, 0.5)", "r = Reshape(s, [-1, 2, 4])", "y = MatMul(r, w)", "z = MatMul(s, v)")
        assert apply(FoldScale(), model(*text)) == [
            "r = Reshape(x, const_3)",
            "y = MatMul(r, y/w)",
            "z = MatMul(x, z/v)",
        ]

    @pytest.mark.parametrize("factor", ["0.5", "d"])
    def test_the_values_of_attention(self, factor: str) -> None:
        made = attention(f"v = Mul(x, {factor})", *VALUES[1:])
        assert apply(FoldScale(), made) == [f"a = {HEADS}(q, k, x)", "y = MatMul(a, y/w)"]

    @pytest.mark.parametrize("factor", ["0.5", "d"])
    def test_behind_attention(self, factor: str) -> None:
        made = attention("v = MatMul(x, wide)", f"a = {HEADS}(q, k, v)", f"y = Mul(a, {factor})")
        assert apply(FoldScale(), made) == ["y/MatMul = MatMul(x, y/wide)", f"y = {HEADS}(q, k, y/MatMul)"]


TINY = {"x": "float[batch, 1]"}
REFUSED = [
    ("factor", model("p = MatMul(x, w)", "y = Mul(p, m)", m="float[batch, 3]")),
    ("factor", model("p = MatMul(x, w)", "y = Mul(p, inf)")),
    ("factor", model("p = MatMul(x, w)", "y = Mul(p, nan)")),
    ("factor", model("p = MatMul(x, w)", "y = Mul(p, 1e30)")),
    ("factor", model("p = MatMul(x, w)", "y = Div(p, 0.0)")),
    ("factor", model("p = MatMul(x, w)", "y = Div(c, p)")),
    ("width", model("p = MatMul(x, w)", "y = Mul(p, m)", m=np.ones((2, 1, 3), np.float32))),
    ("width", model("p = MatMul(x, w)", "y = Mul(p, m)", m=np.ones((1, 1, 3), np.float32))),
    ("width", model("p = MatMul(x, w)", "y = Mul(p, m)", m=np.ones((3, 1), np.float32))),
    ("broadcast", model("p = MatMul(x, w)", "y = Mul(p, m)", m=np.ones((1, 1, 1), np.float32))),
    # x has no axis, and one number of one axis gives it one
    ("broadcast", graph("s = Mul(x, d)", "y = MatMul(s, w)", inputs={"x": "float[]"}, d=ONE, w=W[:1])),
    ("broadcast", graph("s = Mul(x, d)", "y = MatMul(s, w)", inputs={"x": "float"}, d=ONE, w=W[:1])),
    ("broadcast", graph("s = Mul(x, d)", "y = MatMul(s, w)", inputs={"x": "float"}, d=BY_INPUT, w=W)),
    ("broadcast", graph("s = Mul(x, d)", "y = MatMul(s, w)", inputs={"x": "float[4]"}, d=BY_INPUT[None], w=W)),
    # weights that are none, and what leaves float32
    *(("numbers", model(*BEHIND, w=W * np.float32(by))) for by in (np.inf, np.nan, 1e30, 1e-33)),
    ("numbers", model(*BEHIND, b=np.array([np.inf, 0, 0], np.float32))),
    ("numbers", model("s = Mul(x, 1e12)", "y = MatMul(s, w)", w=W * np.float32(1e20))),
    # normalizations
    ("layers", norm("n = LayerNormalization(x, g, h)", "y = Mul(n, d)", "z = Relu(n)")),
    ("layers", norm("n = LayerNormalization(x, g, h)", "y = Mul(n, d)", outputs=["y", "n"])),
    ("layers", norm("(n, mean) = LayerNormalization(x, g, h)", "y = Mul(n, d)", outputs=["y", "mean"])),
    ("layers", norm("n = LayerNormalization(x, t, h)", "y = Mul(n, d)", t="float[4]")),
    ("layers", norm("n = LayerNormalization(x, g, t)", "y = Mul(n, d)", t="float[4]")),
    ("layers", norm("s = Mul(x, 2.0)", "y = LayerNormalization(s, g, h)")),
    ("width", norm("n = RMSNormalization(x, g)", "y = Mul(n, m)", m=np.ones((3, 4), np.float32))),
    # Gemm and convolutions
    ("width", model("a = Gemm(x, w, b)", "y = Mul(a, m)", m=np.ones((2, 1), np.float32))),
    ("layers", model("a = Gemm(x, w, m)", "y = Mul(a, c)", m=np.ones((2, 1), np.float32))),
    ("width", graph("s = Mul(x, d)", "y = Gemm{transA=1}(s, w)", inputs={"x": "float[4, 2]"}, d=ONE[[0, 0]], w=W)),
    ("width", graph("a = Conv(x, k)", "y = Mul(a, c)", inputs=IMAGE, k=KERNEL, c=BY_OUTPUT)),
    ("width", graph("s = Mul(x, c)", "y = Conv(s, k)", inputs=IMAGE, k=KERNEL, c=BY_OUTPUT[:2, None])),
    # views that somebody else reads, and ops that are not linear
    ("layers", model("p = MatMul(x, w)", "r = Reshape(p, [-1])", "y = Mul(r, 2.0)", "z = Relu(p)")),
    ("layers", model("p = MatMul(x, w)", "r = Reshape(p, [-1])", "y = Mul(r, 2.0)", outputs=["y", "p"])),
    ("layers", model("p = MatMul(x, w)", "r = Gelu(p)", "y = Mul(r, 2.0)")),
    ("layers", model("p = MatMul(x, w)", "r = Transpose(p)", "y = Mul(r, c)")),
    ("layers", model("s = Mul(x, 2.0)", "r = Relu(s)", "y = MatMul(r, w)")),
    ("layers", model("s = Mul(x, 2.0)", "r = Reshape(s, [-1, 4])", "y = MatMul(r, w)", "z = Neg(r)")),
    # Attention with a past, with a cache that is read, of other heads than the queries'
    *(("layers", attention(*text, **more)) for text, more in ATTENTION_REFUSED),
    ("layers", model("p = MatMul(x, w)", "y = Mul(p, c)", "z = Relu(p)")),
    ("layers", model("p = MatMul(x, w)", "y = Mul(p, c)", outputs=["y", "p"])),
    ("layers", model("p = MatMul(x, w)", "r = Relu(p)", "y = Mul(r, c)")),
    ("layers", model("s = Mul(x, d)", "y = MatMul(s, w)", "z = Relu(s)")),
    ("layers", model("s = Mul(x, d)", "y = MatMul(s, w)", outputs=["y", "s"])),
    ("layers", model("s = Mul(x, d)", "y = MatMul(s, w)", "z = MatMul(s, w)")),
    ("layers", model("s = Mul(x, d)", "y = MatMul(s, t)", t="float[4, 3]")),
    ("width", graph("p = MatMul(x, w)", "y = Mul(p, c)", inputs=X, w=np.ones((4, 1), np.float32), c=BY_OUTPUT)),
    ("broadcast", graph("s = Mul(x, d)", "y = MatMul(s, w)", inputs=TINY, d=BY_INPUT, w=W)),
    (
        "factor",
        model("h = Cast{to=10}(x)", "p = MatMul(h, w)", "y = Mul(p, c)", w=W.astype(np.float16), c=np.float16(2)),
    ),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(FoldScale(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(FoldScale(), made) == before


@pytest.mark.parametrize(
    "made",
    [
        *(model(*text) for text in (BEHIND, AHEAD)),
        model("p = MatMul(x, w)", "y = Div(p, c)"),
        model("s = Div(x, d)", "y = MatMul(s, w)"),
        model("s = Mul(x, d)", "p = Gemm{alpha=0.5, beta=2.0}(s, w, b)", "y = Div(p, c)"),
        norm("n = LayerNormalization(x, g, h)", "y = Mul(n, d)"),
        graph(
            "s = Mul(x, 2.0)", "a = Conv{pads=[1, 1]}(s, k, b)", "y = Mul(a, c)",
            inputs=IMAGE, k=KERNEL, b=B, c=BY_OUTPUT[:, None],
        ),
        model("p = MatMul(x, w)", "r = Reshape(p, [-1])", "y = Mul(r, 0.5)"),
        attention(*VALUES),
        attention("v = Mul(x, d)", *VALUES[1:]),
        attention("v = Mul(x, d)", "a = Attention{is_causal=1, kv_num_heads=2, q_num_heads=2, softcap=0.5}(q, k, v)",
                  "y = MatMul(a, w)"),
        attention("v = MatMul(x, wide)", f"a = {HEADS}(q, k, v)", "y = Mul(a, d)"),
    ],
)  # fmt: skip
def test_holds(made: ir.Model) -> None:
    free = {dim.value for value in made.graph.inputs for dim in value.shape or () if isinstance(dim, ir.SymbolicDim)}
    holds(FoldScale(), made, {name: size for name, size in (("batch", 3), ("n", 4)) if name in free})


def test_what_the_user_may_override_is_no_constant() -> None:
    for name, rule in (("c", "factor"), ("w", "layers")):
        made = model("p = MatMul(x, w)", "y = Mul(p, c)")
        made.graph.inputs.append(made.graph.initializers[name])
        assert [miss.rule for miss in misses(FoldScale(), made)] == [rule]


def test_a_layer_outside_a_branch_stays() -> None:
    made = inside_if(model("y = Mul(x, 2.0)"))
    inner = made.graph.node(0)
    assert inner.op_type == "If"
    assert {miss.rule for miss in misses(FoldScale(), made)} == {"layers"}
