"""Graphs that come near a rotation by positions: what of them is one, and what stops the rest."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.rotary.raise_rotary_embedding import RaiseRotaryEmbedding
from tersor.tests.support import apply, misses

X = {"x": "float[batch, 4, sequence, 8]", "f": "float[1, sequence, 4]"}
FIXED = {"x": "float[2, 4, 6, 8]", "f": "float[1, 6, 4]"}
TABLES = (
    "ff = Concat{axis=-1}(f, f)",
    "c3 = Cos(ff)",
    "s3 = Sin(ff)",
    "c = Unsqueeze(c3, [1])",
    "s = Unsqueeze(s3, [1])",
)
ROTATED = (
    "a = Slice(x, [0], [4], [-1])",
    "b = Slice(x, [4], [9223372036854775807], [-1])",
    "n = Neg(b)",
    "r = Concat{axis=-1}(n, a)",
)
NEIGHBOURS = (
    "a = Slice(x, [0], [8], [3], [2])",
    "b = Slice(x, [1], [8], [3], [2])",
    "n = Neg(b)",
    "ne = Unsqueeze(n, [-1])",
    "ae = Unsqueeze(a, [-1])",
    "t = Concat{axis=-1}(ne, ae)",
    "r = Reshape(t, [0, 0, 0, 8])",
)
SUM = ("p = Mul(x, c)", "q = Mul(r, s)", "y = Add(p, q)")


def halves(inputs: Mapping[str, str] | None = None, **written: str | tuple[str, ...]) -> ir.Model:
    """The rotation by halves, the lines of some names written otherwise."""
    text: list[str] = []
    for line in (*TABLES, *ROTATED, *SUM):
        new = written.get(line.split(" = ")[0], line)
        text += [new] if isinstance(new, str) else new
    return graph(*text, inputs=X | dict(inputs or {}), outputs=["y"])


def neighbours(*ff: str, **inputs: str) -> ir.Model:
    """The rotation of neighbours, its angles `ff` made otherwise; e is f with an axis behind."""
    text = ("e = Unsqueeze(f, [-1])", *ff, *TABLES[1:], *NEIGHBOURS, *SUM)
    return graph(*text, inputs={"x": "float[1, 4, 6, 8]", "f": "float[1, 6, 4]"} | inputs, outputs=["y"])


def declared(model: ir.Model) -> ir.Model:
    """With the shapes that the values of those names have in the rotation by halves."""
    known = {value.name: value.shape for node in halves().graph for value in node.outputs}
    for node in model.graph:
        for value in node.outputs:
            value.shape = known.get(value.name, value.shape)
    return model


@pytest.mark.parametrize(
    ("behind", "inputs"),
    [
        (("y = Slice(o, [0], [2], [1])",), X),
        (("(y, z) = Split{axis=1}(o, [2, 2])",), X),
        (("y = Concat{axis=1}(o, o)",), X),
        (("y = Reshape(o, [2, 0, 0, 8])",), X),
        (("d = Shape(o)", "e = Gather(d, [2, 1, 0, 3])", "y = Reshape(o, e)"), X),
        (("y = Squeeze(o)",), FIXED),
        (("t = Unsqueeze(o, [0])", "y = Reshape(t, [2, 4, 6, 8])"), FIXED),
        (("t = Squeeze(o, [1])", "y = Reshape(t, [2, 1, 6, 8])"), FIXED | {"x": "float[2, 1, 6, 8]"}),
        (("t = Reshape(o, [-1])", "y = Reshape(t, [2, 4, 6, 8])"), FIXED),
        (("t = Reshape(o, shape)", "y = Reshape(t, [2, 4, 6, 8])"), FIXED | {"shape": "int64[rank]"}),
    ],
    ids=["slice", "split", "concat", "batch", "turned", "squeeze", "unsqueeze", "one", "flat", "computed"],
)  # fmt: skip
def test_what_moves_whole_heads_behind_it_stays(behind: tuple[str, ...], inputs: Mapping[str, str]) -> None:
    found = apply(RaiseRotaryEmbedding(), halves(inputs, y=("o = Add(p, q)", *behind)))
    start = next(index for index, line in enumerate(found) if line.startswith("o = RotaryEmbedding("))
    assert [line.split("(")[0].split("{")[0].split(" = ")[0] for line in found[start + 1 :]] == [
        line.split("(")[0].split("{")[0].split(" = ")[0] for line in behind
    ]


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        (halves(p=("p0 = Mul(x, c)", "p = Mul(p0, c)")), "rotation"),
        (halves({"e": "int64[1]"}, a="a = Slice(x, [0], e, [-1])"), "rotation"),
        (halves(a=("e = Shape{start=2, end=3}(x)", "a = Slice(x, [0], e, [-1])")), "rotation"),
        (halves(b="b = Slice(x, [7], [3], [-1], [-1])"), "rotation"),
        (halves({"w": X["x"]}, a="(a, b) = Split{axis=-1}(w, [4, 4])", b=()), "rotation"),
        (halves({"e": "int64[2]"}, a="(a, b) = Split{axis=-1}(x, e)", b=()), "rotation"),
        (halves(b="b = Gather{axis=-1}(x, [4, 5, 6, 8])"), "rotation"),
        (halves({"c": "float[batch, 1, sequence, n]"}, c=()), "rotation"),
        (declared(halves({"c": "float"}, c=())), "rotation"),
        # partners in another order, and an odd number of them
        (
            halves(
                n=("z = Gather{axis=-1}(x, [7, 6, 5, 4])", "n = Neg(z)"),
                r=("w = Gather{axis=-1}(x, [3, 2, 1, 0])", "r = Concat{axis=-1}(n, w)"),
            ),
            "pairs",
        ),
        (
            graph(
                "(h, e) = Split{axis=-1}(x, [3, 1])", "(i, j, k) = Split{axis=-1}(h, [1, 1, 1])", "n = Neg(j)",
                "r = Concat{axis=-1}(n, k, i)", "p = Mul(h, c)", "q = Mul(r, s)", "t = Add(p, q)",
                "y = Concat{axis=-1}(t, e)",
                inputs={"x": "float[2, 4, 6, 4]", **dict.fromkeys("cs", "float[2, 1, 6, 3]")}, outputs=["y"],
            ),
            "pairs",
        ),
        # the angles of halves
        (declared(halves(c3="c3 = my.Cos(ff)")), "table"),
        (declared(halves({"f": "float"})), "table"),
        (halves({"at": "int64[8]"}, ff="ff = Gather{axis=2}(f, at)"), "table"),
        (halves({"f": "float[1, sequence, m]"}, ff="ff = Gather{axis=2}(f, [0, 1, 2, 3, 0, 1, 2, 3])"), "table"),
        # the angles of neighbours: other numbers, other rows, and positions that were put in on the way
        (neighbours("w = Mul(e, [1.0, 2.0])", "ff = Reshape(w, [0, 0, 8])"), "table"),
        (neighbours("w = Concat{axis=-1}(e, g)", "ff = Reshape(w, [0, 0, 8])", g="float[1, 6, 4, 1]"), "table"),
        (neighbours("w = Expand(g, [1, 1, 1, 2])", "ff = Reshape(w, [0, 0, 8])", g="float[1, 6, 4, 1]"), "table"),
        (neighbours("w = Expand(e, [1, 6, 1, 2])", "ff = Reshape(w, [0, 0, 8])", f="float[1, 1, 4]"), "table"),
        (neighbours("w = Expand(e, [1, 1, 1, 1, 2])", "ff = Reshape(w, [1, 6, 8])"), "table"),
        (neighbours("w = Expand(e, [1, 1, 1, 2])", "ff = Reshape(w, [1, 6, 8])", f="float[2, 3, 4]"), "table"),
        (
            graph(
                "e = Unsqueeze(f, [1, -1])", "w = Expand(e, [1, 1, 1, 2])", "c3 = Reshape(w, [0, 1, 8])",
                "c = Unsqueeze(c3, [1])", "s = Unsqueeze(c3, [1])", *NEIGHBOURS, *SUM,
                inputs={"x": "float[1, 4, 1, 8]", "f": "float[1, 4]"}, outputs=["y"],
            ),
            "table",
        ),
    ],
)  # fmt: skip
def test_leaves_alone(made: ir.Model, rule: str) -> None:
    found = misses(RaiseRotaryEmbedding(), made)
    assert [miss.rule for miss in found] == [rule], found
    before = lines(made)
    assert apply(RaiseRotaryEmbedding(), made) == before


def test_integers_are_no_places() -> None:
    model = graph("n = Neg(k)", "y = Concat{axis=0}(n, n)", inputs={"k": "int64[4]"})
    assert misses(RaiseRotaryEmbedding(), model) == []
