"""Lookups of one row."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.raising.embedding.raise_constant_lookup import RaiseConstantLookup
from tersor.tests.support import apply, holds, inside_if, misses

PASS = RaiseConstantLookup()
I = {"x": "float[batch, sequence, 4]", "ids": "int64[batch, sequence]"}  # noqa: E741
TABLE = np.arange(12, dtype=np.float32).reshape(3, 4)
ROW = "y = Add(x, g/row_0)"


def made(*text: str, outputs: list[str] | None = None, **more: object) -> ir.Model:
    """Lines over x, ids and a table of three rows of four."""
    used = {name: kind for name, kind in I.items() if any(name in line for line in text)}
    kinds = {name: kind for name, kind in more.items() if isinstance(kind, str)}
    constants = {name: value for name, value in more.items() if not isinstance(value, str)}
    table = {"t": TABLE} if "(t," in " ".join(text) else {}
    return graph(*text, inputs=used | kinds, outputs=outputs, **table, **constants)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "y = Add(x, g)"], [ROW]),
        (["z = Mul(ids, 0)", "g = Gather{axis=-2}(t, z)", "y = Mul(g, x)"], ["y = Mul(g/row_0, x)"]),
        (["m = Mul(ids, 0)", "z = Sub(m, 2)", "g = Gather(t, z)", "y = Add(x, g)"], ["y = Add(x, g/row_1)"]),
        (["z = Clip(ids, 2, 2)", "g = Gather(t, z)", "y = Sum(x, g, x)"], ["y = Sum(x, g/row_2, x)"]),
        (["z = GatherElements{axis=1}(zeros, ids)", "g = Gather(t, z)", "y = Add(x, g)"], [ROW]),
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "a = Add(x, g)", "y = Sub(a, g)"],
         ["a = Add(x, g/row_0)", "y = Sub(a, g/row_0)"]),
        # the sum with another is narrower too, and what reads it is not
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "s = Add(g, one)", "y = Add(x, s)"],
         ["s = Add(g/row_0, one)", "y = Add(x, s)"]),
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "c = Cast{to=1}(g)", "y = Where(k, c, x)"],
         ["c = Cast{to=1}(g/row_0)", "y = Where(k, c, x)"]),
        # an axis of size one is broadcast by an operand that has any
        (["z = Mul(one_row, 0)", "g = Gather(t, z)", "y = Add(x, g)"], [ROW]),
    ],
)  # fmt: skip
def test_raises(text: list[str], after: list[str]) -> None:
    words = " ".join(text)
    more: dict[str, object] = {"zeros": np.zeros((2, 16), np.int64)} if "zeros" in words else {}
    more |= {"k": "bool[batch, sequence, 1]"} if "(k" in words else {}
    more |= {"one_row": "int64[1, sequence]"} if "one_row" in words else {}
    more |= {"one": np.ones(4, np.float32)} if "one)" in words else {}
    assert apply(PASS, made(*text, **more)) == after
    assert holds(PASS, made(*text, **more)) == 0.0


def test_the_row_is_one_of_the_table() -> None:
    model = made("z = Mul(ids, 0)", "w = Add(z, 1)", "g = Gather(t, w)", "y = Add(x, g)")
    PASS.apply(model, Context())
    (row,) = model.graph.initializers.values()
    assert row.const_value is not None
    np.testing.assert_array_equal(row.const_value.numpy(), TABLE[1])


def test_shapes_say_what_became_narrower() -> None:
    model = made("z = Mul(ids, 0)", "g = Gather(t, z)", "s = Add(g, 1.0)", "y = Add(x, s)")
    PASS.apply(model, Context())
    assert [str(node.outputs[0].shape) for node in model.graph] == ["[4]", "[batch,sequence,4]"]


def test_types_that_nobody_passed() -> None:
    """As torch writes them: a row of zeros, read at the positions, spread over the batch."""
    text = ["n = Shape{start=1}(ids)", "at = Slice(places, [0], n, [1])", "z = GatherElements{axis=1}(zeros, at)",
            "s = Shape(ids)", "e = Expand(z, s)", "g = Gather(t, e)", "y = Add(x, g)"]  # fmt: skip
    model = made(*text, zeros=np.zeros((1, 48), np.int64), places=np.arange(48)[None])
    for node in model.graph:
        if node.op_type in ("Expand", "Gather"):
            node.outputs[0].shape = ir.Shape(["batch", "sequence", *[4] * (node.op_type == "Gather")])
    assert apply(PASS, model.clone()) == [ROW]
    assert holds(PASS, model) == 0.0


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (["g = Gather(t, ids)", "y = Add(x, g)"], "index"),
        (["z = Clip(ids, 0, 1)", "g = Gather(t, z)", "y = Add(x, g)"], "index"),
        (["z = Clip(ids, 3, 3)", "g = Gather(t, z)", "y = Add(x, g)"], "row"),
        (["z = Clip(ids, -4, -4)", "g = Gather(t, z)", "y = Add(x, g)"], "row"),
        (["z = Mul(ids, 0)", "g = Gather{axis=1}(t, z)", "y = Neg(g)"], "table"),
        (["z = Mul(ids, 0)", "g = Gather(x, z)", "y = Neg(g)"], "table"),
        (["z = Mul(ids, 0)", "g = Gather(three, z)", "y = Neg(g)"], "table"),
        (["z = Mul(ids, 0)", "g = Gather(whole, z)", "y = Neg(g)"], "table"),
        (["z = Mul(ids, 0)", "y = Gather(t, z)"], "broadcast"),
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "y = Add(g, one)"], "broadcast"),
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "y = Add(g, g)"], "broadcast"),
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "c = Cast{to=1}(g)", "y = Add(g, c)"], "broadcast"),
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "y = Softmax(g)"], "broadcast"),
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "y = LayerNormalization(g, one)"], "broadcast"),
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "y = Add(g, other)"], "broadcast"),
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "y = Add(g, narrow)"], "broadcast"),
        (["z = Mul(ids, 0)", "g = Gather(t, z)", "y = Add(x, g)", "n = Neg(g)"], "broadcast"),
        (["z = Mul(row, 0)", "g = Gather(t, z)", "y = Add(g, one)"], "broadcast"),
    ],
)
def test_leaves_alone(text: list[str], rule: str) -> None:
    words = " ".join(text)
    more: dict[str, object] = {"one": np.ones(4, np.float32)} if "one)" in words else {}
    more |= {"three": np.ones((3, 2, 4), np.float32)} if "three" in words else {}
    more |= {"whole": np.ones((3, 4), np.int64)} if "whole" in words else {}
    more |= {"other": "float[lot, length, 4]"} if "other" in words else {}
    more |= {"narrow": "float[sequence, 4]"} if "narrow" in words else {}
    more |= {"row": "int64[1]"} if "row," in words else {}
    model = made(*text, **more)
    assert rule in {miss.rule for miss in misses(PASS, model)}
    before = lines(model)
    assert apply(PASS, model) == before


def test_leaves_outputs_alone() -> None:
    model = made("z = Mul(ids, 0)", "g = Gather(t, z)", "y = Add(x, g)", outputs=["g", "y"])
    assert {miss.rule for miss in misses(PASS, model)} == {"broadcast"}


def test_leaves_a_table_that_the_caller_may_override_alone() -> None:
    model = made("z = Mul(ids, 0)", "g = Gather(t, z)", "y = Add(x, g)")
    model.graph.inputs.append(model.graph.initializers["t"])
    assert {miss.rule for miss in misses(PASS, model)} == {"table"}


def test_a_table_of_no_rows_has_none() -> None:
    empty = np.zeros((0, 4), np.float32)
    model = graph("z = Mul(ids, 0)", "g = Gather(t, z)", "y = Add(x, g)", inputs=I, t=empty)
    assert {miss.rule for miss in misses(PASS, model)} == {"row"}


def test_a_row_of_nan_stays_nan() -> None:
    nan = np.full((3, 4), np.nan, np.float32)
    model = graph("z = Mul(ids, 0)", "g = Gather(t, z)", "y = Add(x, g)", inputs=I, t=nan)
    assert apply(PASS, model) == [ROW]


def test_in_branches() -> None:
    model = inside_if(made("z = Mul(ids, 0)", "g = Gather(t, z)", "y = Add(x, g)"))
    assert holds(PASS, model) == 0.0
    assert not any("Gather" in line for line in apply(PASS, model))
