"""A recurrence between two turns, and turns that are none."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.recurrence.raise_reversed_recurrence import RaiseReversedRecurrence
from tersor.tests.passes.raising.recurrence.graphs import numbers
from tersor.tests.support import apply, holds, misses

LOW = np.iinfo(np.int64).min
TURN = f"t = Slice(x, [-1], [{LOW}], [0], [-1])"
BACK = f"y = Slice(o, [-1], [{LOW}], [0], [-1])"
FLAT = "o = Squeeze(e, [1])"
RNN = "(e, h) = RNN{hidden_size=4}(t, w, r, b)"


def model(
    *text: str, outputs: tuple[str, ...] = ("y", "h"), x: str = "float[time, batch, 6]", gates: int = 1
) -> ir.Model:
    own = {"w": numbers(1, 4 * gates, 6), "r": numbers(1, 4 * gates, 4), "b": numbers(1, 8 * gates)}
    read = " ".join(text)
    lengths = {"l": "int32[batch]"} if ", l" in read else {}
    return graph(*text, inputs={"x": x, **lengths}, outputs=outputs, **own)


RAISED = [
    model(TURN, RNN, FLAT, BACK),
    model(TURN, RNN, BACK.replace("(o", "(e")),
    model(TURN, RNN, outputs=("h",)),
    model(TURN, "(e, h, c) = LSTM{hidden_size=4}(t, w, r, b)", FLAT, BACK, outputs=("y", "h", "c"), gates=4),
    model(TURN, "(e, h) = GRU{hidden_size=4, direction=reverse}(t, w, r, b)", FLAT, BACK, gates=3),
    model(
        "t = Slice(x, [4], [-6], [0], [-1])", RNN, FLAT, "y = Slice(o, [-1], [-9], [0], [-1])", x="float[5, batch, 6]"
    ),
]


def test_turns_the_recurrence_instead() -> None:
    assert apply(RaiseReversedRecurrence(), RAISED[0].clone()) == [
        "(y/RNN, h) = RNN{direction=reverse, hidden_size=4}(x, w, r, b)",
        "y = Squeeze(y/RNN, y/axes)",
    ]


def test_turns_a_reverse_one_forward() -> None:
    (first, *_) = apply(RaiseReversedRecurrence(), RAISED[4].clone())
    assert "direction=forward" in first


REFUSED = [
    ("input", model(RNN.replace("(t,", "(x,"), FLAT, BACK)),
    ("input", model(TURN.replace("[0]", "[1]"), RNN, FLAT, BACK)),
    ("input", model(TURN.replace("[0], [-1]", "[0], [-2]"), RNN, FLAT, BACK)),
    ("input", model("t = Slice(x, [-2], [-9], [0], [-1])", RNN, FLAT, BACK, x="float[5, batch, 6]")),
    ("input", model("t = Slice(x, [-1], [-3], [0], [-1])", RNN, FLAT, BACK, x="float[5, batch, 6]")),
    ("output", model(TURN, RNN, "y = Squeeze(e, [1])")),
    ("output", model(TURN, RNN, FLAT, BACK, outputs=("y", "o"))),
    ("output", model(TURN, RNN, FLAT, BACK, outputs=("y", "e"))),
    ("output", model(TURN, RNN, FLAT, BACK, "z = Relu(o)", outputs=("y", "z"))),
    ("output", model(TURN, RNN, FLAT, BACK.replace("[-1])", "[-2])"))),
    ("form", model(TURN, RNN.replace("b)", "b, l)"), FLAT, BACK)),
    ("form", model(TURN, RNN.replace("{", "{layout=1, "), FLAT.replace("[1]", "[2]"), BACK)),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseReversedRecurrence(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseReversedRecurrence(), made) == before


@pytest.mark.parametrize("made", RAISED)
def test_holds(made: ir.Model) -> None:
    sizes = {"batch": 2, "time": 4}
    named = {str(dim) for value in made.graph.inputs for dim in value.shape or ()}
    holds(RaiseReversedRecurrence(), made, {name: size for name, size in sizes.items() if name in named})
