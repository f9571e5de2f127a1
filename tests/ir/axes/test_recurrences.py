"""LSTM, GRU and RNN: what is free is as good as zero."""

from __future__ import annotations

import pytest
from tersor.tests.ir.axes.support import Case, assert_case, weight
from tersor.tests.support import on_onnxruntime

STEPS = {"x": "float[n, 2, 5]"}
LSTM = {"w": weight(1, 24, 5), "r": weight(1, 24, 6), "v": weight(6, 3)}
BOTH = {"w": weight(2, 24, 5), "r": weight(2, 24, 6), "v": weight(12, 3)}
READ = ("d = Squeeze(a, [1])", "y = MatMul(d, v)")
READ_BOTH = ("d = Transpose{perm=[0, 2, 1, 3]}(a)", "e = Reshape(d, [0, 0, -1])", "y = MatMul(e, v)")

RECURRENCES = [
    Case(
        "peepholes and states that are weights",
        ("a, h, c = LSTM{hidden_size=6}(x, w, r, b, _, h0, c0, p)", *READ),
        STEPS,
        {**LSTM, "b": weight(1, 48), "p": weight(1, 18), "h0": weight(1, 2, 6), "c0": weight(1, 2, 6)},
        [6],
        on_onnxruntime,
    ),
    Case(
        "states that are given, one for both ways",
        ('a, h, c = LSTM{hidden_size=6, direction="bidirectional"}(x, w, r, _, _, h0, c0)', *READ_BOTH),
        STEPS,
        {**BOTH, "h0": weight(2, 2, 6), "c0": weight(2, 2, 6)},
        [6],
    ),
    Case(
        "a state that is an input",
        ("a, h, c = LSTM{hidden_size=6}(x, w, r, _, _, h0)", *READ),
        {**STEPS, "h0": "float[1, 2, 6]"},
        LSTM,
        [],
    ),
    Case(
        "a state that is an output",
        ("a, h, c = LSTM{hidden_size=6}(x, w, r)", *READ),
        STEPS,
        LSTM,
        [],
        outputs=(
            "y",
            "h",
        ),
    ),
    Case(
        "states made by a layer",
        ("m = MatMul(z, u)", "h0 = Unsqueeze(m, [0])", "a, h, c = LSTM{hidden_size=6}(x, w, r, _, _, h0)", *READ),
        {**STEPS, "z": "float[2, 7]"},
        {**LSTM, "u": weight(7, 6)},
        [6],
    ),
    Case(
        "states that are never zero, added up",
        (
            "m = MatMul(z, u)",
            "g = Sigmoid(m)",
            "h0 = Unsqueeze(g, [0])",
            "a, h, c = LSTM{hidden_size=6}(x, w, r, _, _, _, h0)",
            "y = ReduceSum{keepdims=0}(a, [-1])",
        ),
        {**STEPS, "z": "float[2, 7]"},
        {"w": LSTM["w"], "r": LSTM["r"], "u": weight(7, 6)},
        [],
    ),
    Case(
        "steps that a weight has",
        ("m = Mul(p, z)", "a, h, c = LSTM{hidden_size=6}(m, w, r)", "d = Squeeze(h, [0])", "y = MatMul(d, v)"),
        {"z": "float[2, 5]"},
        {**LSTM, "p": weight(4, 1, 5)},
        [6],
    ),
    Case(
        "through weights that are never zero",
        ("g = Sigmoid(r)", "a, h, c = LSTM{hidden_size=6}(x, w, g)", *READ),
        STEPS,
        LSTM,
        [],
    ),
    Case(
        "of zeros, added up",
        ("a, h, c = LSTM{hidden_size=6}(x, w, r)", "y = ReduceSum{keepdims=0}(a, [-1])"),
        STEPS,
        {"w": LSTM["w"], "r": LSTM["r"]},
        [6],
    ),
    Case(
        "other activations, added up",
        (
            'a, h, c = LSTM{hidden_size=6, activations=["Sigmoid", "Sigmoid", "Tanh"]}(x, w, r)',
            "y = ReduceSum{keepdims=0}(a, [-1])",
        ),
        STEPS,
        {"w": LSTM["w"], "r": LSTM["r"]},
        [],
    ),
    Case(
        "two layers",
        (
            "a, h, c = LSTM{hidden_size=6}(x, w, r)",
            "d = Squeeze(a, [1])",
            "e, i = GRU{hidden_size=4}(d, s, t)",
            "f = Squeeze(e, [1])",
            "y = MatMul(f, v)",
        ),
        STEPS,
        {"w": LSTM["w"], "r": LSTM["r"], "s": weight(1, 12, 6), "t": weight(1, 12, 4), "v": weight(4, 3)},
        [4, 6],
    ),
    Case(
        "batch first",
        ("a, h = RNN{hidden_size=6, layout=1}(x, w, r, b, _, h0)", "d = Squeeze(a, [2])", "y = MatMul(d, v)"),
        {"x": "float[2, n, 5]"},
        {"w": weight(1, 6, 5), "r": weight(1, 6, 6), "b": weight(1, 12), "h0": weight(2, 1, 6), "v": weight(6, 3)},
        [6],
    ),
    Case(
        "the last state of both ways",
        (
            'a, h = GRU{hidden_size=6, direction="bidirectional", linear_before_reset=1}(x, w, r, b)',
            "d = Transpose{perm=[1, 0, 2]}(h)",
            "e = Reshape(d, [-1, 12])",
            "y = MatMul(e, v)",
        ),
        STEPS,
        {"w": weight(2, 18, 5), "r": weight(2, 18, 6), "b": weight(2, 36), "v": weight(12, 3)},
        [6],
        on_onnxruntime,
    ),
]


@pytest.mark.parametrize("case", RECURRENCES, ids=lambda case: case.name)
def test_what_is_free_is_as_good_as_zero(case: Case) -> None:
    assert_case(case)
