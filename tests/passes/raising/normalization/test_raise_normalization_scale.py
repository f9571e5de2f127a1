"""Scale and bias that follow a normalisation become its own."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.normalization.raise_normalization_scale import RaiseNormalizationScale
from tersor.tests.support import apply, holds, inside_if, misses

X = {"x": "float[batch, sequence, 4]"}
ONES, ZEROS = np.ones(4, np.float32), np.zeros(4, np.float32)
W, B = np.float32([1, 2, 3, 4]), np.float32([5, 6, 7, 8])
BARE = "n = LayerNormalization{epsilon=1e-06}(x, ones)"


def model(*text: str, **more: str) -> ir.Model:
    known = {"ones": ONES, "zeros": ZEROS, "w": W, "b": B, "row": W.reshape(1, 1, 4), "one": np.float32([2.0])}
    used = {
        name: array
        for name, array in known.items()
        if any(name in re.findall(r"\w+", line.split(" = ")[1]) for line in text)
    }
    return graph(*text, inputs=X | more, **used)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ([BARE, "y = Mul(n, w)"], ["y = LayerNormalization{epsilon=1e-06}(x, w)"]),
        ([BARE, "g = Mul(w, n)", "y = Add(b, g)"], ["y = LayerNormalization{epsilon=1e-06}(x, w, b)"]),
        ([BARE, "y = Add(n, b)"], ["y = LayerNormalization{epsilon=1e-06}(x, ones, b)"]),
        (["n = LayerNormalization(x, w, zeros)", "y = Add(n, b)"], ["y = LayerNormalization(x, w, b)"]),
        (["n = LayerNormalization(x, ones, zeros)", "y = Mul(n, w)"], ["y = LayerNormalization(x, w)"]),
        (["n = RMSNormalization{axis=2}(x, ones)", "y = Mul(n, w)"], ["y = RMSNormalization{axis=2}(x, w)"]),
    ],
)
def test_takes_them_in(text: list[str], after: list[str]) -> None:
    assert apply(RaiseNormalizationScale(), model(*text)) == after
    holds(RaiseNormalizationScale(), model(*text))


def test_axes_of_one_go() -> None:
    assert apply(RaiseNormalizationScale(), model(BARE, "y = Mul(n, row)")) == [
        "y/Reshape = Reshape(row, y/row)",
        "y = LayerNormalization{epsilon=1e-06}(x, y/Reshape)",
    ]


def test_in_branches() -> None:
    made = inside_if(model(BARE, "g = Mul(n, w)", "y = Add(g, b)"))
    assert len(apply(RaiseNormalizationScale(), made)) == 5
    holds(RaiseNormalizationScale(), inside_if(model(BARE, "g = Mul(n, w)", "y = Add(g, b)")))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (["n = LayerNormalization(x, w)", "y = Mul(n, w)"], "scale"),
        (["n = LayerNormalization(x, ones, b)", "y = Mul(n, w)"], "bias"),
        (["n = LayerNormalization(x, ones, b)", "y = Add(n, b)"], "bias"),
        ([BARE, "y = Mul(n, w)", "z = Neg(n)"], "reader"),
        ([BARE, "y = Sub(n, w)"], "reader"),
        ([BARE, "y = Mul(n, n)"], "factors"),
        ([BARE, "y = Mul(n, one)"], "factors"),
        ([BARE, "y = Mul(n, f)"], "factors"),
        ([BARE, "y = Add(n, x)"], "factors"),
        (["n = RMSNormalization(x, ones)", "y = Add(n, b)"], "reader"),
        (["n = RMSNormalization(x, w)", "y = Mul(n, w)"], "scale"),
        (["(n, m, _) = LayerNormalization(x, ones)", "y = Mul(n, w)", "z = Neg(m)"], "statistics"),
        (["n = LayerNormalization{axis=5}(x, ones)", "y = Mul(n, w)"], "shape"),
    ],
)
def test_leaves_alone(text: list[str], rule: str) -> None:
    made = model(*text, **({"f": "float[sequence, 4]"} if "f)" in text[-1] else {}))
    assert [miss.rule for miss in misses(RaiseNormalizationScale(), made)] == [rule]
    before = lines(made)
    assert apply(RaiseNormalizationScale(), made) == before


def test_leaves_alone_a_scale_that_the_caller_may_override_or_is_nan() -> None:
    made = model(BARE, "y = Mul(n, w)")
    made.graph.inputs.append(made.graph.initializers["ones"])
    assert [miss.rule for miss in misses(RaiseNormalizationScale(), made)] == ["scale"]
    made = graph(BARE, "y = Mul(n, w)", inputs=X, ones=ONES * np.nan, w=W)
    assert [miss.rule for miss in misses(RaiseNormalizationScale(), made)] == ["scale"]
