"""What no output depends on goes, in subgraphs too."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.clean.drop_dead_code import DropDeadCode
from tersor.tests.support import apply, holds, inside_if, parse

W = np.ones(2, np.float32)


class TestRewrites:
    def test_nodes_and_weights(self) -> None:
        model = graph("a = Mul(x, w)", "b = Neg(a)", "y = Relu(x)", outputs=["y"], w=W)
        assert apply(DropDeadCode(), model) == ["y = Relu(x)"]
        assert not model.graph.initializers

    def test_a_weight_that_nobody_reads(self) -> None:
        model = graph("y = Relu(x)")
        model.graph.register_initializer(ir.Value(name="spare", const_value=ir.tensor(W, name="spare")))
        assert apply(DropDeadCode(), model) == ["y = Relu(x)"]

    def test_a_dead_if_and_what_only_its_branches_read(self) -> None:
        model = parse(
            """g (bool c, float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> {
                a = Neg (x)
                dead = If (c) <then_branch = t () => (float[2] p) { p = Mul (a, w) },
                               else_branch = e () => (float[2] q) { q = Neg (a) }>
                y = Relu (x)
            }"""
        )
        assert apply(DropDeadCode(), model) == ["y = Relu(x)"]
        assert not model.graph.initializers

    def test_inside_a_branch(self) -> None:
        model = inside_if(graph("a = Mul(x, w)", "y = Relu(x)", outputs=["y"], inputs={"x": "float[2]"}, w=W))
        assert [line.strip() for line in apply(DropDeadCode(), model)[1:]] == [
            "else_branch:",
            "y_else = Relu(x)",
            "then_branch:",
            "y_then = Relu(x)",
        ]

    def test_a_weight_inside_a_branch(self) -> None:
        model = parse(
            """g (bool c, float[2] x) => (float[2] y) {
                y = If (c) <then_branch = t () => (float[2] p) <float[2] spare = {1.0, 2.0}> { p = Neg (x) },
                            else_branch = e () => (float[2] q) { q = Abs (x) }>
            }"""
        )
        apply(DropDeadCode(), model)
        assert not any(scope.initializers for scope in model.graph.subgraphs())

    def test_functions_and_imports_that_nobody_uses(self) -> None:
        model = parse(
            "g (float[2] x) => (float[2] y) { y = Relu (x) }",
            functions='<domain: "pkg", opset_import: ["": 23]> Twice (a) => (b) { b = Add (a, a) }',
        )
        assert apply(DropDeadCode(), model) == ["y = Relu(x)"]
        assert not model.functions
        assert set(model.opset_imports) == {""}


class TestLeavesAlone:
    def test_outputs_and_what_feeds_them(self) -> None:
        text = ["a = Mul(x, w)", "y = Neg(a)", "z = Relu(a)"]
        model = graph(*text, outputs=["z", "y", "a"], w=W)
        assert apply(DropDeadCode(), model) == text
        assert DropDeadCode().apply(model, Context()).matches == 0

    def test_inputs_that_nobody_reads(self) -> None:
        model = graph("y = Relu(x)", inputs={"x": "float[2]", "unread": "float[2]"})
        apply(DropDeadCode(), model)
        assert [value.name for value in model.graph.inputs] == ["x", "unread"]

    def test_what_a_live_branch_reads_from_outside(self) -> None:
        model = inside_if(graph("y = Mul(x, w)", inputs={"x": "float[2]"}, w=W))
        before = lines(model)
        assert apply(DropDeadCode(), model) == before
        assert list(model.graph.initializers) == ["w"]

    def test_a_weight_that_is_an_output(self) -> None:
        model = graph("y = Mul(x, w)", outputs=["y"], w=W)
        model.graph.outputs.append(model.graph.initializers["w"])
        assert apply(DropDeadCode(), model) == ["y = Mul(x, w)"]


def test_holds() -> None:
    model = graph("a = Mul(x, w)", "b = Neg(a)", "y = Relu(a)", outputs=["y"], inputs={"x": "float[n, 2]"}, w=W)
    assert holds(DropDeadCode(), model) == 0.0
