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


def test_the_way_back_may_have_a_scale_of_its_own() -> None:
    model = graph(TRIP[0], "y = DequantizeLinear(q, o, z)", inputs=X, s=STEP, o=STEP / 4, z=np.array(1000, np.uint16))
    feeds = {"x": np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32)}
    wanted = runner(model)(feeds)["y"]
    assert apply(RoundInFloats(), model)[-1] == "y = Mul(y/Clip, o)"
    np.testing.assert_array_equal(runner(model)(feeds)["y"], wanted)


GRIDS = {"s": np.array([0.5, 0.25, 1, 2], np.float32) / 7, "z": np.array([0, 9, 128, 255], np.uint8)}


def along(axis: int, *, back: int | None = None) -> tuple[str, str]:
    """A round trip whose scales lie along an axis, or another on the way back."""
    there, again = (f"{{axis={each}}}" for each in (axis, axis if back is None else back))
    return f"q = QuantizeLinear{there}(x, s, z)", f"y = DequantizeLinear{again}(q, s, z)"


def unranked() -> ir.Model:
    model = graph(*along(1), inputs=X, **GRIDS)
    model.graph.inputs[0].shape = None
    return model


@pytest.mark.parametrize(
    ("shape", "axis"), [("n, 4", 1), ("n, 4", -1), ("b, n, 4", 2), ("b, n, 4", -1), ("b, 4, n", 1), ("b, 4, n", -2),
                        ("4, b, n, c", 0)],
)  # fmt: skip
@pytest.mark.parametrize("zero", [GRIDS["z"], GRIDS["z"].astype(np.uint16), np.array([-9, 0, 5, 127], np.int8), None])
def test_scales_along_an_axis(shape: str, axis: int, zero: np.ndarray | None) -> None:
    text, grids = along(axis), {"s": GRIDS["s"]} if zero is None else {"s": GRIDS["s"], "z": zero}
    text = text if zero is not None else tuple(line.replace(", z", "") for line in text)
    model = graph(*text, inputs={"x": f"float[{shape}]"}, **grids)
    sizes = [{"n": 50, "b": 2, "c": 3}.get(dim) or int(dim) for dim in shape.split(", ")]
    x = np.random.default_rng(0).standard_normal(sizes).astype(np.float32) * 40
    wanted = runner(model)({"x": x})["y"]
    assert not any("Quantize" in line for line in apply(RoundInFloats(), model))
    np.testing.assert_array_equal(runner(model)({"x": x})["y"], wanted)
    # every constant that is left is read
    assert all(value.uses() for value in model.graph.initializers.values())


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (model_of(np.array(3, np.uint8)), "dtype"),
        (model_of(np.array(3, np.uint16), TRIP[0], "y = DequantizeLinear(q, s)"), "zero point"),
        (graph("y = DequantizeLinear(x, s)", inputs={"x": "int16[n]"}, s=STEP), "activation"),
        (graph(*TRIP, inputs=X | {"s": "float"}, z=np.array(0, np.uint16)), "scale"),
        (graph(*along(1, back=0), inputs={"x": "float[4, 4]"}, **GRIDS), "axis"),
        (unranked(), "axis"),
        (graph(*along(1), "v = Relu(u)", inputs={"u": "float[n]"}, x=np.ones((2, 4), np.float32), **GRIDS), "axis"),
        (
            graph(
                "q = QuantizeLinear{axis=1, block_size=2}(x, s, z)",
                "y = DequantizeLinear{axis=1, block_size=2}(q, s, z)",
                inputs=X,
                s=np.ones((3, 2), np.float32),
                z=np.zeros((3, 2), np.uint8),
            ),
            "axis",
        ),
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
