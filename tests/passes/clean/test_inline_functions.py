"""Bodies of model-local functions where they are called."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.runner import runner
from tersor.ir.text import lines
from tersor.passes.clean.inline_functions import InlineFunctions
from tersor.tests.support import apply, holds, parse

TWICE = '<domain: "pkg", opset_import: ["": 23]> Twice (a) => (b) { t = Neg (a)  b = Add (t, a) }'
OWN = '<domain: "tersor", opset_import: ["": 23]> Mine (a) => (b) { b = Abs (a) }'
NESTED = '<domain: "pkg", opset_import: ["": 23, "pkg": 1]> Outer (a) => (b) { t = pkg.Twice (a)  b = pkg.Twice (t) }'
SCALED = '<domain: "pkg", opset_import: ["": 23]> Leaky <slope>(a) => (b) { b = LeakyRelu <alpha: float = @slope> (a) }'


def calling(body: str, *functions: str) -> ir.Model:
    return parse(f"g (float[n, 2] x) => (float[n, 2] y) {{ {body} }}", functions="\n".join(functions))


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph.all_nodes()]


class TestRewrites:
    def test_a_call(self) -> None:
        model = calling("y = pkg.Twice (x)", TWICE)
        apply(InlineFunctions(), model)
        assert ops(model) == ["Neg", "Add"]
        assert not model.functions
        assert set(model.opset_imports) == {""}

    def test_two_calls_get_names_of_their_own(self) -> None:
        model = calling("h = pkg.Twice (x)  y = pkg.Twice (h)", TWICE)
        apply(InlineFunctions(), model)
        assert ops(model) == ["Neg", "Add", "Neg", "Add"]

    def test_calls_within_functions(self) -> None:
        model = calling("y = pkg.Outer (x)", TWICE, NESTED)
        apply(InlineFunctions(), model)
        assert ops(model) == ["Neg", "Add"] * 2

    def test_attributes_of_the_call_are_passed_on(self) -> None:
        model = calling("y = pkg.Leaky <slope = 0.25> (x)", SCALED)
        apply(InlineFunctions(), model)
        assert lines(model) == ["y = LeakyRelu{alpha=0.25}(x)"]

    def test_our_own_when_asked(self) -> None:
        model = calling("y = tersor.Mine (x)", OWN)
        apply(InlineFunctions(own=True), model)
        assert ops(model) == ["Abs"]
        assert not model.functions

    def test_in_branches(self) -> None:
        model = parse(
            """g (bool c, float[2] x) => (float[2] y) {
                y = If (c) <then_branch = t () => (float[2] p) { p = pkg.Twice (x) },
                            else_branch = e () => (float[2] q) { q = Neg (x) }>
            }""",
            functions=TWICE,
        )
        apply(InlineFunctions(), model)
        assert ops(model) == ["If", "Neg", "Add", "Neg"]


class TestLeavesAlone:
    def test_functions_of_our_own(self) -> None:
        model = calling("h = pkg.Twice (x)  y = tersor.Mine (h)", TWICE, OWN)
        apply(InlineFunctions(), model)
        assert ops(model) == ["Neg", "Add", "Mine"]
        assert [function.name for function in model.functions.values()] == ["Mine"]
        assert "tersor" in model.opset_imports

    def test_ops_that_are_no_functions(self) -> None:
        model = calling("h = pkg.Other (x)  y = Relu (h)", TWICE)
        apply(InlineFunctions(), model)
        assert ops(model) == ["Other", "Relu"]


@pytest.mark.parametrize(
    ("made", "model"),
    [
        (InlineFunctions(), calling("h = pkg.Twice (x)  y = pkg.Outer (h)", TWICE, NESTED)),
        (InlineFunctions(), calling("y = pkg.Leaky <slope = 0.25> (x)", SCALED)),
        (InlineFunctions(own=True), calling("y = tersor.Mine (x)", OWN)),
    ],
)
def test_holds(made: InlineFunctions, model: ir.Model) -> None:
    assert holds(made, model) == 0.0


def test_bodies_of_two_calls_have_names_of_their_own() -> None:
    """The inputs of a Scan's body are values like any other."""
    add = """<domain: "pkg", opset_import: ["": 23]> Sum (a) => (b) {
        z = Constant <value_floats = [0.0]> ()
        b, c = Scan <num_scan_inputs = 1, body = step (float[1] last, float[1] x) => (float[1] next, float[1] out)
            { next = Add (last, x)  out = Identity (next) }> (z, a)
    }"""
    model = parse("g (float[3, 1] x) => (float[1] y, float[1] z) { y = pkg.Sum (x)  z = pkg.Sum (x) }", functions=add)
    apply(InlineFunctions(), model)
    bodies = [node.attributes["body"].as_graph() for node in model.graph if node.op_type == "Scan"]
    assert len({value.name for body in bodies for value in body.inputs}) == 4
    found = list(runner(model)({"x": np.array([[1], [2], [3]], np.float32)}).values())
    assert [array.item() for array in found] == [6, 6]
