"""Sides of an And that are true everywhere."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.clean.drop_true_masks import DropTrueMasks
from tersor.tests.support import apply, holds, inside_if, misses

MASK = {"m": "bool[batch, keys]"}
TRUE = np.ones((1, 1), bool)
N = {"n": "int64[]", "m": "bool[keys]"}


def counted(
    start: str = "0", step: str = "1", bound: str = "0", more: tuple[str, ...] = (), then: str = "i", **inputs: str
) -> ir.Model:
    """And(i >= bound, mask) where i counts from `start`, or what `more` makes of it."""
    text = (f"i = Range({start}, n, {step})", *more, f"t = GreaterOrEqual({then}, {bound})")
    return graph(*text, "a = And(t, m)", "y = Not(a)", inputs=N | inputs)


def wide(*after: str, mask: str = "bool[batch, 1, 1, keys]", **inputs: str) -> ir.Model:
    """A true side that makes the mask grow to [batch, 1, queries, keys]."""
    text = ("t = Expand(yes, [1, 1, 5, 1])", "a = And(t, m)", *after)
    return graph(*text, inputs={"m": mask, **inputs}, yes=np.ones((1, 1, 1, 1), bool))


class TestRewrites:
    @pytest.mark.parametrize("text", ["a = And(t, m)", "a = And(m, t)"])
    def test_a_constant(self, text: str) -> None:
        model = graph(text, "y = Not(a)", inputs=MASK, t=TRUE)
        assert apply(DropTrueMasks(), model) == ["y = Not(m)"]

    @pytest.mark.parametrize(
        "lines_", [["t = Expand(c, [1, 1])"], ["u = Unsqueeze(c, [0])", "t = Reshape(u, [1, 1])"], ["t = And(c, c)"]]
    )
    def test_a_constant_that_was_laid_out(self, lines_: list[str]) -> None:
        model = graph(*lines_, "a = And(t, m)", "y = Not(a)", inputs=MASK, c=np.ones(1, bool))
        assert apply(DropTrueMasks(), model) == ["y = Not(m)"]

    @pytest.mark.parametrize(
        "model",
        [
            counted(),
            counted(start="3", step="2", bound="-1"),
            counted(more=("c = Cast{to=int32}(i)", "u = Unsqueeze(c, [0])"), then="u", bound="[[0]]"),
        ],
    )
    def test_counting_from_zero(self, model: ir.Model) -> None:
        node = next(node for node in model.graph if node.op_type == "And")
        node.outputs[0].shape = ir.Shape(["keys"])
        assert apply(DropTrueMasks(), model) == ["y = Not(m)"]

    def test_a_chain_collapses(self) -> None:
        model = graph("a = And(t, m)", "b = And(t, a)", "y = Not(b)", inputs=MASK, t=TRUE)
        assert apply(DropTrueMasks(), model) == ["y = Not(m)"]

    def test_an_output_keeps_its_name(self) -> None:
        model = graph("a = And(t, m)", inputs=MASK, t=TRUE)
        assert apply(DropTrueMasks(), model) == ["a = Identity(m)"]

    def test_where_another_operand_has_the_size(self) -> None:
        model = wide("y = Where(a, s, z)", s="float[batch, 8, 5, keys]", z="float[]")
        assert apply(DropTrueMasks(), model) == ["y = Where(m, s, z)"]

    def test_where_the_size_comes_back_further_on(self) -> None:
        numbers = {"low": "float[]", "zero": "float[]", "s": "float[batch, 8, 5, keys]"}
        model = wide("n = Not(a)", "f = Where(n, low, zero)", "y = Add(f, s)", **numbers)
        assert apply(DropTrueMasks(), model) == ["n = Not(m)", "f = Where(n, low, zero)", "y = Add(f, s)"]
        shapes = {node.name: node.outputs[0].shape for node in model.graph}
        assert shapes["n"] == shapes["f"] == ir.Shape(["batch", 1, 1, "keys"])
        assert shapes["y"] == ir.Shape(["batch", 8, 5, "keys"])

    def test_the_mask_of_an_attention(self) -> None:
        heads = dict.fromkeys("qkv", "float[batch, 8, 5, 16]")
        model = wide("y = Attention(q, k, v, a)", **heads)
        assert apply(DropTrueMasks(), model) == ["y = Attention(q, k, v, m)"]

    def test_in_branches(self) -> None:
        model = inside_if(graph("a = And(t, m)", "y = Not(a)", inputs=MASK, t=TRUE))
        assert sum("Not(m)" in line for line in apply(DropTrueMasks(), model)) == 2


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (graph("a = And(t, m)", "y = Not(a)", inputs=MASK, t=np.array([[True, False]])), "true"),
        (graph("a = And(p, m)", "y = Not(a)", inputs=MASK | {"p": "bool[1, 1]"}), "true"),
        (counted(start="-1"), "true"),
        (counted(step="-1"), "true"),
        (counted(bound="1"), "true"),
        (counted(start="p", p="int64[]"), "true"),
        (counted(bound="p", p="int64[]"), "true"),
        (counted(more=("c = Cast{to=int8}(i)",), then="c", bound="z", z="int8[]"), "true"),
        (counted(more=("c = Cast{to=int8}(i)", "w = Cast{to=int64}(c)"), then="w"), "true"),
        (counted(more=("c = Neg(i)",), then="c"), "true"),
        (counted(more=("c = my.Cast{to=7}(i)",), then="c"), "true"),
        (graph("i = my.Range(0, n, 1)", "t = GreaterOrEqual(i, 0)", "a = And(t, m)", "y = Not(a)", inputs=N), "true"),
        (graph("a = And(t, m)", "y = Not(a)", inputs={"m": "bool"}, t=TRUE), "shape"),
        (graph("a = And(t, m)", "y = Not(a)", inputs=MASK, t=np.ones((5, 1, 1), bool)), "broadcast"),
        (graph("a = And(t, m)", "y = Not(a)", inputs={"m": "bool[keys]"}, t=TRUE), "broadcast"),
        (wide("c = Cast{to=9}(a)", "y = Or(a, c)"), "broadcast"),
        (counted(), "broadcast"),
        (wide(), "broadcast"),
        (wide("y = Cast{to=float}(a)"), "broadcast"),
        (wide("y = Where(a, s, z)", s="float[batch, 8, 1, keys]", z="float[]"), "broadcast"),
        (wide("y = Where(a, s, z)", "w = ReduceMax(a)", s="float[batch, 8, 5, keys]", z="float[]"), "broadcast"),
        (graph("t = Expand(yes, [1, 1, 1, 6])", "a = And(t, m)", "y = Attention(q, k, v, a)",
               inputs={"m": "bool[batch, 1, 5, 1]", **dict.fromkeys("qkv", "float[batch, 8, 5, 16]")},
               yes=np.ones((1, 1, 1, 1), bool)), "broadcast"),
    ],
)  # fmt: skip
def test_leaves_alone(model: ir.Model, rule: str) -> None:
    (miss,) = misses(DropTrueMasks(), model)
    assert miss.rule == rule
    before = lines(model)
    assert apply(DropTrueMasks(), model) == before


def test_leaves_unknown_sizes_alone() -> None:
    """Two unknown dimensions may differ: one may be the 1 that the other stretches."""
    inputs = {"m": "bool[k]", "n": "int64[1]"}
    model = graph("t = Expand(yes, n)", "a = And(t, m)", "y = Not(a)", inputs=inputs, yes=TRUE[0])
    for value in (model.graph.inputs[0], *(node.outputs[0] for node in model.graph)):
        value.shape = ir.Shape([None])
    (miss,) = misses(DropTrueMasks(), model)
    assert miss.rule == "broadcast"


def test_leaves_the_and_of_another_domain() -> None:
    assert misses(DropTrueMasks(), graph("a = my.And(t, m)", t=TRUE)) == []


@pytest.mark.parametrize(
    "model",
    [
        graph("a = And(t, m)", "f = Cast{to=float}(a)", inputs=MASK, t=TRUE),
        wide("y = Where(a, s, z)", s="float[batch, 8, 5, keys]", z="float[]"),
        wide("n = Not(a)", "f = Where(n, s, z)", "y = Add(f, s)", s="float[batch, 8, 5, keys]", z="float[]"),
        inside_if(graph("a = And(t, m)", "f = Cast{to=float}(a)", inputs=MASK, t=TRUE)),
    ],
)
def test_holds(model: ir.Model) -> None:
    assert holds(DropTrueMasks(), model) == 0.0


def test_an_and_of_two_computed_masks_is_no_miss_to_report() -> None:
    model = graph("y = And(a, b)", inputs={"a": "bool[n]", "b": "bool[n]"})
    (miss,) = misses(DropTrueMasks(), model)
    assert miss.far
