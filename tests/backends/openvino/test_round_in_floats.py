from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.openvino.round_in_floats import RoundInFloats
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.tests.support import apply, misses

X = {"x": "float[n, 4]"}
TRIP = ("q = QuantizeLinear(x, s, z)", "y = DequantizeLinear(q, s, z)")
STEP = np.float32(0.001)


def model_of(zero: np.ndarray, *text: str) -> ir.Model:
    return graph(*(text or TRIP), inputs=X, s=STEP, z=zero)


def test_a_layer_keeps_its_integers() -> None:
    text = (*TRIP, "w = DequantizeLinear(w8, s)", "t = Transpose{perm=[1, 0]}(w)", "o = MatMul(y, t)")
    model = graph(*text, inputs=X, outputs=["o"], s=STEP, z=np.array(3, np.uint8), w8=np.ones((8, 4), np.int8))
    assert apply(RoundInFloats(), model) == list(text)


def test_the_round_trip_is_written_out() -> None:
    assert apply(RoundInFloats(), model_of(np.array(1000, np.uint16))) == [
        "y/Div = Div(x, s)",
        "y/Round = Round(y/Div)",
        "y/Clip = Clip(y/Round, y/limit, y/limit_1)",
        "y = Mul(y/Clip, s)",
    ]


@pytest.mark.parametrize("zero", [np.array(32768, np.uint16), np.array(9, np.uint16), np.array(-5, np.int16)])
def test_rounds_and_cuts_off_as_integers_do(zero: np.ndarray) -> None:
    model = model_of(zero)
    rng = np.random.default_rng(0)
    ties = (np.arange(40, dtype=np.float32) - 20.5) * STEP
    x = np.concatenate([ties, rng.standard_normal(400).astype(np.float32) * 40]).reshape(-1, 4)
    wanted = runner(model)({"x": x})["y"]
    apply(RoundInFloats(), model)
    np.testing.assert_array_equal(runner(model)({"x": x})["y"], wanted)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (model_of(np.array(3, np.uint8)), "dtype"),
        (model_of(np.array(3, np.uint16), TRIP[0], "y = DequantizeLinear(q, s)"), "scale"),
        (graph("y = DequantizeLinear(x, s)", inputs={"x": "int16[n]"}, s=STEP), "activation"),
        (graph(*TRIP, inputs=X, s=np.ones(4, np.float32), z=np.zeros(4, np.uint16)), "scale"),
    ],
)
def test_leaves_alone(model: ir.Model, rule: str) -> None:
    assert [miss.rule for miss in misses(RoundInFloats(), model)] == [rule]


W8 = np.ones((8, 4), np.int8)
READERS = {
    "lstm": ("t = Transpose{perm=[1, 0, 2]}(y)", "(o, _, _) = LSTM{hidden_size=3}(t, w, r)"),
    "gru": ("(o, _) = GRU{hidden_size=4}(y, w, r)",),
    "weight left": ("k = DequantizeLinear(w8, s)", "o = MatMul(k, y)"),
    "two activations": ("t = Transpose{perm=[0, 2, 1]}(y)", "o = MatMul(t, x)"),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_read_in_another_way_on_integers_is_rounded_in_floats(name: str) -> None:
    known = {"w": np.ones((1, 12, 5), np.float32), "r": np.ones((1, 12, 3 if name == "lstm" else 4), np.float32)}
    constants = {"w8": W8} if name == "weight left" else {} if name == "two activations" else known
    model = graph(
        "q = QuantizeLinear(x, s, z)",
        "y = DequantizeLinear(q, s, z)",
        *READERS[name],
        inputs={"x": "float[2, 4, 5]"},
        outputs=["o"],
        s=STEP,
        z=np.array(3, np.uint8),
        **constants,
    )
    assert "y = Mul(y/Clip, s)" in apply(RoundInFloats(), model)
