"""Elements of one row, read at places of each row."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.raising.embedding.raise_row_gather import RaiseRowGather
from tersor.tests.support import apply, holds, inside_if, misses

PASS = RaiseRowGather()
SQUARES = (np.arange(9) ** 2)[None]
SHAPE = ["s = Shape{end=1}(ids)", "w = Concat{axis=0}(s, [9])"]


def made(*text: str) -> ir.Model:
    """Lines over ids, rows of nine numbers, and the bounds of a clip."""
    named = {
        "row": SQUARES, "flat": SQUARES[0], "steps": np.arange(9)[None], "low": np.int64(-9), "zero": np.int64(0),
        "high": np.int64(8),
    }  # fmt: skip
    used = {name: array for name, array in named.items() if re.search(rf"\b{name}\b", " ".join(text))}
    return graph(*text, inputs={"ids": "int64[batch, sequence]" if SHAPE[0] in text else "int64[1, sequence]"}, **used)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (["y = GatherElements{axis=1}(row, ids)"], ["y = Gather{axis=0}(y/row, ids)"]),
        (["y = GatherElements{axis=-1}(row, ids)"], ["y = Gather{axis=0}(y/row, ids)"]),
        ([*SHAPE, "e = Expand(row, w)", "y = GatherElements{axis=1}(e, ids)"], ["y = Gather{axis=0}(y/row, ids)"]),
        ([*SHAPE, "e = Expand(flat, w)", "y = GatherElements{axis=1}(e, ids)"], ["y = Gather{axis=0}(y/row, ids)"]),
        (["c = Clip(ids, low, high)", "y = GatherElements{axis=1}(steps, c)"],
         ["c = Clip(ids, low, high)", "y = Gather{axis=0}(y/row, c)"]),
        (["c = Clip(ids, zero, high)", "g = GatherElements{axis=1}(steps, c)", "y = Neg(g)"],
         ["c = Clip(ids, zero, high)", "y = Neg(c)"]),
        (["c = Clip(ids, zero, high)", "y = GatherElements{axis=1}(steps, c)"],
         ["c = Clip(ids, zero, high)", "y = Identity(c)"]),
    ],
)  # fmt: skip
def test_raises(text: list[str], after: list[str]) -> None:
    model = made(*text)
    for node in model.graph:
        if node.op_type == "Expand":
            node.outputs[0].shape = ir.Shape(["batch", 9])
    assert apply(PASS, model.clone()) == after
    assert holds(PASS, model) == 0.0


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (["y = GatherElements{axis=1}(two, ids)"], "row"),
        (["y = GatherElements{axis=0}(row, ids)"], "row"),
        (["t = Mul(ids, 2)", "y = GatherElements{axis=1}(t, ids)"], "row"),
        (["e = Expand(one, [2, 9])", "y = GatherElements{axis=1}(e, ids)"], "row"),
        (["y = GatherElements{axis=1}(none, ids)"], "length"),
        (["y = GatherElements{axis=1}(long, ids)"], "length"),
    ],
)
def test_leaves_alone(text: list[str], rule: str) -> None:
    words = " ".join(text)
    constants = {
        "two": np.arange(18).reshape(2, 9), "row": SQUARES, "one": np.ones((1, 1), np.int64),
        "none": np.zeros((1, 0), np.int64), "long": np.zeros((1, (1 << 16) + 1), np.int64),
    }  # fmt: skip
    used = {name: array for name, array in constants.items() if f"({name}" in words}
    model = graph(*text, inputs={"ids": "int64[batch, sequence]"}, **used)
    assert {miss.rule for miss in misses(PASS, model)} == {rule}
    before = lines(model)
    assert apply(PASS, model) == before


def test_leaves_a_row_that_the_caller_may_override_alone() -> None:
    model = graph("y = GatherElements{axis=1}(row, ids)", inputs={"ids": "int64[1, n]"}, row=SQUARES)
    model.graph.inputs.append(model.graph.initializers["row"])
    assert {miss.rule for miss in misses(PASS, model)} == {"row"}


def test_counts_of_another_type_are_no_ids() -> None:
    model = graph(
        "c = Clip(ids, 0, 8)", "y = GatherElements{axis=1}(steps, c)", inputs={"ids": "int64[1, n]"},
        steps=np.arange(9, dtype=np.int32)[None],
    )  # fmt: skip
    PASS.apply(model, Context())
    assert [node.op_type for node in model.graph] == ["Clip", "Gather"]


def test_in_branches() -> None:
    model = inside_if(graph("y = GatherElements{axis=1}(row, ids)", inputs={"ids": "int64[1, n]"}, row=SQUARES))
    assert holds(PASS, model) == 0.0
    assert sum("= Gather{" in line for line in apply(PASS, model)) == 2
