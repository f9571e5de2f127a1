from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import to_fx
from tersor.ir.runner import runner
from tersor.ir.text import graph
from torch.fx import GraphModule

Check = Callable[..., dict[str, np.ndarray]]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STEPS, BATCH, INPUT, HIDDEN = 4, 3, 5, 6


def run(check: Check, op: str, options: str = "", *, directions: int = 1, extra: str = "", **more: str) -> None:
    gates = GATES[op] * HIDDEN
    outputs = "(y, h, c)" if op == "LSTM" else "(y, h)"
    types = {
        "x": f"float[{STEPS}, {BATCH}, {INPUT}]",
        "w": f"float[{directions}, {gates}, {INPUT}]",
        "r": f"float[{directions}, {gates}, {HIDDEN}]",
        "b": f"float[{directions}, {2 * gates}]",
        **more,
    }
    line = f"{outputs} = {op}{{hidden_size={HIDDEN}{options}}}(x, w, r, b{extra})"
    constants = {"n": np.array([4, 1, 3], np.int32)} if ", n" in extra else {}
    check(line, tolerance=1e-5, constants=constants, **types)


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", ["_", "n"])
def test_directions_states_and_lengths(check: Check, op: str, direction: str, lengths: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    state = f"float[{directions}, {BATCH}, {HIDDEN}]"
    more = {"h0": state, **({"c0": state} if op == "LSTM" else {})}
    extra = f", {lengths}, h0" + (", c0" if op == "LSTM" else "")
    run(check, op, f", direction='{direction}'", directions=directions, extra=extra, **more)


@pytest.mark.parametrize("lengths", ["", ", n"])
def test_gru_linear_before_reset(check: Check, lengths: str) -> None:
    run(check, "GRU", ", linear_before_reset=1", extra=lengths)


def test_lstm_peepholes_clip_and_coupled_gates(check: Check) -> None:
    peepholes = f"float[1, {3 * HIDDEN}]"
    run(check, "LSTM", ", clip=0.5", extra=", _, _, _, p", p=peepholes)
    run(check, "LSTM", ", input_forget=1")


def test_other_activations(check: Check) -> None:
    run(
        check,
        "LSTM",
        ", activations=['HardSigmoid', 'Relu', 'Softsign'], activation_alpha=[0.3], activation_beta=[0.4]",
    )
    run(check, "RNN", ", activations=['LeakyRelu'], activation_alpha=[0.2]")
    run(check, "GRU", ", activations=['Sigmoid', 'Relu']")


@pytest.mark.parametrize("op", GATES)
def test_no_bias_and_only_the_last_state(check: Check, op: str) -> None:
    gates = GATES[op] * HIDDEN
    check(
        f"(_, h) = {op}{{hidden_size={HIDDEN}}}(x, w, r)",
        x=f"float[{STEPS}, {BATCH}, {INPUT}]",
        w=f"float[1, {gates}, {INPUT}]",
        r=f"float[1, {gates}, {HIDDEN}]",
    )


def test_batch_first_is_a_transpose() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((1, 4 * HIDDEN, INPUT), np.float32),
        "r": rng.standard_normal((1, 4 * HIDDEN, HIDDEN), np.float32),
    }
    x = torch.from_numpy(rng.standard_normal((STEPS, BATCH, INPUT), np.float32))
    line = "(y, h) = LSTM{{hidden_size=6, layout={}}}(x, w, r)"
    steps_first, batch_first = (to_fx(graph(line.format(layout), **weights)) for layout in (0, 1))
    (y, h), (yt, ht) = steps_first(x), batch_first(x.transpose(0, 1))
    torch.testing.assert_close(y.permute(2, 0, 1, 3), yt)
    torch.testing.assert_close(h.transpose(0, 1), ht)


def layer(op: str, options: str = "", *, directions: int = 1, dtype: type = np.float32, extra: str = "") -> GraphModule:
    """The op with random weights, without bias, on an input of any length and batch."""
    rng, gates = np.random.default_rng(0), GATES[op] * HIDDEN
    w, r = (rng.standard_normal((directions, gates, n)).astype(dtype) for n in (INPUT, HIDDEN))
    outputs = "(y, h, c)" if op == "LSTM" else "(y, h)"
    name = {np.float32: "float", np.float64: "double", np.float16: "float16"}[dtype]
    inputs = {"x": f"{name}[s, b, {INPUT}]", **({"n": "int32[b]"} if "n" in extra else {})}
    return to_fx(graph(f"{outputs} = {op}{{hidden_size={HIDDEN}{options}}}(x, w, r{extra})", inputs=inputs, w=w, r=r))


