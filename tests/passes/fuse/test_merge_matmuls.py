"""Several linear layers of one activation as one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.fuse.merge_matmuls import MergeMatMuls
from tersor.tests.support import apply, holds, inside_if, misses

X = {"x": "float[batch, sequence, 4]"}
OUTER = {"y": "float[batch, sequence, 4]"}


def weights(seed: int = 0, **widths: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal((4, width) if name.startswith("w") else (width,)).astype(np.float32)
        for name, width in widths.items()
    }


PLAIN = ("a = MatMul(x, wa)", "b = MatMul(x, wb)")
BIASED = ("pa = MatMul(x, wa)", "a = Add(pa, ba)", "pb = MatMul(x, wb)", "b = Add(bb, pb)")


class TestRewrites:
    def test_two_layers(self) -> None:
        made = graph(*PLAIN, inputs=X, **weights(wa=3, wb=5))
        assert apply(MergeMatMuls(), made) == [
            "a/MatMul = MatMul(x, a/weight)",
            "(a, b) = Split{axis=-1}(a/MatMul, a/widths)",
        ]
        merged = made.graph.initializers["a/weight"].const_value
        assert merged is not None
        wa, wb = weights(wa=3, wb=5).values()
        np.testing.assert_array_equal(merged.numpy(), np.concatenate([wa, wb], axis=1))

    def test_with_their_biases(self) -> None:
        made = graph(*BIASED, inputs=X, **weights(wa=3, wb=5, ba=3, bb=5))
        assert apply(MergeMatMuls(), made) == [
            "a/MatMul = MatMul(x, a/weight)",
            "a/Add = Add(a/MatMul, a/bias)",
            "(a, b) = Split{axis=-1}(a/Add, a/widths)",
        ]

    def test_biases_stay_where_not_every_layer_has_one(self) -> None:
        made = graph(*BIASED[:2], PLAIN[1], inputs=X, **weights(wa=3, wb=5, ba=3))
        assert [line.split("(")[0] for line in apply(MergeMatMuls(), made)][-1] == "a = Add"

    def test_three_layers_between_other_nodes(self) -> None:
        made = graph(PLAIN[0], "r = Relu(a)", PLAIN[1], "c = MatMul(x, wc)", inputs=X, **weights(wa=3, wb=5, wc=4))
        found = apply(MergeMatMuls(), made)
        assert sum("MatMul" in line.split(" = ")[1] for line in found) == 2  # the product and the Split that reads it

    def test_up_to_a_width(self) -> None:
        made = graph(*PLAIN, "c = MatMul(x, wc)", inputs=X, **weights(wa=3, wb=5, wc=4))
        found = apply(MergeMatMuls(most=8), made)
        assert [line.split(" = ")[0] for line in found] == ["a/MatMul", "(a, b)", "c"]

    def test_in_groups_that_fit(self) -> None:
        more = ("c = MatMul(x, wc)", "d = MatMul(x, wd)")
        made = graph(*PLAIN, *more, inputs=X, **weights(wa=7, wb=5, wc=3, wd=1))
        found = apply(MergeMatMuls(most=8), made)
        assert [line.split(" = ")[0] for line in found] == ["a/MatMul", "(a, d)", "b/MatMul", "(b, c)"]
        assert apply(MergeMatMuls(most=8), made) == found


@pytest.mark.parametrize("widths", [{"wa": 5, "wb": 4}, {"wa": 9, "wb": 4}])
def test_layers_too_wide_are_told_so(widths: dict[str, int]) -> None:
    made = graph(*PLAIN, inputs=X, **weights(**widths))
    assert "width" in {miss.rule for miss in misses(MergeMatMuls(most=8), made)}
    before = lines(made)
    assert apply(MergeMatMuls(most=8), made) == before


REFUSED = [
    ("siblings", graph(PLAIN[0], inputs=X, **weights(wa=3))),
    ("siblings", graph(PLAIN[0], "b = MatMul(y, wb)", inputs=X | OUTER, **weights(wa=3, wb=3))),
    ("siblings", graph(PLAIN[0], "b = MatMul(z, x)", inputs=X | {"z": "float[batch, 2, sequence]"}, **weights(wa=3))),
    ("weight", graph("a = MatMul(x, z)", "b = MatMul(x, u)", inputs=X | {"z": "float[4, 3]", "u": "float[4, 3]"})),
    (
        "weight",
        graph("a = MatMul(x, w)", "b = MatMul(x, u)", inputs=X, w=np.ones(4, np.float32), u=np.ones(4, np.float32)),
    ),
    ("tied", inside_if(graph(*PLAIN, inputs=X, **weights(wa=3, wb=5)))),
    ("tied", graph(PLAIN[0], "b = MatMul(x, wa)", inputs=X, **weights(wa=3))),
    (
        "siblings",
        graph(
            PLAIN[0],
            "h = Cast{to=10}(x)",
            "b = MatMul(h, wb)",
            inputs=X,
            wa=np.ones((4, 2), np.float32),
            wb=np.ones((4, 2), np.float16),
        ),
    ),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    assert rule in {miss.rule for miss in misses(MergeMatMuls(), made)}
    before = lines(made)
    assert apply(MergeMatMuls(), made) == before


@pytest.mark.parametrize("sequence", [0, 1, 5])
@pytest.mark.parametrize("text", [PLAIN, BIASED, (*BIASED[:2], PLAIN[1])])
def test_holds(text: tuple[str, ...], sequence: int) -> None:
    made = graph(*text, inputs=X, **weights(wa=3, wb=5, ba=3, bb=5))
    holds(MergeMatMuls(), made, {"batch": 2, "sequence": sequence})
