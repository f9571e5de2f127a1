"""Dimensions that are taken from the inputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.polynomial import Polynomial
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.clean.source_shapes import SourceShapes
from tersor.tests.support import apply, holds, inside_if

X = {"x": "float[batch, sequence, 8]"}


def read(*text: str, **inputs: str) -> ir.Model:
    """Shape arithmetic on Relu(x), which an Expand reads."""
    return graph("r = Relu(x)", *text, "y = Expand(zero, t)", inputs={**X, **inputs}, zero=np.zeros(1, np.float32))


def written(*text: str, **inputs: str) -> list[str]:
    return apply(SourceShapes(), read(*text, **inputs))


class TestRewrites:
    def test_a_whole_shape(self) -> None:
        assert written("t = Shape(r)") == ["x/shape0to3 = Shape{end=3, start=0}(x)", "y = Expand(zero, x/shape0to3)"]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (["t = Shape{start=1, end=2}(r)"], ["Shape"]),
            (["s = Shape(r)", "t = Slice(s, [1], [2])"], ["Shape"]),
            (["s = Shape(r)", "t = Slice(s, [0], [2])"], ["Shape"]),
            (["s = Shape(r)", "g = Gather(s, 1)", "u = Unsqueeze(g, [0])", "t = Concat{axis=0}(u, [4])"],
             ["Shape", "Concat"]),
            (["s = Shape(r)", "g = Gather(s, 0)", "m = Mul(g, 4)", "t = Unsqueeze(m, [0])"], ["Shape", "Mul"]),
            (["s = Shape(r)", "g = Gather(s, 0)", "k = Gather(s, 1)", "m = Sub(g, k)", "t = Unsqueeze(m, [0])"],
             ["Shape", "Shape", "Mul", "Add"]),
            (["s = Shape(r)", "g = Gather(s, 0)", "d = Div(g, 2)", "t = Unsqueeze(d, [0])"], ["Shape", "Div"]),
            (["s = Shape(r)", "g = Gather(s, 0)", "d = Min(g, 2)", "t = Unsqueeze(d, [0])"], ["Shape", "Min"]),
            (["s = Shape(r)", "c = Equal(s, -1)", "t = Where(c, [1, 1, 1], s)"], ["Shape"]),
        ],
    )  # fmt: skip
    def test_arithmetic(self, text: list[str], expected: list[str]) -> None:
        model = read(*text)
        apply(SourceShapes(), model)
        assert [node.op_type for node in model.graph] == [*expected, "Expand"]

    def test_a_scalar(self) -> None:
        model = graph("r = Relu(x)", "s = Shape(r)", "g = Gather(s, 1)", "y = Range(0, g, 1)", inputs=X)
        apply(SourceShapes(), model)
        assert [node.op_type for node in model.graph] == ["Shape", "Squeeze", "Range"]

    def test_each_dimension_once(self) -> None:
        text = ("r = Relu(x)", "s = Shape(r)", "g = Gather(s, [1])", "n = Neg(r)", "h = Shape{start=1, end=2}(n)")
        model = graph(*text, "a = Expand(zero, g)", "b = Expand(zero, h)", inputs=X, zero=np.zeros(1, np.float32))
        apply(SourceShapes(), model)
        assert sorted(node.op_type for node in model.graph) == ["Expand", "Expand", "Shape"]

    def test_in_branches(self) -> None:
        model = inside_if(read("t = Shape{start=1, end=2}(r)"))
        apply(SourceShapes(), model)
        assert [node.op_type for node in model.graph] == ["Shape", "If"]
        assert all(node.op_type != "Relu" for node in model.graph.all_nodes())


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (
            graph("t = Shape{start=1, end=2}(x)", "y = Expand(zero, t)", inputs=X, zero=np.zeros(1)),
            "so spelled",
        ),
        (graph("t = Shape(r)", inputs={"r": "float[a]"}), "an output"),
        (read("n = NonZero(x)", "t = Shape{start=1, end=2}(n)"), "no input has it"),
        (read("t = Shape{start=1, end=2}(p)", p="float[batch, 2*n]"), "no input has n by itself"),
        (read("t = my.Shape(r)"), "another domain"),
        (read("t = Shape{start=2}(r)"), "a number, which folds"),
    ],
)
def test_leaves_alone(model: ir.Model, why: str) -> None:
    before = lines(model)
    assert not SourceShapes().explain(model, Context()).matches, why
    assert apply(SourceShapes(), model) == before


def test_leaves_old_opsets_alone() -> None:
    model = graph("r = Relu(x)", "s = Shape(r)", "g = Gather(s, [1])", "y = Expand(g, [1])", inputs=X, opset=14)
    assert apply(SourceShapes(), model) == lines(model)


@pytest.mark.parametrize(
    "text",
    [
        ["t = Shape(r)"],
        ["s = Shape(r)", "g = Gather(s, 0)", "k = Gather(s, 1)", "m = Mul(g, k)", "t = Unsqueeze(m, [0])"],
        ["s = Shape(r)", "d = Div(s, 2)", "m = Min(s, 3)", "t = Add(m, d)"],
        ["s = Shape(r)", "t = Mod(s, 5)"],
    ],
)
@pytest.mark.parametrize("sizes", [{"batch": 1, "sequence": 1}, {"batch": 3, "sequence": 7}])
def test_holds(text: list[str], sizes: dict[str, int]) -> None:
    holds(SourceShapes(), read(*text), sizes)


def test_is_idempotent() -> None:
    model = read("s = Shape(r)", "d = Div(s, 2)", "m = Min(s, 3)", "t = Add(m, d)")
    apply(SourceShapes(), model)
    before = lines(model)
    assert not SourceShapes().apply(model, Context()).matches
    assert lines(model) == before


def layers(count: int) -> ir.Model:
    """Each layer views its values as its own past keys are shaped."""
    text, inputs = [], dict[str, str]()
    for index in range(count):
        inputs |= {f"k{index}": f"float[batch, 4, past{index}, 16]", f"v{index}": f"float[batch, 4, past{index}, 16]"}
        text += [
            *(f"r{index} = Relu(k{index})", f"s{index} = Shape{{start=1, end=3}}(r{index})"),
            *(f"t{index} = Concat{{axis=0}}(s{index}, [-1])", f"y{index} = Reshape(v{index}, t{index})"),
        ]
    return graph(*text, inputs=inputs)


def test_the_work_is_linear_in_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    equal = Polynomial.__eq__

    def counted(self: Polynomial, other: object) -> bool:
        nonlocal compared
        compared += 1
        return equal(self, other)

    monkeypatch.setattr(Polynomial, "__eq__", counted)
    took = []
    for count in (20, 80):
        compared = 0
        assert SourceShapes().apply(layers(count), Context()).matches == count
        took.append(compared)
    assert took[1] <= 5 * took[0]
