"""Identity and casts to the same type."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.clean.drop_identities import DropIdentities
from tersor.tests.support import apply, holds, inside_if, misses, parse

X = {"x": "float[batch, 4]"}


def declared(model: ir.Model, **shapes: list[int | str | None]) -> ir.Model:
    """The model with outputs declared as its author did."""
    for value in model.graph.outputs:
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(shapes[value.name or ""])
    return model


@pytest.mark.parametrize(
    ("model", "after"),
    [
        (graph("t = Identity(x)", "y = Relu(t)", inputs=X), ["y = Relu(x)"]),
        (graph("t = Cast{to=float}(x)", "y = Relu(t)", inputs=X), ["y = Relu(x)"]),
        (graph("a = Identity(x)", "b = Identity(a)", "y = Add(a, b)", inputs=X), ["y = Add(x, x)"]),
        (graph("r = Relu(x)", "y = Identity(r)", inputs=X), ["y = Relu(x)"]),
        (graph("r = Relu(x)", "a = Identity(r)", "y = Identity(a)", inputs=X), ["y = Relu(x)"]),
        (graph("r = Relu(x)", "y = Identity(r)", "z = Neg(r)", inputs=X), ["y = Relu(x)", "z = Neg(y)"]),
        (graph("v = Identity(w)", "y = Mul(x, v)", inputs=X, w=2.0), ["y = Mul(x, w)"]),
    ],
)
def test_rewrites(model: ir.Model, after: list[str]) -> None:
    assert apply(DropIdentities(), model) == after


def test_rewrites_in_branches() -> None:
    model = inside_if(graph("r = Relu(x)", "y = Identity(r)", inputs=X))
    assert [line.strip() for line in apply(DropIdentities(), model) if "=" in line][1:] == [
        "y_else = Relu(x)",
        "y_then = Relu(x)",
    ]


@pytest.mark.parametrize("known", [["batch", 4], [None, 4], ["rows", 4], None])
def test_an_output_keeps_the_dimensions_its_author_gave_it(known: list[int | str | None] | None) -> None:
    model = declared(graph("r = Relu(x)", "y = Identity(r)", inputs=X), y=["batch", 4])
    next(iter(model.graph)).outputs[0].shape = None if known is None else ir.Shape(known)
    assert apply(DropIdentities(), model) == ["y = Relu(x)"]


@pytest.mark.parametrize(
    ("model", "rule", "need"),
    [
        (graph("t = Cast{to=float16}(x)", "y = Relu(t)", inputs=X), "cast", "the type already"),
        (graph("t = Cast{to=float}(x)", "y = Relu(t)", inputs={"x": "int64[4]"}), "cast", "the type already"),
        (graph("y = Identity(x)", inputs=X), "name", "a value of its own"),
        (graph("y = Identity(w)", w=np.ones(2, np.float32)), "name", "a value of its own"),
        (
            graph("r = Relu(x)", "y = Identity(r)", inputs=X, outputs=["r", "y"]),
            "name",
            "a value of its own",
        ),
    ],
)
def test_leaves_alone(model: ir.Model, rule: str, need: str) -> None:
    (miss,) = misses(DropIdentities(), model)
    assert miss.rule == rule
    assert need in miss.need
    before = lines(model)
    assert apply(DropIdentities(), model) == before


def test_leaves_one_of_two_outputs_of_one_value() -> None:
    model = graph("r = Relu(x)", "y = Identity(r)", "z = Identity(r)", inputs=X)
    assert apply(DropIdentities(), model) == ["y = Relu(x)", "z = Identity(y)"]


def test_leaves_a_cast_of_unknown_type_alone() -> None:
    model = graph("r = Unknown(x)", "t = Cast{to=float}(r)", "y = Relu(t)")
    (miss,) = misses(DropIdentities(), model)
    assert miss.rule == "cast"


def test_leaves_a_branch_that_hands_out_what_is_outside() -> None:
    model = parse(
        """g (bool c, float[2] x) => (float[2] y) {
            a = Neg (x)
            y = If (c) <then_branch = t () => (float[2] p) { p = Identity (a) },
                        else_branch = e () => (float[2] q) { q = Abs (a) }>
        }"""
    )
    (miss,) = misses(DropIdentities(), model)
    assert miss.rule == "name"
    before = lines(model)
    assert apply(DropIdentities(), model) == before


def test_leaves_an_identity_of_another_domain() -> None:
    model = graph("t = custom.Identity(x)", "y = Relu(t)")
    assert misses(DropIdentities(), model) == []
    assert apply(DropIdentities(), model) == ["t = custom.Identity(x)", "y = Relu(t)"]


@pytest.mark.parametrize(
    "model",
    [
        graph("a = Identity(x)", "b = Cast{to=float}(a)", "y = Relu(b)", "z = Identity(y)", inputs=X),
        inside_if(graph("r = Relu(x)", "y = Identity(r)", inputs=X)),
    ],
)
def test_holds(model: ir.Model) -> None:
    assert holds(DropIdentities(), model) == 0.0
