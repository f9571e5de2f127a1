"""LSTMs that quantize their input and state at run time as one kernel each."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.rules.fuse_dynamic_lstm import FuseDynamicLstm
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.dynamic_recurrence import LSTM
from tersor.passes.edit import constant_of
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.passes.raising.contrib.raise_contrib import RaiseContrib
from tersor.tests.support import apply, distance, holds, inside_if, misses, on_onnxruntime

HIDDEN, WIDTH = 8, 12


def normal(*shape: int) -> np.ndarray:
    return (np.random.default_rng(shape).standard_normal(shape) * 0.4).astype(np.float32)


def lstm(direction: str = "forward", options: str = "", inputs: str = "x, w, r, b, _, h0, c0") -> ir.Model:
    """A float LSTM."""
    ways = 2 if direction == "bidirectional" else 1
    weights = {"w": normal(ways, 4 * HIDDEN, WIDTH), "r": normal(ways, 4 * HIDDEN, HIDDEN)}
    weights |= {"b": normal(ways, 8 * HIDDEN)} if "b" in inputs else {}
    shape = f"float[{ways}, batch, {HIDDEN}]"
    states = {name: shape for name in ("h0", "c0") if name in inputs}
    text = f"(y, h, c) = LSTM{{hidden_size={HIDDEN}, direction={direction}{options}}}({inputs})"
    return graph(text, inputs={"x": f"float[time, batch, {WIDTH}]"} | states, outputs=["y", "h", "c"], **weights)


def rounded(model: ir.Model, headroom: str = "pairs") -> ir.Model:
    """The same as quantize-dynamic leaves it."""
    QuantizeDynamic(recurrent="computed", smallest=1, headroom=headroom).apply(model, Context())  # type: ignore[arg-type]
    return model


def spelled(**changes: object) -> ir.Model:
    """A call of the function with its weights as they are stored, or others in their place."""
    integers = np.random.default_rng(0).integers(-60, 61, (1, 4 * HIDDEN, WIDTH), dtype=np.int8)
    scales = np.full(4 * HIDDEN, 0.01, np.float32)
    weights = {"w": integers, "r": integers[..., :HIDDEN].copy(), "s": scales, "b": normal(1, 8 * HIDDEN)} | changes
    shape = f"float[1, batch, {HIDDEN}]"
    text = [weights.pop(name, f"{name}f = DequantizeLinear{{axis=1}}({name}, s)") for name in ("W", "R")]
    model = graph(
        *map(str, text), "(y, h, c) = tersor.DynamicQuantizeLSTM{hidden_size=8}(x, Wf, Rf, b, h0, c0)",
        inputs={"x": f"float[time, batch, {WIDTH}]", "h0": shape, "c0": shape}, outputs=["y"],
        **{name: array for name, array in weights.items() if any(name in line for line in (*map(str, text), "b"))},
    )  # fmt: skip
    model.graph.node(len(text)).overload = "forward"
    LSTM["forward"].declare(model)
    return model


W, R = "Wf = DequantizeLinear{axis=1}(w, s)", "Rf = DequantizeLinear{axis=1}(r, s)"


class TestRewrites:
    @pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
    @pytest.mark.parametrize("inputs", ["x, w, r, b, _, h0, c0", "x, w, r"])
    def test_it_is_the_kernel_and_computes_the_same(self, direction: str, inputs: str) -> None:
        model = rounded(lstm(direction, inputs=inputs))
        feeds = random_feeds(model, {"time": 5, "batch": 3})
        wanted = list(runner(model)(feeds).values())
        assert apply(FuseDynamicLstm(), model)[-1].startswith(
            f"(y, h, c) = com.microsoft.DynamicQuantizeLSTM{{direction={direction}, hidden_size={HIDDEN}}}(x, "
        )
        # the kernel's one thread (`on_onnxruntime`) has all of the batch
        assert distance(on_onnxruntime(model, feeds), wanted) < 1e-5
        assert distance(list(runner(model)(feeds).values()), wanted) < 1e-5

    def test_attributes_go_with_it(self) -> None:
        (line,) = apply(FuseDynamicLstm(), rounded(lstm(options=", clip=0.5")))
        assert "clip=0.5" in line

    def test_the_stored_integers_are_turned(self) -> None:
        model = rounded(lstm())
        held = {name: constant_of(value) for name, value in model.graph.initializers.items()}
        apply(FuseDynamicLstm(), model)
        packed = constant_of(model.graph.node(0).inputs[1])
        np.testing.assert_array_equal(packed, held["w_quantized"].transpose(0, 2, 1))
        assert not {"w_quantized", "w_scale"} & set(model.graph.initializers)

    def test_pairs_of_products_do_not_saturate(self) -> None:
        """What CPUs without VNNI add up in 16 bits."""
        model = lstm()
        for value in ("w", "r"):
            array = np.full(constant_of(model.graph.initializers[value]).shape, 0.4, np.float32)
            model.graph.initializers[value].const_value = ir.tensor(array, name=value)
        rounded(model)
        apply(FuseDynamicLstm(), model)
        feeds = random_feeds(model, {"time": 5, "batch": 3})
        assert distance(on_onnxruntime(model, feeds), list(runner(model)(feeds).values())) < 1e-5

    def test_in_branches(self) -> None:
        found = apply(FuseDynamicLstm(), inside_if(spelled(W=W, R=R)))
        assert sum("com.microsoft.DynamicQuantizeLSTM" in line for line in found) == 2

    def test_holds(self) -> None:
        holds(FuseDynamicLstm(), rounded(lstm("bidirectional")), {"time": 4, "batch": 2})


LEFT = [
    ("weight", spelled(W="Wf = Neg(w)", R=R, w=normal(1, 4 * HIDDEN, WIDTH))),
    ("bits", spelled(W=W, R=R, w=np.zeros((1, 4 * HIDDEN, WIDTH), ir.DataType.INT4.numpy()))),
    (
        "scales",
        spelled(W="Wf = DequantizeLinear{axis=2, block_size=4}(w, t)", R=R, t=np.ones((1, 4 * HIDDEN, 3), np.float32)),
    ),
    ("scales", spelled(W="Wf = DequantizeLinear{axis=2}(w, t)", R=R, t=np.ones(WIDTH, np.float32))),
]


@pytest.mark.parametrize(("rule", "model"), LEFT, ids=[f"{i}-{case[0]}" for i, case in enumerate(LEFT)])
def test_leaves_alone(rule: str, model: ir.Model) -> None:
    assert [miss.rule for miss in misses(FuseDynamicLstm(), model)] == [rule]


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("per", ["direction", "gate"])
@pytest.mark.parametrize("unsigned", [False, True])
def test_the_kernel_is_raised_and_lowered_back(direction: str, per: str, unsigned: bool) -> None:
    """ONNX Runtime's own op becomes the function, which becomes the op again."""
    ways, rng = (2 if direction == "bidirectional" else 1), np.random.default_rng(1)
    wide = (ways, 4 * HIDDEN) if per == "gate" else (ways,)
    low, kind = (70, np.uint8) if unsigned else (-60, np.int8)
    constants = {
        "w": rng.integers(low, low + 120, (ways, WIDTH, 4 * HIDDEN), kind),
        "r": rng.integers(low, low + 120, (ways, HIDDEN, 4 * HIDDEN), kind),
        "b": normal(ways, 8 * HIDDEN),
        "s": rng.random(wide, np.float32) * 0.01 + 0.002,
        "z": np.full(wide, 130 if unsigned else 0, kind),
    }
    line = f"com.microsoft.DynamicQuantizeLSTM{{hidden_size={HIDDEN}, direction={direction}}}"
    model = graph(
        f"(y, h, c) = {line}(x, w, r, b, _, _, _, _, s, z, s, z)",
        inputs={"x": f"float[5, 1, {WIDTH}]"}, outputs=["y", "h", "c"], **constants,
    )  # fmt: skip
    feeds = random_feeds(model)
    wanted = on_onnxruntime(model, feeds)
    raised = apply(RaiseContrib(), model)
    assert "tersor.DynamicQuantizeLSTM" in raised[-1], raised
    assert distance(list(runner(model)(feeds).values()), wanted) < 1e-5
    apply(FuseDynamicLstm(), model)
    assert lines(model)[-1].startswith("(y, h, c) = com.microsoft.DynamicQuantizeLSTM")
    assert distance(on_onnxruntime(model, feeds), wanted) < 1e-5


