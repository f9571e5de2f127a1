"""Constant scales beside linear layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.fuse.fold_scale import FoldScale
from tersor.tests.support import apply, holds, misses

X = {"x": "float[batch, 4]"}
RNG = np.random.default_rng(0)
W, V = RNG.standard_normal((4, 3)).astype(np.float32), RNG.standard_normal((4, 5)).astype(np.float32)
B = RNG.standard_normal(3).astype(np.float32)
BY_OUTPUT, BY_INPUT = np.array([2.0, -0.5, 4.0], np.float32), np.array([1.0, 2.0, 0.25, -8.0], np.float32)


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


TINY = {"x": "float[batch, 1]"}
REFUSED = [
    ("factor", model("p = MatMul(x, w)", "y = Mul(p, m)", m="float[batch, 3]")),
    ("factor", model("p = MatMul(x, w)", "y = Mul(p, inf)")),
    ("factor", model("p = MatMul(x, w)", "y = Mul(p, nan)")),
    ("factor", model("p = MatMul(x, w)", "y = Mul(p, 1e30)")),
    ("factor", model("p = MatMul(x, w)", "y = Div(p, 0.0)")),
    ("factor", model("p = MatMul(x, w)", "y = Div(c, p)")),
    ("factor", model("p = MatMul(x, w)", "y = Mul(p, m)", m=np.ones((2, 1, 3), np.float32))),
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
    "text", [BEHIND, AHEAD, ("p = MatMul(x, w)", "y = Div(p, c)"), ("s = Div(x, d)", "y = MatMul(s, w)")]
)
def test_holds(text: tuple[str, ...]) -> None:
    holds(FoldScale(), model(*text), {"batch": 3})
