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


REFUSED = [
    ("constant", model(*BEHIND[:2], "y = Add(a, m)", m="float[batch, 3]")),
    ("constant", model(*BEHIND[:2], "y = Add(a, inf)")),
    ("constant", model(*BEHIND[:2], "y = Add(a, nan)")),
    ("constant", model(*BEHIND[:2], "y = Add(a, m)", m=np.ones((2, 1, 3), np.float32))),
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


@pytest.mark.parametrize("text", [BEHIND, AHEAD, (*BEHIND[:2], "y = Add(a, 1.5)")])
def test_holds(text: tuple[str, ...]) -> None:
    holds(FoldBias(), model(*text), {"batch": 3})
