"""What a model takes for granted of its sizes by running at all."""

from __future__ import annotations

import pytest
from tersor.ir.content import Element, dimensions
from tersor.ir.polynomial import Polynomial, smaller
from tersor.ir.shape_annotate import annotate
from tersor.ir.text import graph
from tersor.tests.support import inside_if

X = {"x": "float[batch, sequence, 8]", "p": "float[1, 64, 8]"}
CUT = ("s = Shape{start=1, end=2}(x)", "t = Slice(p, [0], s, [1])")


def found(*text: str, inputs: dict[str, str], of: str) -> list[Element] | None:
    model = graph(*text, inputs=inputs)
    model.graph.outputs[:] = [value for value in model.graph.outputs if value.name == "y"]
    for node in model.graph.all_nodes():
        for value in node.outputs:
            value.shape = None
    annotate(model)
    return next(dimensions(value) for node in model.graph.all_nodes() for value in node.outputs if value.name == of)


@pytest.mark.parametrize(
    ("text", "of", "expected"),
    [
        (["y = Add(x, t)"], "y", ["batch", "sequence", 8]),
        (["y = Add(x, t)"], "t", [1, "sequence", 8]),
        (["n = Neg(t)", "y = Mul(n, x)"], "n", [1, "sequence", 8]),
        (["u = Expand(t, [1, 1, 8])", "y = Concat{axis=0}(u, x)"], "t", [1, "sequence", 8]),
        # the same slice from its second place on ends where the first does
        (["u = Slice(p, [3], s, [1])", "v = Concat{axis=1}(u, t)", "y = Add(x, t)"], "t", [1, "sequence", 8]),
    ],
)
def test_a_table_that_meets_the_sequence_is_as_long(text: list[str], of: str, expected: list[Element]) -> None:
    assert found(*CUT, *text, inputs=X, of=of) == expected


def test_a_part_of_the_sequence_is_inside_of_a_table_as_the_whole_is() -> None:
    inputs = {"x": "float[batch, queries, 8]", "past": "float[batch, past, 8]", "m": "bool[1, 64, 64]"}
    text = (
        "all = Concat{axis=1}(past, x)",
        "k = Shape{start=1, end=2}(all)",
        "q = Shape{start=1, end=2}(x)",
        "first = Sub(k, q)",
        "rows = Slice(m, first, k, [1])",
        "part = Slice(rows, [0], k, [2])",
        "turned = Transpose{perm=[0, 2, 1]}(all)",
        "scores = MatMul(x, turned)",
        "y = Where(part, scores, scores)",
    )
    assert found(*text, inputs=inputs, of="rows") == [1, "queries", 64]
    assert found(*text, inputs=inputs, of="part") == [1, "queries", "past + queries"]


@pytest.mark.parametrize(
    ("text", "inputs", "why"),
    [
        (["y = Neg(t)"], X, "nothing else is read with it"),
        (["y = Add(t, one)"], {**X, "one": "float[1, 1, 8]"}, "the other is 1"),
        (["y = Add(t, other)"], {**X, "other": "float[1, n, 8]"}, "another dimension"),
        (["dead = Add(x, t)", "y = Neg(t)"], X, "what is dead does not run"),
    ],
)
def test_leaves_alone(text: list[str], inputs: dict[str, str], why: str) -> None:
    assert found(*CUT, *text, inputs=inputs, of="t") == [1, "Min(64, sequence)", 8], why


def test_a_table_of_one_place_broadcasts() -> None:
    text = (*CUT, "y = Add(x, t)")
    assert found(*text, inputs={**X, "p": "float[1, 1, 8]"}, of="t") == [1, "Min(1, sequence)", 8]


def test_what_a_branch_takes_for_granted_holds_there_alone() -> None:
    model = inside_if(graph(*CUT, "y = Add(x, t)", inputs=X))
    tables = [node.outputs[0] for node in model.graph.all_nodes() if node.op_type == "Slice"]
    for value in tables:
        value.shape = None
    annotate(model)
    assert [dimensions(value) for value in tables] == [[1, "Min(64, sequence)", 8]] * len(tables)


def test_joined_values_agree_on_the_other_axes() -> None:
    text = (
        "rest = Slice(x, [1], [9223372036854775807], [1])",
        "full = Pad(rest, [0, 0, 0, 0, 1, 0])",
        "y = Concat{axis=2}(full, x)",
    )
    assert found(*text, inputs={"x": X["x"]}, of="rest") == ["batch", "sequence - 1", 8]
    assert found(*text, inputs={"x": X["x"]}, of="y") == ["batch", "sequence", 16]


def test_the_smallest_of_several() -> None:
    n, m = Polynomial.of("n"), Polynomial.of("m")
    least = smaller(n, Polynomial.of(8))
    assert str(least) == "Min(8, n)" and Polynomial.parse("Min(n, 8)") == least
    assert smaller(least, n) == least and smaller(smaller(n, m), Polynomial.of(8)) == smaller(least, m)
    assert (n - least).nonnegative and not (least - n).nonnegative and not (least - 1).nonnegative
    assert [int(least.at({"n": size})) for size in (3, 8, 9)] == [3, 8, 8]
    assert (3 * n - 3 * least).nonnegative and (n * m - least * m).nonnegative
    assert not ((n - m) * least).nonnegative
