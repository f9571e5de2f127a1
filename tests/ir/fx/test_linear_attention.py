from __future__ import annotations

import numpy as np
import onnx.reference
import onnx_ir
import pytest
import torch
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Arrays = dict[str, np.ndarray]
BATCH, STEPS, HEADS, KEY_HEADS, KEY, VALUE = 2, 5, 4, 2, 3, 6
HEAD_COUNTS = f"q_num_heads={HEADS}, kv_num_heads={KEY_HEADS}"


def reference(model: onnx_ir.Model, feeds: Arrays, tolerance: float = 1e-5) -> None:
    """FX agrees with ONNX's reference evaluator."""
    wanted = onnx.reference.ReferenceEvaluator(onnx_ir.serde.serialize_model(model)).run(None, dict(feeds))
    for value, other in zip(Interpreter(to_fx(model)).run(feeds).values(), wanted, strict=True):
        np.testing.assert_allclose(value.astype(np.float64), other.astype(np.float64), rtol=tolerance, atol=tolerance)
        assert value.dtype == other.dtype


def attention_feeds(rule: str, *, wide: bool = True, steps: int = STEPS, past: bool = False) -> Arrays:
    """Inputs of a rule; `wide` has a decay per key feature and a beta per head."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    feeds = {
        "q": normal(BATCH, steps, HEADS * KEY),
        "k": normal(BATCH, steps, KEY_HEADS * KEY) / 3,
        "v": normal(BATCH, steps, KEY_HEADS * VALUE),
    }
    if past:
        feeds["s"] = normal(BATCH, KEY_HEADS, KEY, VALUE)
    if "gated" in rule:
        feeds["g"] = -np.abs(normal(BATCH, steps, KEY_HEADS * (KEY if wide else 1)))
    if "delta" in rule:
        feeds["b"] = np.abs(normal(BATCH, steps, KEY_HEADS if wide else 1)).clip(max=1)
    return feeds


def line(feeds: Arrays, options: str) -> str:
    names = [name if name in feeds else "_" for name in ("q", "k", "v", "s", "g", "b")]
    return f"(y, state) = LinearAttention{{{HEAD_COUNTS}{options}}}({', '.join(names)})"


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("past", [False, True])
def test_rules(rule: str, wide: bool, past: bool) -> None:
    feeds = attention_feeds(rule, wide=wide, past=past)
    reference(
        graph(line(feeds, f", update_rule='{rule}', scale=0.7"), inputs=dict.fromkeys(feeds, "float"), opset=27), feeds
    )


def test_half_precision_with_a_state_of_its_own_type() -> None:
    feeds = attention_feeds("gated_delta", past=True)
    feeds = {name: value if name == "s" else value.astype(np.float16) for name, value in feeds.items()}
    types = {name: "float" if name == "s" else "float16" for name in feeds}
    reference(graph(line(feeds, ""), inputs=types, opset=27), feeds, 1e-3)


def test_steps_one_by_one_are_the_sequence() -> None:
    feeds = attention_feeds("gated_delta", past=True)
    run = Interpreter(to_fx(graph(line(feeds, ""), inputs=dict.fromkeys(feeds, "float"), opset=27))).run
    whole, state, rows = run(feeds), feeds["s"], []
    for t in range(STEPS):
        found = run({**{name: value[:, t : t + 1] for name, value in feeds.items()}, "s": state})
        state = found["state"]
        rows.append(found["y"])
    np.testing.assert_allclose(np.concatenate(rows, 1), whole["y"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(state, whole["state"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("rule", "given", "message"),
    [
        ("gated", "linear", "takes decay"),
        ("linear", "delta", "takes neither decay nor beta"),
        ("gated_delta", "gated", "takes decay and beta"),
    ],
)
def test_inputs_that_the_rule_does_not_take(rule: str, given: str, message: str) -> None:
    feeds = attention_feeds(given)
    model = graph(line(feeds, f", update_rule='{rule}'"), inputs=dict.fromkeys(feeds, "float"), opset=27)
    with pytest.raises(Exception, match=message):
        Interpreter(to_fx(model)).run(feeds)


def test_export_keeps_the_length() -> None:
    feeds = attention_feeds("gated_delta")
    module = to_fx(graph(line(feeds, ""), inputs=dict.fromkeys(feeds, "float"), opset=27))
    auto = torch.export.Dim.AUTO
    with torch.no_grad():
        arguments = tuple(torch.from_numpy(value) for value in feeds.values())
        shapes = tuple({0: auto, 1: auto} for _ in feeds)
        program = torch.export.export(module, arguments, dynamic_shapes=shapes, strict=False).module()
        for steps in (1, 3, 40):
            given = [torch.from_numpy(value) for value in attention_feeds("gated_delta", steps=steps).values()]
            for found, wanted in zip(program(*given), module(*given), strict=True):
                torch.testing.assert_close(found, wanted)


def test_gradients() -> None:
    feeds = attention_feeds("gated_delta", past=True)
    module = to_fx(graph(line(feeds, ""), inputs=dict.fromkeys(feeds, "double"), opset=27))
    given = [torch.from_numpy(value.astype(np.float64)).requires_grad_() for value in feeds.values()]
    assert torch.autograd.gradcheck(lambda *values: module(*values), given)


@pytest.mark.parametrize("activation", ["none", "silu"])
@pytest.mark.parametrize(("length", "kernel"), [(6, 4), (2, 4), (5, 1)])
@pytest.mark.parametrize("past", [False, True])
def test_causal_convolution(activation: str, length: int, kernel: int, past: bool) -> None:
    rng = np.random.default_rng(0)
    shapes = {"x": (BATCH, 3, length), "w": (3, 1, kernel), "b": (3,), "s": (BATCH, 3, kernel - 1)}
    feeds = {
        name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items() if past or name != "s"
    }
    text = f"(y, state) = CausalConvWithState{{activation='{activation}'}}(x, w, b{', s' if past else ''})"
    reference(graph(text, inputs=dict.fromkeys(feeds, "float"), opset=27), feeds)
