"""Between which integers a tensor lies."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tersor.ir.feeds import random_feeds
from tersor.ir.text import graph, parse_type
from tersor.passes.raising.embedding.intervals import interval, uniform
from tersor.tests.support import on_onnxruntime

I = {"x": "int64[batch, 6]", "b": "bool[batch, 6]", "u": "uint8[batch, 6]", "f": "float[batch, 6]"}  # noqa: E741
EVERY = (-(2**63), 2**63 - 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (["y = Cast{to=int64}(b)"], (0, 1)),
        (["y = Cast{to=int64}(u)"], (0, 255)),
        (["y = Cast{to=int64}(f)"], EVERY),
        (["n = Not(b)", "y = Cast{to=int32}(n)"], (0, 1)),
        (["c = Cast{to=bool}(x)", "y = Cast{to=int64}(c)"], (0, 1)),
        (["c = Clip(x, 2, 5)", "d = Cast{to=bool}(c)", "y = Cast{to=int64}(d)"], (1, 1)),
        (["y = Clip(x, -1, 3)"], (-1, 3)),
        (["y = Clip(x, _, 3)"], (EVERY[0], 3)),
        (["y = Min(x, 3)"], (EVERY[0], 3)),
        (["m = Min(x, 3)", "y = Max(m, 0)"], (0, 3)),
        (["y = Mod(x, 4)"], (0, 3)),
        (["y = Mod{fmod=1}(x, 4)"], EVERY),
        (["c = Clip(x, -2, 3)", "y = Abs(c)"], (0, 3)),
        (["c = Clip(x, -5, -3)", "y = Abs(c)"], (3, 5)),
        (["c = Clip(x, 0, 3)", "d = Mul(c, -2)", "y = Add(d, 1)"], (-5, 1)),
        (["c = Clip(x, 0, 3)", "y = Sub(2, c)"], (-1, 2)),
        (["y = Mul(x, 0)"], (0, 0)),
        (["y = Add(x, 1)"], EVERY),
        (["y = Where(b, 3, 1)"], (1, 3)),
        (["e = Cast{to=int64}(b)", "y = Concat{axis=1}(e, seven)"], (0, 7)),
        (["y = ArgMax{axis=1}(f)"], (0, 5)),
        (["y = ArgMax{axis=0}(f)"], (0, EVERY[1])),
        (["i = Cast{to=int64}(b)", "y = GatherElements{axis=1}(table, i)"], (-3, 9)),
        (["s = Shape(x)", "y = ConstantOfShape(s)"], (0, 0)),
        (["s = Shape(x)", "z = ConstantOfShape(s)", "y = Cast{to=int64}(z)"], (0, 0)),
        (["s = Shape(x)", "e = Expand(four, s)", "y = Transpose(e)"], (4, 4)),
        (["y = Shape(x)"], (0, EVERY[1])),
        (["y = Shape{start=1}(x)"], (6, 6)),
        (["n = Shape{end=1}(x)", "k = Squeeze(n)", "y = Range(0, k, 1)"], (0, EVERY[1] - 1)),
    ],
)  # fmt: skip
def test_intervals(text: list[str], expected: tuple[int, int]) -> None:
    made = graph(
        *text,
        inputs={name: kind for name, kind in I.items() if any(re.search(rf"[( ]{name}\b", line) for line in text)},
        table=np.array([[9, 1, -3, 4, 0, 2]] * 2), seven=np.full((2, 1), 7), four=np.array([4]),
    )  # fmt: skip
    assert interval(made.graph.outputs[0]) == expected
    (found,) = on_onnxruntime(made, random_feeds(made, seed=3))
    assert expected[0] <= found.min() and found.max() <= expected[1]


@pytest.mark.parametrize(
    "text",
    [
        ["y = Mul(f, 0.0)"],  # NaN where f is
        ["y = Expand(half, [2, 2])"],
        ["y = Expand(nan, [2, 2])"],
        ["y = Expand(large, [2, 2])"],
    ],
)
def test_floats_that_are_not_known_whole(text: list[str]) -> None:
    constants = {"half": np.float32(0.5), "nan": np.float32("nan"), "large": np.float32(1e9)}
    made = graph(*text, **{name: number for name, number in constants.items() if name in text[0]})
    made.graph.outputs[0].type = parse_type("float[2, 2]")[0]
    assert interval(made.graph.outputs[0]) is None


def test_what_wraps_around_is_not_known() -> None:
    made = graph("c = Clip(x, -1, 1)", "y = Cast{to=uint8}(c)", inputs={"x": "int64[4]"})
    assert interval(made.graph.outputs[0]) == (0, 255)


def test_inputs_with_defaults_are_not_known() -> None:
    made = graph("y = Mul(x, zero)", inputs={"x": "int64[3]"}, zero=np.zeros(3, np.int64))
    assert uniform(made.graph.outputs[0]) == 0
    made.graph.inputs.append(made.graph.initializers["zero"])
    assert uniform(made.graph.outputs[0]) is None


def test_large_constants_are_not_read() -> None:
    made = graph("y = Mul(x, zeros)", inputs={"x": "int64[1]"}, zeros=np.zeros(1 << 17, np.int64))
    assert uniform(made.graph.outputs[0]) is None


def test_a_long_chain_ends() -> None:
    lines = [f"v{index + 1} = Add(v{index}, v{index})" for index in range(200)]
    made = graph("v0 = Mul(x, 0)", *lines, inputs={"x": "int64[4]"})
    assert interval(made.graph.outputs[0]) == EVERY
