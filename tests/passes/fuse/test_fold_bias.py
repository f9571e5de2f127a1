"""Constants added beside linear layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.fuse.fold_bias import FoldBias
from tersor.tests.support import apply, holds, misses

X = {"x": "float[batch, 4]"}
RNG = np.random.default_rng(0)
W, V = RNG.standard_normal((4, 3)).astype(np.float32), RNG.standard_normal((4, 5)).astype(np.float32)
B, U = RNG.standard_normal(3).astype(np.float32), RNG.standard_normal(5).astype(np.float32)
BY_OUTPUT, BY_INPUT = np.array([2.0, -0.5, 4.0], np.float32), np.array([1.0, 2.0, 0.25, -8.0], np.float32)


D0, ONE = np.array([0.0, 2.0, 0.25, -8.0], np.float32), np.array([1.5], np.float32)
G, H = np.array([1.0, 2.0, 3.0, -4.0], np.float32), np.array([0.5, 0.0, -1.0, 2.0], np.float32)
IMAGE, KERNEL = {"x": "float[batch, 2, 3]"}, RNG.standard_normal((3, 2, 2)).astype(np.float32)


def spoilt(number: float) -> np.ndarray:
    """The weight with one number in the row that a zero meets."""
    weight = W.copy()
    weight[0, 1] = number
    return weight


def norm(*text: str, outputs: list[str] | None = None, **more: object) -> ir.Model:
    return model(*text, outputs=outputs, **({"g": G, "h": H} | more))


def model(*text: str, outputs: list[str] | None = None, **more: object) -> ir.Model:
    constants = {"w": W, "v": V, "b": B, "u": U, "c": BY_OUTPUT, "d": BY_INPUT} | more
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    inputs = {name: str(kind) for name, kind in more.items() if isinstance(kind, str)}
    given = {name: value for name, value in constants.items() if name in read and name not in inputs}
    return graph(*text, inputs=X | inputs, outputs=outputs, **given)


BEHIND = ("p = MatMul(x, w)", "a = Add(p, b)", "y = Add(c, a)")
AHEAD = ("s = Add(x, d)", "p = MatMul(s, w)", "y = Add(p, b)", "q = MatMul(s, v)", "z = Add(q, u)")


class TestRewrites:
    def test_behind_a_layer(self) -> None:
        made = model(*BEHIND)
        assert apply(FoldBias(), made) == ["p = MatMul(x, w)", "y = Add(p, y/b)"]
        folded = made.graph.initializers["y/b"].const_value
        np.testing.assert_allclose(np.asarray(folded), B + BY_OUTPUT, rtol=1e-6)

    def test_in_front_of_every_layer_that_reads_it(self) -> None:
        made = model(*AHEAD)
        assert apply(FoldBias(), made) == [
            "y/MatMul = MatMul(x, w)",
            "y = Add(y/MatMul, y/b)",
            "z/MatMul = MatMul(x, v)",
            "z = Add(z/MatMul, z/u)",
        ]
        folded = made.graph.initializers["y/b"].const_value
        np.testing.assert_allclose(np.asarray(folded), B + BY_INPUT @ W, rtol=1e-6)

    def test_one_number(self) -> None:
        assert apply(FoldBias(), model(*BEHIND[:2], "y = Add(a, 1.5)")) == ["p = MatMul(x, w)", "y = Add(p, y/b)"]

    def test_a_normalization(self) -> None:
        made = norm("n = LayerNormalization{epsilon=0.5}(x, g, h)", "y = Add(n, d)")
        assert apply(FoldBias(), made) == ["y = LayerNormalization{epsilon=0.5}(x, g, y/h)"]
        np.testing.assert_array_equal(np.asarray(made.graph.initializers["y/h"].const_value), H + BY_INPUT)

    def test_a_normalization_without_a_bias(self) -> None:
        made = norm("n = LayerNormalization(x, g)", "y = Add(0.5, n)")
        assert apply(FoldBias(), made) == ["y = LayerNormalization(x, g, y/bias)"]

    def test_a_gemm_on_both_sides(self) -> None:
        made = model("s = Add(x, d)", "p = Gemm{transB=1}(s, t, b)", "y = Add(p, c)", t=np.ascontiguousarray(W.T))
        assert apply(FoldBias(), made) == ["y = Gemm{transB=1}(x, t, y/p/b)"]
        folded = np.asarray(made.graph.initializers["y/p/b"].const_value)
        np.testing.assert_allclose(folded, B + BY_INPUT @ W + BY_OUTPUT, rtol=1e-5)

    def test_a_convolution(self) -> None:
        made = graph("a = Conv(x, k)", "y = Add(a, c)", inputs=IMAGE, k=KERNEL, c=BY_OUTPUT[:, None])
        assert apply(FoldBias(), made) == ["y = Conv(x, k, y/bias)"]

    def test_constants_that_nodes_hold(self) -> None:
        made = graph(
            "c = Constant{value_floats=[1.0, 2.0, 3.0]}()", *BEHIND[:2], "y = Add(a, c)", inputs=X, w=W, b=B
        )  # fmt: skip
        assert apply(FoldBias(), made) == ["p = MatMul(x, w)", "y = Add(p, y/b)"]


REFUSED = [
    ("constant", model(*BEHIND[:2], "y = Add(a, m)", m="float[batch, 3]")),
    ("constant", model(*BEHIND[:2], "y = Add(a, inf)")),
    ("constant", model(*BEHIND[:2], "y = Add(a, nan)")),
    ("constant", model(*BEHIND[:2], "y = Add(a, 1e20)")),
    ("width", model(*BEHIND[:2], "y = Add(a, m)", m=np.ones((2, 1, 3), np.float32))),
    ("width", model(*BEHIND[:2], "y = Add(a, m)", m=np.ones((1, 1, 3), np.float32))),
    ("width", graph(*AHEAD[:3], inputs=X, d=BY_INPUT[:, None], w=W, b=B)),
    # 0 * inf, NaN, and what leaves float32
    *(("numbers", graph(*AHEAD[:3], inputs=X, d=D0, w=spoilt(number), b=B)) for number in (np.inf, np.nan, 3e38)),
    ("numbers", model(*BEHIND, b=np.array([np.inf, 0, 0], np.float32))),
    ("numbers", model(*BEHIND, b=np.array([np.nan, 0, 0], np.float32))),
    # x has no axis, and one number of one axis gives it one
    ("broadcast", graph(*AHEAD[:3], inputs={"x": "float[]"}, d=ONE, w=np.ones((1, 3), np.float32), b=B)),
    ("broadcast", graph(*AHEAD[:3], inputs={"x": "float"}, d=ONE, w=np.ones((1, 3), np.float32), b=B)),
    ("broadcast", graph(*AHEAD[:3], inputs={"x": "float[4]"}, d=BY_INPUT[None], w=W, b=B)),
    # a normalization, a Gemm and a convolution
    ("width", norm("n = LayerNormalization(x, g, h)", "y = Add(n, m)", m=np.ones((3, 4), np.float32))),
    ("layers", norm("n = LayerNormalization(x, g, h)", "y = Add(n, d)", "z = Relu(n)")),
    ("layers", norm("n = LayerNormalization(x, g, h)", "y = Add(n, d)", outputs=["y", "n"])),
    ("layers", norm("(n, mean) = LayerNormalization(x, g, h)", "y = Add(n, d)", outputs=["y", "mean"])),
    ("layers", norm("n = LayerNormalization(x, t, h)", "y = Add(n, d)", t="float[4]")),
    ("layers", norm("n = RMSNormalization(x, g)", "y = Add(n, d)")),
    ("layers", norm("s = Add(x, d)", "y = LayerNormalization(s, g, h)")),
    ("layers", graph("a = Gemm{beta=0.5}(x, w, b)", "y = Add(a, c)", inputs=X, w=W, b=B, c=BY_OUTPUT)),
    ("layers", graph("s = Add(x, 1.0)", "y = Gemm{transA=1}(s, w, b)", inputs={"x": "float[4, 2]"}, w=W, b=B)),
    ("layers", graph("s = Add(x, 1.0)", "y = Conv{pads=[1, 1]}(s, k, b)", inputs=IMAGE, k=KERNEL, b=B)),
    ("width", graph("a = Conv(x, k, b)", "y = Add(a, c)", inputs=IMAGE, k=KERNEL, b=B, c=BY_OUTPUT)),
    ("layers", model(*BEHIND, "z = Relu(a)")),
    ("layers", model(*BEHIND, outputs=["y", "a"])),
    ("layers", model("p = MatMul(x, w)", "r = Relu(p)", "y = Add(r, c)")),
    ("layers", model("s = Add(x, d)", "p = MatMul(s, w)", "y = Relu(p)")),
    ("layers", model(*AHEAD, "t = Relu(s)")),
    ("layers", model(*AHEAD, outputs=["y", "z", "s"])),
    ("broadcast", graph(*AHEAD[:3], inputs={"x": "float[batch, 1]"}, d=BY_INPUT, w=W, b=B)),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    assert rule in {miss.rule for miss in misses(FoldBias(), made)}
    before = lines(made)
    assert apply(FoldBias(), made) == before


GEMM = ("s = Add(x, d)", "p = Gemm(s, w, b)", "y = Add(p, c)")
NORM = ("n = LayerNormalization(x, g, h)", "y = Add(n, d)")


@pytest.mark.parametrize("text", [BEHIND, AHEAD, GEMM, NORM, (*BEHIND[:2], "y = Add(a, 1.5)")])
def test_holds(text: tuple[str, ...]) -> None:
    made = norm(*text) if text is NORM else model(*text)
    holds(FoldBias(), made, {"batch": 3})


def test_a_convolution_holds() -> None:
    text = ("a = Conv{pads=[1, 1]}(x, k, b)", "y = Add(a, c)")
    holds(FoldBias(), graph(*text, inputs=IMAGE, k=KERNEL, b=B, c=BY_OUTPUT[:, None]), {"batch": 2})


def test_what_the_user_may_override_is_no_constant() -> None:
    made = model(*BEHIND)
    made.graph.inputs.append(made.graph.initializers["c"])
    assert {miss.rule for miss in misses(FoldBias(), made)} >= {"constant"}
    made = model(*AHEAD[:3])
    made.graph.inputs.append(made.graph.initializers["w"])
    assert {miss.rule for miss in misses(FoldBias(), made)} >= {"layers"}


def test_a_weight_is_read_once_and_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model(*AHEAD[:3])
    reads: list[str] = []
    read = ir.Tensor.numpy
    monkeypatch.setattr(ir.Tensor, "numpy", lambda tensor: reads.append(tensor.name or "") or read(tensor))
    for _ in range(3):
        assert "numbers" not in {miss.rule for miss in misses(FoldBias(), made)}
    assert reads.count("w") == 1
