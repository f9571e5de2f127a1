from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tersor.ir.fx import to_fx
from tersor.ir.text import graph

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


def test_a_plain_lstm_exports_with_dynamic_batch() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((1, 4 * HIDDEN, INPUT), np.float32),
        "r": rng.standard_normal((1, 4 * HIDDEN, HIDDEN), np.float32),
    }
    module = to_fx(graph("(y, h, c) = LSTM{hidden_size=6}(x, w, r)", **weights))
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(module, (torch.zeros(STEPS, 3, INPUT),), dynamic_shapes=({1: batch},))
    x = torch.from_numpy(rng.standard_normal((STEPS, 7, INPUT), np.float32))
    torch.testing.assert_close(program.module()(x)[0], module(x)[0])
