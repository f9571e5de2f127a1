"""The branch that an If surely takes."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.clean.inline_branches import InlineBranches
from tersor.passes.edit import constant_of
from tersor.tests.support import apply, holds, inside_if, misses, parse

THEN = "then_branch = t () => (float[n] a) { k = Constant <value = float[1] {3.0}> () a = Add (x, k) }"
ELSE = "else_branch = e () => (float[n] b) { x2 = Mul (x, x) b = Neg (x2) }"


def choosing(condition: str, *, then: str = THEN, other: str = ELSE, after: str = "y = Relu (h)") -> ir.Model:
    return parse(f"g (float[n] x, bool free) => (float[n] y) {{ {condition} h = If (c) <{then}, {other}> {after} }}")


YES = "c = Constant <value = bool {1}> ()"
NO = "c = Constant <value = bool {0}> ()"
#: A dimension is never negative.
SHAPE = "s = Shape (x) m = Constant <value = int64[1] {-1}> () c = Equal (s, m)"


class TestRewrites:
    def test_the_branch_that_runs(self) -> None:
        assert apply(InlineBranches(), choosing(NO)) == ["x2 = Mul(x, x)", "h = Neg(x2)", "y = Relu(h)"]
        assert apply(InlineBranches(), choosing(YES))[-2:] == ["h = Add(x, k)", "y = Relu(h)"]

    def test_a_condition_that_shapes_settle(self) -> None:
        assert apply(InlineBranches(), choosing(SHAPE)) == ["x2 = Mul(x, x)", "h = Neg(x2)", "y = Relu(h)"]

    def test_names_that_the_graph_around_has_too(self) -> None:
        model = choosing(f"{NO} x2 = Exp (x)", after="y = Add (h, x2)")
        inside = next(node for node in model.graph.all_nodes() if node.op_type == "Mul")
        inside.outputs[0].name = "x2"
        assert apply(InlineBranches(), model) == ["x2 = Exp(x)", "x2_1 = Mul(x, x)", "h = Neg(x2_1)", "y = Add(h, x2)"]

    def test_what_a_branch_stores(self) -> None:
        model = choosing(YES)
        branch = next(model.graph.subgraphs().__iter__())
        (held,) = [node for node in branch if node.op_type == "Constant"]
        stored = ir.Value(name="w", const_value=ir.tensor([3.0], name="w"))
        branch.register_initializer(stored)
        held.outputs[0].replace_all_uses_with(stored)
        branch.remove(held)
        apply(InlineBranches(), model)
        (left,) = model.graph.initializers.values()
        assert constant_of(left) == [3.0]

    def test_an_output_of_the_graph_keeps_its_name(self) -> None:
        assert apply(InlineBranches(), choosing(NO, after="y = Identity (h)"))[-1] == "y = Identity(h)"

    def test_nodes_keep_what_they_stand_for(self) -> None:
        model = choosing(NO)
        next(node for node in model.graph.all_nodes() if node.op_type == "Mul").name = "inner"
        apply(InlineBranches(), model)
        assert model.graph.node(0).metadata_props["tersor.sources"] == "inner"


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (choosing("c = Identity (free)"), "condition"),
        (choosing("z = Constant <value = bool {1}> () c = And (free, z)"), "condition"),
        (choosing("s = Shape (x) m = Constant <value = int64[1] {1}> () c = Equal (s, m)"), "condition"),
    ],
)
def test_leaves_alone(model: ir.Model, rule: str) -> None:
    before = lines(model)
    assert [miss.rule for miss in misses(InlineBranches(), model)] == [rule]
    assert apply(InlineBranches(), model) == before


def test_leaves_a_branch_of_another_domain() -> None:
    assert misses(InlineBranches(), graph("y = my.If(x)")) == []


@pytest.mark.parametrize("model", [choosing(YES), choosing(NO), choosing(SHAPE), inside_if(choosing(NO))])
def test_holds(model: ir.Model) -> None:
    assert holds(InlineBranches(), model) == 0.0
