"""What several nodes compute alike, computed once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.provenance import sources
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.clean.merge_common_subexpressions import MergeCommonSubexpressions
from tersor.tests.support import apply, holds, inside_if

X = {"x": "float[n, 4]"}


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (["a = Shape(x)", "b = Shape(x)", "y = Sub(a, b)"], ["a = Shape(x)", "y = Sub(a, a)"]),
        (
            ["a = Neg(x)", "b = Neg(x)", "c = Abs(a)", "d = Abs(b)", "y = Add(c, d)"],
            ["a = Neg(x)", "c = Abs(a)", "y = Add(c, c)"],
        ),
        (
            ["a = Softmax{axis=1}(x)", "b = Softmax{axis=1}(x)", "y = Add(a, b)"],
            ["a = Softmax{axis=1}(x)", "y = Add(a, a)"],
        ),
        (
            ["(a, b) = Split{axis=1, num_outputs=2}(x)", "(c, d) = Split{axis=1, num_outputs=2}(x)", "y = Sub(a, d)"],
            ["(a, b) = Split{axis=1, num_outputs=2}(x)", "y = Sub(a, b)"],
        ),
    ],
)
def test_rewrites(text: list[str], after: list[str]) -> None:
    assert apply(MergeCommonSubexpressions(), graph(*text, inputs=X, outputs=["y"])) == after


def test_an_output_keeps_its_name() -> None:
    model = graph("a = Neg(x)", "y = Neg(x)", "z = Abs(a)", inputs=X, outputs=["y", "z"])
    assert apply(MergeCommonSubexpressions(), model) == ["y = Neg(x)", "z = Abs(y)"]


def test_two_outputs_stay_two() -> None:
    model = graph("y = Neg(x)", "z = Neg(x)", inputs=X)
    assert apply(MergeCommonSubexpressions(), model) == ["y = Neg(x)", "z = Identity(y)"]


def test_an_output_declared_by_name_keeps_its_dimensions() -> None:
    model = graph("a = Neg(x)", "y = Neg(x)", "z = Abs(a)", inputs=X, outputs=["y", "z"])
    next(iter(model.graph)).outputs[0].shape = None
    assert apply(MergeCommonSubexpressions(), model) == ["y = Neg(x)", "z = Abs(y)"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (["a = Softmax{axis=1}(x)", "b = Softmax{axis=0}(x)", "y = Add(a, b)"], "attributes differ"),
        (["a = Sub(x, w)", "b = Sub(w, x)", "y = Add(a, b)"], "operands in another order"),
        (["a = Neg(x)", "b = my.Neg(x)", "y = Add(a, b)"], "another domain"),
        (["a = RandomNormalLike(x)", "b = RandomNormalLike(x)", "y = Sub(a, b)"], "random"),
        (["a = RandomUniform{shape=[4]}()", "b = RandomUniform{shape=[4]}()", "y = Sub(a, b)"], "random"),
        (["a = Bernoulli(x)", "b = Bernoulli(x)", "y = Sub(a, b)"], "random"),
        (["a = Multinomial(x)", "b = Multinomial(x)", "y = Sub(a, b)"], "random"),
        (["a = Dropout(x, r, t)", "b = Dropout(x, r, t)", "y = Sub(a, b)"], "random in training"),
        (["a = Neg(x)", "b = Neg(w)", "y = Add(a, b)"], "inputs differ"),
        (["a = Clip(x, w)", "b = Clip(x, _, w)", "y = Add(a, b)"], "inputs at other places"),
    ],
)
def test_leaves_alone(text: list[str], why: str) -> None:
    training = {"r": 0.5, "t": True} if "training" in why else {}
    model = graph(*text, inputs={**X, "w": "float[]"}, **training)
    assert apply(MergeCommonSubexpressions(), model) == text, why


def test_leaves_nodes_with_subgraphs_alone() -> None:
    model = inside_if(graph("y = Neg(x)", inputs={"x": "float[2]"}))
    (first,) = model.graph
    second = model.clone().graph.node(0)
    assert second.op_type == first.op_type == "If"
    before = lines(model)
    assert apply(MergeCommonSubexpressions(), model) == before


SEQUENCE = {"x": "float[n, 2, 4]"}
GATES = {"w": np.ones((1, 12, 4), np.float32), "r": np.eye(12, 4, dtype=np.float32)[None]}
TWINS = ("(a, _) = GRU{hidden_size=4}(x, w, r)", "(_, b) = GRU{hidden_size=4}(x, w, r)", "y = Sub(a, b)")


def test_an_output_that_one_twin_leaves_out_gets_a_name() -> None:
    """The first gives only all states, the second only the last: the merged node has to give both."""
    model = graph(*TWINS, inputs=SEQUENCE, **GATES)
    assert apply(MergeCommonSubexpressions(), model) == ["(a, b) = GRU{hidden_size=4}(x, w, r)", "y = Sub(a, b)"]


def test_the_merged_node_stands_for_both() -> None:
    model = graph("a = Neg(x)", "b = Neg(x)", "y = Sub(a, b)", inputs=X)
    (finding,) = MergeCommonSubexpressions().apply(model, Context()).findings
    assert (finding.place, finding.sources) == ("Neg at b", ("b",))
    assert sources(model.graph.node(0)) == ("a", "b")


@pytest.mark.parametrize(
    "model",
    [
        graph("a = Neg(x)", "b = Neg(x)", "c = Abs(a)", "d = Abs(b)", "y = Sub(c, d)", "z = Neg(x)", inputs=X),
        graph(*TWINS, inputs=SEQUENCE, **GATES),
        inside_if(graph("a = Neg(x)", "b = Neg(x)", "y = Sub(a, b)", inputs=X)),
    ],
)
def test_holds(model: ir.Model) -> None:
    assert holds(MergeCommonSubexpressions(), model) == 0.0