@pytest.mark.parametrize("op", GATES)
def test_stepping_is_what_the_kernel_does(op: str) -> None:
    """Lengths that hide nothing keep the layer from torch's kernel."""
    options = ", direction='bidirectional', linear_before_reset=1" if op == "GRU" else ", direction='bidirectional'"
    x = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernel = layer(op, options, directions=2, dtype=np.float64)(x)
    stepped = layer(op, options, directions=2, dtype=np.float64, extra=", _, n")(x, torch.full((BATCH,), STEPS))
    for found, wanted in zip(stepped, kernel, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("op", GATES)
def test_half_precision_stays_half(op: str) -> None:
    x = torch.randn(STEPS, BATCH, INPUT, generator=torch.Generator().manual_seed(0))
    half = layer(op, dtype=np.float16)(x.half())[0]
    assert half.dtype is torch.float16
    torch.testing.assert_close(half.float(), layer(op)(x)[0], rtol=2e-2, atol=5e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (", direction='bidirectional'", "takes weights"),
        (", activations=['Tanh']", "1 activations, expected 3"),
        (", activations=['Tanh', 'Tanh', 'Cosine']", "unknown activation 'cosine'"),
    ],
)
def test_attributes_that_make_no_sense(options: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer("LSTM", options)(torch.zeros(STEPS, BATCH, INPUT))


def test_a_hidden_size_that_is_not_the_weights() -> None:
    weights = {"w": np.zeros((1, 24, INPUT), np.float32), "r": np.zeros((1, 24, HIDDEN), np.float32)}
    module = to_fx(graph("y = LSTM{hidden_size=7}(x, w, r)", **weights))
    with pytest.raises(ValueError, match="hidden_size is 7, the recurrence weight is of 6"):
        module(torch.zeros(STEPS, BATCH, INPUT))


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("LSTM", ""),
        ("LSTM", ", direction='bidirectional'"),
        ("GRU", ""),
        ("GRU", ", linear_before_reset=1"),
        ("RNN", ", direction='reverse'"),
    ],
)
@pytest.mark.parametrize("extra", ["", ", _, n"])
def test_export_keeps_length_and_batch(op: str, options: str, extra: str) -> None:
    module = layer(op, options, directions=1 + ("bi" in options), extra=extra)
    auto = torch.export.Dim.AUTO

    def arguments(steps: int, batch: int) -> tuple[torch.Tensor, ...]:
        x = torch.randn(steps, batch, INPUT, generator=torch.Generator().manual_seed(0))
        return (x, torch.arange(1, batch + 1, dtype=torch.int32).clamp(max=steps)) if extra else (x,)

    shapes = ({0: auto, 1: auto}, {0: auto}) if extra else ({0: auto, 1: auto},)
    with torch.no_grad():
        program = torch.export.export(module, arguments(4, 3), dynamic_shapes=shapes, strict=False).module()
        for steps, batch in ((1, 1), (7, 2), (40, 5)):
            given = arguments(steps, batch)
            for found, wanted in zip(program(*given), module(*given), strict=True):
                torch.testing.assert_close(found, wanted)


def test_a_length_that_is_known_keeps_the_kernel() -> None:
    module = layer("LSTM")
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(module, (torch.zeros(STEPS, 3, INPUT),), dynamic_shapes=({1: batch},))
    assert any(str(node.target) == "aten.lstm.input" for node in program.graph.nodes)
    x = torch.randn(STEPS, 7, INPUT, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(program.module()(x)[0], module(x)[0])


@pytest.mark.slow
def test_inductor_compiles_any_length(tmp_path: Path) -> None:
    module, auto = layer("GRU", ", direction='bidirectional'", directions=2), torch.export.Dim.AUTO
    with torch.no_grad():
        shapes = ({0: auto, 1: auto},)
        program = torch.export.export(module, (torch.zeros(4, 3, INPUT),), dynamic_shapes=shapes, strict=False)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layer.pt2"))
        compiled = torch._inductor.aoti_load_package(package)
        for steps, batch in ((1, 1), (5, 2), (30, 4)):
            x = torch.randn(steps, batch, INPUT, generator=torch.Generator().manual_seed(0))
            torch.testing.assert_close(compiled(x)[0], module(x)[0])


@pytest.mark.parametrize("op", GATES)
@pytest.mark.parametrize("state", [(1, BATCH - 1, HIDDEN), (1, BATCH, HIDDEN - 1), (2, BATCH, HIDDEN), (BATCH, HIDDEN)])
def test_states_of_wrong_sizes_are_refused(op: str, state: tuple[int, ...]) -> None:
    """The kernels would read what lies behind them."""
    given = ", h0, h0" if op == "LSTM" else ", h0"
    sizes = {"x": (STEPS, BATCH, INPUT), "w": (1, GATES[op] * HIDDEN, INPUT), "r": (1, GATES[op] * HIDDEN, HIDDEN)}
    options = ", linear_before_reset=1" if op == "GRU" else ""
    model = graph(f"y = {op}{{hidden_size={HIDDEN}{options}}}(x, w, r, _, _{given})")
    feeds = {name: np.ones(shape, np.float32) for name, shape in (sizes | {"h0": state}).items()}
    with pytest.raises(ModelError, match="initial states"):
        runner(model)(feeds)
