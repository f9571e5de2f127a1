"""What gives what it is given."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
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


KINDS = {**X, "n": "float", "maybe": "bool[]", "p": "int64[4]", "a": "int64[1]", "o": "float[]", "s": "float[4, batch]"}


def read(*text: str, outputs: list[str] | None = None) -> ir.Model:
    """The model of these lines, with those of KINDS that they read, `on` and `off`."""
    words = set(re.findall(r"\w+", " ".join(text)))
    flags = {name: np.array(name == "on") for name in ("on", "off") if name in words}
    kinds = {name: kind for name, kind in KINDS.items() if name in words}
    return graph(*text, inputs=kinds, outputs=outputs, **flags)


SAME = [
    *("Dropout(x)", "Dropout{ratio=0.1}(x)", "Dropout(x, 0.1)", "Dropout(x, 0.1, off)", "Dropout(x, _, off)"),
    *("Concat{axis=0}(x)", "Sum(x)", "Mean(x)", "Max(x)", "Min(x)", "Split{axis=0, num_outputs=1}(x)"),
    *("Pad(x, [0, 0, 0, 0])", "Pad(x, [0, 0], _, [1])", "Tile(x, [1, 1])", "CastLike(x, x)"),
    *("Slice(x, [0], [4], [1])", "Slice(x, [0], [9], [-1], [1])", "Slice(x, [0, 0], [9223372036854775807, 4])"),
    *("Slice(x, [0], [2147483647])", "Transpose{perm=[0, 1]}(x)", "Sub(x, 0.0)", "Div(x, 1.0)", "Pow(x, 1.0)"),
    *("Add(x, 0.0)", "Add(0.0, x)", "Mul(x, 1.0)", "Mul(1.0, x)", "Mul(x, [1.0])", "Mul([[1.0]], x)", "Pow(x, 1)"),
]


@pytest.mark.parametrize("same", SAME)
def test_drops_what_changes_nothing(same: str) -> None:
    model = read(f"t = {same}", "y = Relu(t)")
    holds(DropIdentities(), model)
    assert apply(DropIdentities(), model) == ["y = Relu(x)"]


@pytest.mark.parametrize("same", ["Mul(n, 1.0)", "Dropout(n)", "Slice(n, [0], [9223372036854775807])"])
def test_drops_it_where_the_shape_is_unknown(same: str) -> None:
    assert apply(DropIdentities(), read(f"t = {same}", "y = Relu(t)")) == ["y = Relu(n)"]


def test_drops_a_slice_up_to_the_size_that_the_value_has() -> None:
    text = ("s = Shape(x)", "e = Slice(s, [0], [1])", "t = Slice(x, [0], e)", "y = Relu(t)")
    assert apply(DropIdentities(), graph(*text, inputs=X)) == ["y = Relu(x)"]


def test_a_dropout_between_the_probabilities_and_the_values_goes() -> None:
    model = read("q = Softmax(s)", "d, m = Dropout(q, 0.1)", "y = MatMul(d, x)", outputs=["y"])
    assert apply(DropIdentities(), model) == ["q = Softmax(s)", "y = MatMul(q, x)"]


OTHER = {
    "training": ["Dropout(x, 0.1, on)", "Dropout(x, 0.1, maybe)"],
    "effect": [
        *("Concat{axis=0}(x, x)", "Sum(x, x)", "Max(x, 0.0)", "Pad(x, [0, 0, 0, 1])", "Pad(x, p)", "Tile(x, [1, 2])"),
        *("Slice(x, [0], [3], [1])", "Slice(x, [1], [9])", "Slice(x, [0], [3])", "Slice(x, [0], [-1], [1])"),
        *("Slice(x, [0, 0], [4, 4])", "Slice(x, [-1], [4], [1])", "Slice(x, [3], [-9], [1], [-1])"),
        *("Slice(x, [0], [9], [1], [2])", "Slice(x, [0], [9], a)", "Slice(x, [0], [9], [1], a)", "Slice(x, a, a)"),
        *("Transpose(x)", "Transpose{perm=[1, 0]}(x)", "Sub(0.0, x)", "Div(1.0, x)", "Pow(1.0, x)", "Add(x, 1.0)"),
        *("Mul(x, 0.0)", "Mul(x, [[[1.0]]])", "Mul(n, [1.0])", "Mul(x, [1.0, 1.0, 1.0, 1.0])", "Mul(x, o)"),
        *("Transpose(n)", "Add(x, x)", "Split{axis=1}(x)"),
    ],
}


@pytest.mark.parametrize(("rule", "other"), [(rule, other) for rule, others in OTHER.items() for other in others])
def test_leaves_what_changes_something(rule: str, other: str) -> None:
    model = read(f"{'t, u' if 'Split' in other else 't'} = {other}", "y = Relu(t)")
    (miss,) = misses(DropIdentities(), model)
    assert miss.rule == rule
    before = lines(model)
    assert apply(DropIdentities(), model) == before


@pytest.mark.parametrize("reader", ["z = Not(m)", "z = Identity(m)"])
def test_leaves_a_dropout_whose_mask_is_read(reader: str) -> None:
    model = graph("t, m = Dropout(x)", "y = Relu(t)", reader, inputs=X, outputs=["y", "z"])
    assert misses(DropIdentities(), model)[0].rule == "mask"
    assert "Dropout(x)" in apply(DropIdentities(), model)[0]


def test_leaves_a_default_that_the_caller_may_override() -> None:
    model = graph("t = Mul(x, one)", "y = Relu(t)", inputs={**X, "one": "float[]"})
    value = next(value for value in model.graph.inputs if value.name == "one")
    value.const_value = ir.tensor(np.float32(1.0), name="one")
    model.graph.register_initializer(value)
    (miss,) = misses(DropIdentities(), model)
    assert miss.rule == "effect"


def test_what_does_something_is_not_reported_as_missed() -> None:
    model = graph("a = Mul(x, 2.0)", "d = Dropout(a, 0.1, on)", "y = Relu(d)", inputs=X, on=np.array(True))
    found = DropIdentities().apply(model, Context()).misses
    assert [finding.place for finding in found] == ["Dropout at d"]


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