@pytest.mark.parametrize(
    ("rule", "inputs", "fed"),
    [
        ("lengths", "x, w, r, b, n, _, _, _, s, z, s, z", {"n": "int32[1]"}),
        ("peepholes", "x, w, r, b, _, _, _, p, s, z, s, z", {"p": f"float[1, {3 * HIDDEN}]"}),
        ("weight", "x, w, r, b, _, _, _, _, t, z, s, z", {"t": f"float[1, {4 * HIDDEN}]"}),
    ],
)
def test_raising_leaves_alone(rule: str, inputs: str, fed: dict[str, str]) -> None:
    integers = np.ones((1, WIDTH, 4 * HIDDEN), np.int8)
    model = graph(
        f"(y, h, c) = com.microsoft.DynamicQuantizeLSTM{{hidden_size={HIDDEN}}}({inputs})",
        inputs={"x": f"float[5, 1, {WIDTH}]"} | fed, outputs=["y"], w=integers, r=integers[:, :HIDDEN].copy(),
        b=normal(1, 8 * HIDDEN), s=np.ones((1, 4 * HIDDEN), np.float32), z=np.zeros((1, 4 * HIDDEN), np.int8),
    )  # fmt: skip
    assert [miss.rule for miss in misses(RaiseContrib(), model)] == [rule]
