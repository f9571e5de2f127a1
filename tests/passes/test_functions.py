"""Model-local functions: declared once, called, accepted everywhere a model goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.cost import cost
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, check, detect
from tersor.ir.load import load
from tersor.ir.save import save
from tersor.ir.text import graph, lines
from tersor.passes.base import Context, Match, Miss, Rewrite
from tersor.passes.clean.inline_functions import InlineFunctions
from tersor.passes.edit import Tape, replace
from tersor.passes.functions import Function
from tersor.tests.support import apply, distance, holds, inside_if, on_onnxruntime

SQUARE = Function("Square (x) => (y) { y = Mul (x, x) }")
SCALED = Function(
    "Square <alpha: float = 2.0> (x) => (y) {"
    " a = Constant <value_float: float = @alpha> ()  b = CastLike (a, x)  c = Mul (x, x)  y = Mul (b, c) }",
    overload="scaled",
)


@dataclass(frozen=True, kw_only=True)
class RaiseSquare(Rewrite):
    """x * x -> tersor.Square(x)"""

    name: ClassVar[str] = "raise-square"
    anchors: ClassVar[tuple[str, ...]] = ("Mul",)
    alpha: float | None = None

    def match(self, node: ir.Node) -> Match | Miss:
        same = node.inputs[0] is node.inputs[1]
        return Match(node=node) if same else Miss("square", "two values", "one")

    def rewrite(self, found: Match) -> None:
        tape = Tape()
        x = found.node.inputs[0]
        if self.alpha is None:
            y = SQUARE(tape, x)
        else:
            y = tape("Div", SCALED(tape, x, alpha=self.alpha), tape.constant(self.alpha))
        replace(tape, [found.node.outputs[0]], [y])


def two() -> ir.Model:
    return graph("a = Mul(x, x)", "b = Relu(a)", "y = Mul(b, b)", inputs={"x": "float[batch, 4]"})


def test_a_call_takes_the_place_and_the_function_is_declared_once() -> None:
    model = two()
    assert apply(RaiseSquare(), model) == ["a = tersor.Square(x)", "b = Relu(a)", "y = tersor.Square(b)"]
    assert list(model.functions) == [("tersor", "Square", "")]
    assert [node.op_type for node in model.functions["tersor", "Square", ""]] == ["Mul"]
    assert SQUARE.called_by(model.graph.node(0))
    assert not SCALED.called_by(model.graph.node(0)) and not SQUARE.called_by(model.graph.node(1))


def test_a_function_stays_as_it_is_where_the_model_has_it() -> None:
    model = two()
    SQUARE.declare(model)
    held = model.functions["tersor", "Square", ""]
    RaiseSquare().apply(model, Context())
    assert model.functions["tersor", "Square", ""] is held


def test_a_function_has_the_opset_of_the_model() -> None:
    model = graph("y = Mul(x, x)", inputs={"x": "float[4]"}, opset=17)
    RaiseSquare().apply(model, Context())
    assert model.functions["tersor", "Square", ""].opset_imports == {"": 17}
    assert model.ir_version >= 10


def test_explaining_declares_nothing() -> None:
    model = two()
    RaiseSquare().explain(model, Context())
    assert not model.functions


@pytest.mark.parametrize("alpha", [None, 3.0])
@pytest.mark.parametrize("wrapped", [False, True])
class TestAccepted:
    def test_by_the_interpreter_and_by_onnx_runtime(self, alpha: float | None, wrapped: bool) -> None:
        plain = inside_if(two()) if wrapped else two()
        holds(RaiseSquare(alpha=alpha), plain)
        raised = plain.clone()
        RaiseSquare(alpha=alpha).apply(raised, Context())
        feeds = random_feeds(plain, {"batch": 3}, seed=0)
        assert distance(on_onnxruntime(raised, feeds), on_onnxruntime(plain, feeds)) < 1e-6

    def test_by_the_level_the_cost_the_checker_and_the_disk(
        self, alpha: float | None, wrapped: bool, tmp_path: Path
    ) -> None:
        model = inside_if(two()) if wrapped else two()
        spent = int(cost(model).flops.at({"batch": 5}))
        RaiseSquare(alpha=alpha).apply(model, Context())
        check(model, Level.SEMANTIC)
        assert detect(model) is Level.SEMANTIC
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        found = cost(model)
        assert not found.unknown and int(found.flops.at({"batch": 5})) >= spent
        save(model, tmp_path / "model.onnx")
        back = load(tmp_path / "model.onnx")
        assert lines(back) == lines(model) and list(back.functions) == list(model.functions)
        assert compare(model, back, random_feeds(model, {"batch": 3}, seed=0)).within(0.0)

    def test_by_inlining(self, alpha: float | None, wrapped: bool) -> None:
        model = inside_if(two()) if wrapped else two()
        raised = model.clone()
        RaiseSquare(alpha=alpha).apply(raised, Context())
        InlineFunctions(own=True).apply(raised, Context())
        assert not raised.functions and "tersor" not in raised.opset_imports
        assert not any("tersor." in line for line in lines(raised))
        assert compare(model, raised, random_feeds(model, {"batch": 3}, seed=0)).within(1e-6)


def test_functions_of_one_name_are_told_apart() -> None:
    model = graph("a = Mul(x, x)", "y = Relu(a)", inputs={"x": "float[4]"})
    RaiseSquare(alpha=3.0).apply(model, Context())
    RaiseSquare().apply(model, Context())
    other = graph("y = Mul(x, x)", inputs={"x": "float[4]"})
    RaiseSquare().apply(other, Context())
    SCALED.declare(other)
    assert list(other.functions) == [("tersor", "Square", ""), ("tersor", "Square", "scaled")]
    x = {"x": np.arange(4, dtype=np.float32)}
    np.testing.assert_allclose(on_onnxruntime(model, x)[0], x["x"] ** 2, rtol=1e-6)
