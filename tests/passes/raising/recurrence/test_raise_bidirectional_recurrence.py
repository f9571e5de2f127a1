"""Two directions joined in every way, and pairs that do not belong together."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.recurrence.raise_bidirectional_recurrence import RaiseBidirectionalRecurrence
from tersor.tests.passes.raising.recurrence.graphs import numbers
from tersor.tests.support import apply, distance, holds, misses, on_onnxruntime

INPUTS = {"x": "float[time, batch, 6]", "s": "float[2, batch, 4]"}
AHEAD = "(e, h) = GRU{hidden_size=4}(x, w, r, b)"
BEHIND = "(f, k) = GRU{hidden_size=4, direction=reverse}(x, v, q, d)"
FLAT = ("e1 = Squeeze(e, [1])", "f1 = Squeeze(f, [1])")
WIDE = (*FLAT, "y = Concat{axis=-1}(e1, f1)")
LAST = "z = Concat{axis=0}(h, k)"
FIRST = ("s0 = Slice(s, [0], [1], [0])", "s1 = Slice(s, [1], [2], [0])")


def weights(gates: int) -> dict[str, np.ndarray]:
    shapes = {"w": (1, 4 * gates, 6), "r": (1, 4 * gates, 4), "b": (1, 8 * gates)}
    other = {"v": "w", "q": "r", "d": "b"}
    made = {name: numbers(*shape) for name, shape in shapes.items()}
    return made | {name: numbers(*shapes[like], seed=1) for name, like in other.items()}


def model(*text: str, outputs: tuple[str, ...] = ("y",), gates: int = 3, **more: object) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    inputs = {name: kind for name, kind in INPUTS.items() if name in read}
    inputs |= {name: kind for name, kind in more.items() if isinstance(kind, str)}
    constants = {**weights(gates), **{name: value for name, value in more.items() if not isinstance(value, str)}}
    return graph(
        *text, inputs=inputs, outputs=outputs, **{k: v for k, v in constants.items() if k in read and k not in inputs}
    )


RAISED = {
    "by feature": model(AHEAD, BEHIND, *WIDE),
    "backward first in the graph": model(BEHIND, AHEAD, *WIDE),
    "stacked": model(AHEAD, BEHIND, "y = Concat{axis=1}(e, f)"),
    "stacked again": model(
        AHEAD, BEHIND, *FLAT, "e2 = Unsqueeze(e1, [1])", "f2 = Unsqueeze(f1, [1])", "y = Concat{axis=1}(e2, f2)"
    ),
    "last states joined": model(AHEAD, BEHIND, *WIDE, LAST, outputs=("y", "z")),
    "last states apart": model(AHEAD, BEHIND, *WIDE, outputs=("y", "h", "k")),
    "outputs read apart as well": model(AHEAD, BEHIND, *WIDE, "z = Relu(f1)", outputs=("y", "z", "e")),
    "first states": model(
        *FIRST, AHEAD.replace("b)", "b, _, s0)"), BEHIND.replace("d)", "d, _, s1)"), *WIDE, LAST, outputs=("y", "z")
    ),
    "first states made between": model(
        FIRST[0], AHEAD.replace("b)", "b, _, s0)"), FIRST[1], BEHIND.replace("d)", "d, _, s1)"), *WIDE
    ),
    "LSTM": model(
        "(e, h, c) = LSTM{hidden_size=4}(x, w, r, b)", "(f, k, m) = LSTM{hidden_size=4, direction=reverse}(x, v, q, d)",
        *WIDE, LAST, "u = Concat{axis=0}(c, m)", outputs=("y", "z", "u"), gates=4,
    ),
    "RNN without biases, with relu": model(
        "(e, h) = RNN{hidden_size=4, activations=['Relu']}(x, w, r)",
        "(f, k) = RNN{hidden_size=4, activations=['Relu'], direction=reverse}(x, v, q)", *WIDE, gates=1,
    ),
}  # fmt: skip


def ops(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def test_one_recurrence_in_both_directions() -> None:
    assert apply(RaiseBidirectionalRecurrence(), RAISED["last states joined"].clone()) == [
        "(y/GRU, z) = GRU{direction=bidirectional, hidden_size=4}(x, w_1, r_1, b_1)",
        "y/Transpose = Transpose{perm=[0, 2, 1, 3]}(y/GRU)",
        "y = Reshape(y/Transpose, y/shape)",
    ]


@pytest.mark.parametrize("name", RAISED)
def test_every_join(name: str) -> None:
    made = RAISED[name].clone()
    apply(RaiseBidirectionalRecurrence(), made)
    found = ops(made)
    assert sum(found[op] for op in ("LSTM", "GRU", "RNN")) == 1


OTHER = {"other": "float[time, batch, 6]"}
REFUSED = [
    ("join", model(AHEAD, BEHIND, *FLAT, "y = Add(e1, f1)")),
    ("join", model(AHEAD, BEHIND, *FLAT, "y = Concat{axis=-1}(f1, e1)")),
    ("join", model(AHEAD, BEHIND, *FLAT, "y = Concat{axis=0}(e1, f1)")),
    ("join", model(AHEAD, BEHIND, *FLAT, "y = Concat{axis=-1}(e1, f1, e1)")),
    ("join", model(AHEAD, *FLAT[:1], "y = Concat{axis=-1}(e1, e1)")),
    ("direction", model(AHEAD, BEHIND.replace("reverse", "forward"), *WIDE)),
    ("direction", model(AHEAD, "(f, k) = RNN{hidden_size=4, direction=reverse}(x, v, q)", *WIDE,
                        v=numbers(1, 4, 6), q=numbers(1, 4, 4))),
    ("input", model(AHEAD, BEHIND.replace("(x,", "(other,"), *WIDE, **OTHER)),
    ("options", model(AHEAD, BEHIND.replace("{", "{linear_before_reset=1, "), *WIDE)),
    ("options", model(AHEAD, BEHIND.replace("{", "{clip=1.0, "), *WIDE)),
    ("weights", model(AHEAD, BEHIND.replace(", d)", ")"), *WIDE)),
    ("weights", model(AHEAD, BEHIND.replace("(x, v", "(x, g"), *WIDE, g="float[1, 12, 6]")),
    ("state", model(FIRST[0], AHEAD.replace("b)", "b, _, s0)"), BEHIND, *WIDE)),
    ("state", model(FIRST[0], AHEAD.replace("b)", "b, _, s0)"), "a = Relu(s)", "a1 = Slice(a, [1], [2], [0])",
                    BEHIND.replace("d)", "d, _, a1)"), *WIDE)),
    ("state", model(FIRST[0], BEHIND.replace("d)", "d, _, s0)"), AHEAD.replace("b)", "b, _, k)"), *WIDE)),
    ("state", model(FIRST[0], BEHIND.replace("d)", "d, _, s0)"), "g = Gather{axis=0}(f, 0)",
                    AHEAD.replace("b)", "b, _, g)"), *WIDE)),
    ("state", model(FIRST[0], BEHIND.replace("d)", "d, _, s0)"), "g = Relu(k)",
                    AHEAD.replace("b)", "b, _, g)"), *WIDE)),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    found = misses(RaiseBidirectionalRecurrence(), made)
    assert rule in {miss.rule for miss in found}, found
    before = lines(made)
    assert apply(RaiseBidirectionalRecurrence(), made) == before


@pytest.mark.parametrize("name", RAISED)
def test_holds(name: str) -> None:
    holds(RaiseBidirectionalRecurrence(), RAISED[name], {"batch": 2, "time": 4})


def test_onnxruntime_computes_the_same() -> None:
    made = RAISED["last states joined"]
    after = made.clone()
    apply(RaiseBidirectionalRecurrence(), after)
    feeds = {"x": numbers(4, 2, 6)}
    found = distance(on_onnxruntime(after, feeds), on_onnxruntime(made, feeds))
    assert found <= RaiseBidirectionalRecurrence.contract.tolerance
