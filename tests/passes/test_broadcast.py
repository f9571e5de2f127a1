"""Values that shrink along axes, and readers that broadcast them back."""

from __future__ import annotations

import re

import onnx_ir as ir
import pytest
from tersor.ir.text import graph
from tersor.passes.broadcast import narrowed, restate_shapes

INPUTS = {
    "v": "float[batch, sequence, 4]", "x": "float[batch, sequence, 4]", "flat": "float[sequence, 4]",
    "deep": "float[lot, batch, sequence, 1]",
}  # fmt: skip


def of(*text: str) -> tuple[ir.Model, dict[str, ir.Value]]:
    words = set(re.findall(r"\w+", " ".join(text)))
    model = graph(*text, inputs={name: kind for name, kind in INPUTS.items() if name in words})
    return model, {value.name or "": value for value in model.graph.inputs}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (["y = Add(x, v)"], []),
        (["y = Add(v, deep)"], []),
        (["y = Add(x, v)", "z = Max(v, x)"], []),
        (["s = Add(v, flat)", "y = Add(x, s)"], ["s"]),
        (["s = Add(v, v)", "y = Add(x, s)"], ["s"]),
        (["c = Cast{to=1}(v)", "s = Add(v, c)", "y = Add(x, s)"], ["c", "s"]),
    ],
)
def test_what_becomes_narrower(text: list[str], expected: list[str]) -> None:
    found = narrowed(of(*text)[1]["v"], (-3, -2))
    assert found is not None and [item.name for item in found] == expected


@pytest.mark.parametrize(
    "text",
    [
        ["y = Neg(v)"],
        ["y = Add(v, flat)"],
        ["y = Add(v, v)"],
        ["c = Cast{to=1}(v)", "y = Add(v, c)"],
        ["y = Add(x, v)", "z = Softmax(v)"],
        ["s = Add(v, flat)", "y = Add(x, s)", "z = Neg(s)"],
    ],
)
def test_what_must_stay_wide(text: list[str]) -> None:
    assert narrowed(of(*text)[1]["v"], (-3, -2)) is None


def test_chains_end() -> None:
    chain = [f"s{index + 1} = Add({'v' if not index else f's{index}'}, 1.0)" for index in range(12)]
    assert narrowed(of(*chain, "y = Add(x, s12)")[1]["v"], (-3, -2)) is None


def test_nothing_lost_is_nothing_narrower() -> None:
    assert narrowed(of("y = Softmax(v)")[1]["v"], ()) == ()


def test_shapes_follow_from_operands() -> None:
    model, values = of("s = Add(v, flat)", "y = Add(x, s)")
    made = model.graph[0].outputs[0]
    model.graph[0].replace_input_with(0, values["flat"])
    restate_shapes([made])
    assert str(made.shape) == "[sequence,4]"
