"""The mean of what a mask keeps."""

from __future__ import annotations

import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.sentence.raise_mean_pooling import RaiseMeanPooling
from tersor.tests.support import apply, holds, inside_if, misses

I = {"x": "float[batch, sequence, 4]", "mask": "int64[batch, sequence]"}  # noqa: E741
STRETCHED = ["u = Unsqueeze(mask, [-1])", "s = Shape(x)", "e = Expand(u, s)", "m = Cast{to=float}(e)"]
NARROW = ["u = Unsqueeze(mask, [2])", "m = Cast{to=float}(u)"]
SUMS = ["k = Mul(x, m)", "n = ReduceSum{keepdims=0}(k, [1])", "c = ReduceSum{keepdims=0}(m, [1])"]
CLIPPED = ["d = Clip(c, 1e-09)", "y = Div(n, d)"]
CALL = ["y = tersor.MeanPooling{epsilon=1e-09}(x, mask)"]


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ([*STRETCHED, *SUMS, *CLIPPED], CALL),
        ([*NARROW, *SUMS, *CLIPPED], CALL),
        ([*NARROW, "k = Mul(m, x)", *SUMS[1:], "d = Max(1e-09, c)", "y = Div(n, d)"], CALL),
        ([*NARROW, *SUMS, "y = Div(n, c)"], ["y = tersor.MeanPooling(x, mask)"]),
        (["f = Cast{to=float}(mask)", "m = Unsqueeze(f, [-1])", *SUMS, "y = Div(n, c)"],
         ["f = Cast{to=1}(mask)", "y = tersor.MeanPooling(x, f)"]),
        ([line.replace("[1]", "[-2]") for line in [*NARROW, *SUMS, *CLIPPED]], CALL),
    ],
)  # fmt: skip
def test_raises(text: list[str], after: list[str]) -> None:
    made = graph(*text, inputs=I)
    assert apply(RaiseMeanPooling(), made) == after
    holds(RaiseMeanPooling(), graph(*text, inputs=I))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ([*NARROW, *SUMS, "y = Sub(n, c)"], "quotient"),
        ([*NARROW, *SUMS, *CLIPPED, "z = Neg(n)"], "quotient"),
        ([*NARROW, *SUMS, "y = Div(c, n)"], "quotient"),
        ([*NARROW, *SUMS, "d = Add(c, 1e-09)", "y = Div(n, d)"], "divisor"),
        ([*NARROW, *SUMS, "d = Clip(c, 1e-09, 7.0)", "y = Div(n, d)"], "divisor"),
        ([*NARROW, *SUMS, "d = Max(c, inf)", "y = Div(n, d)"], "divisor"),
        ([*NARROW, *SUMS, "d = Max(c, nan)", "y = Div(n, d)"], "divisor"),
        ([*NARROW, "k = Add(x, m)", *SUMS[1:], *CLIPPED], "product"),
        ([line.replace("keepdims=0", "keepdims=1") for line in [*NARROW, *SUMS, *CLIPPED]], "axes"),
        ([line.replace("[1]", "[2]") for line in [*NARROW, *SUMS, *CLIPPED]], "axes"),
        ([*NARROW, "v = Unsqueeze(other, [2])", "o = Cast{to=float}(v)", *SUMS[:2], "c = ReduceSum{keepdims=0}(o, [1])",
          *CLIPPED], "mask"),
        ([*NARROW, "t = Mul(m, 2.0)", *SUMS[:2], "c = ReduceSum{keepdims=0}(t, [1])", *CLIPPED], "mask"),
        (["u = Unsqueeze(mask, [1])", "m = Cast{to=float}(u)", *SUMS, *CLIPPED], "mask"),
    ],
)  # fmt: skip
def test_leaves_alone(text: list[str], rule: str) -> None:
    more = {"other": I["mask"]} if any("other" in line for line in text) else {}
    made = graph(*text, inputs=I | more)
    assert rule in {miss.rule for miss in misses(RaiseMeanPooling(), made)}
    before = lines(made)
    assert apply(RaiseMeanPooling(), made) == before


@pytest.mark.parametrize(
    "kinds",
    [
        {"mask": "int64[1, sequence]"},
        {"mask": "int64[batch, other]"},
        {"x": "float[batch, sequence, 1]", "mask": "int64[batch, 1]"},
        {"x": "float[batch, sequence, ?]"},
    ],
)
def test_leaves_alone_what_stretches(kinds: dict[str, str]) -> None:
    made = graph(*NARROW, *SUMS, *CLIPPED, inputs=I | kinds)
    assert "shape" in {miss.rule for miss in misses(RaiseMeanPooling(), made)}


@pytest.mark.parametrize(
    ("first", "kinds", "rule"),
    [
        ("u = Unsqueeze(mask, [2])", {"x": "float"}, "shape"),
        ("u = my.Mask(mask)", {}, "mask"),
    ],
)
def test_leaves_alone_what_has_its_shape_by_declaration_only(first: str, kinds: dict[str, str], rule: str) -> None:
    whole = graph(*NARROW, *SUMS, *CLIPPED, inputs=I)
    known = {value.name: value.shape for node in whole.graph for value in node.outputs}
    made = graph(first, NARROW[1], *SUMS, *CLIPPED, inputs=I | kinds)
    for node in made.graph:
        node.outputs[0].shape = known[node.outputs[0].name]
    assert rule in {miss.rule for miss in misses(RaiseMeanPooling(), made)}


def test_leaves_a_cast_that_rounds_alone() -> None:
    """A mask of fractions is not what its integers are."""
    text = ["i = Cast{to=int64}(mask)", "u = Unsqueeze(i, [2])", "m = Cast{to=float}(u)", *SUMS, *CLIPPED]
    made = graph(*text, inputs=I | {"mask": "float[batch, sequence]"})
    assert apply(RaiseMeanPooling(), made) == ["i = Cast{to=7}(mask)", CALL[0].replace("mask", "i")]


def test_in_branches() -> None:
    made = inside_if(graph(*NARROW, *SUMS, *CLIPPED, inputs=I))
    holds(RaiseMeanPooling(), made)
    assert sum("MeanPooling" in line for line in apply(RaiseMeanPooling(), made)) == 2
