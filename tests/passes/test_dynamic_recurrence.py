"""LSTM and GRU that quantize their input and state at run time, against the formulas step by step."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, violations
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.clean.inline_functions import InlineFunctions
from tersor.passes.dynamic_recurrence import DIRECTIONS, GRU, LSTM, call
from tersor.passes.edit import Tape, replace
from tersor.passes.functions import Function
from tersor.tests.support import on_onnxruntime

TIME, BATCH, INPUT, HIDDEN = 5, 3, 6, 4
#: Sums of a few dozen products in float32, carried over a few steps.
TOLERANCE = 64 * float(np.finfo(np.float32).eps)

Array = np.ndarray


def normal(*shape: int) -> Array:
    return (np.random.default_rng(shape).standard_normal(shape) * 0.5).astype(np.float32)


def recurrence(function: Function, *, states: bool = True) -> tuple[ir.Model, dict[str, Array]]:
    """One call over inputs, and its weights."""
    ways, gates = len(DIRECTIONS[function.overload.split("_")[0]]), 4 if function.name.endswith("LSTM") else 3
    names = ("h", "c") if gates == 4 else ("h",)
    shape = f"float[{ways}, batch, {HIDDEN}]"
    inputs = {"x": f"float[time, batch, {INPUT}]"} | ({f"{name}0": shape for name in names} if states else {})
    weights = {"w": normal(ways, gates * HIDDEN, INPUT), "r": normal(ways, gates * HIDDEN, HIDDEN)}
    weights |= {"b": normal(ways, 2 * gates * HIDDEN)} if states else {}
    outputs = ["y", *names]
    model = graph(f"({', '.join(outputs)}) = my.Cell(x, w, r)", inputs=inputs, outputs=outputs, **weights)
    node, tape = model.graph.node(0), Tape()
    held = {value.name: value for value in (*model.graph.inputs, *model.graph.initializers.values())}
    made = call(
        tape, function, HIDDEN, [value for value in node.inputs if value is not None], bias=held.get("b"),
        states=[held.get(f"{name}0") for name in names], attributes={"hidden_size": HIDDEN} if gates == 4 else {},
    )  # fmt: skip
    replace(tape, node.outputs, made.outputs)
    function.declare(model)
    return model, weights


def rounded(x: Array) -> Array:
    """DynamicQuantizeLinear and back."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = np.float32((high - low) / 255) if high > low else np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return ((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale).astype(np.float32)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def stepped(function: Function, weights: dict[str, Array], feeds: dict[str, Array]) -> list[Array]:
    """Every direction, time step after time step."""
    lstm = function.name.endswith("LSTM")
    direction, before = function.overload.split("_")[0], "before" in function.overload
    x, parts = rounded(feeds["x"]), []
    for d, backward in enumerate(DIRECTIONS[direction]):
        w, r = weights["w"][d], weights["r"][d]
        half = np.zeros(len(w), np.float32)
        wb, rb = weights["b"][d].reshape(2, -1) if "b" in weights else (half, half)
        state = np.zeros((len(DIRECTIONS[direction]), BATCH, HIDDEN), np.float32)
        h, c = feeds.get("h0", state)[d], feeds.get("c0", state)[d]
        rows: dict[int, Array] = {}
        for t in reversed(range(TIME)) if backward else range(TIME):
            given = x[t] @ w.T + wb
            seen = rounded(h) @ r.T + rb
            if lstm:
                i, o, f, g = np.split(given + seen, 4, axis=1)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            else:
                (gz, gr, gn), (sz, sr, sn) = np.split(given, 3, axis=1), np.split(seen, 3, axis=1)
                z, reset = sigmoid(gz + sz), sigmoid(gr + sr)
                last = reset * sn if before else rounded(reset * h) @ r[2 * HIDDEN :].T + rb[2 * HIDDEN :]
                n = np.tanh(gn + last)
                h = (1 - z) * n + z * h
            rows[t] = h
        parts.append((np.stack([rows[t] for t in range(TIME)]), h, c))
    y, last, cell = (np.stack(each, 1 if index == 0 else 0) for index, each in enumerate(zip(*parts, strict=True)))
    return [y, last, cell] if lstm else [y, last]


EVERY = {f"{f.name} {f.overload}": f for f in (*LSTM.values(), *GRU.values())}


@pytest.mark.parametrize("states", [True, False])
@pytest.mark.parametrize("name", EVERY)
def test_is_the_formula_and_runs_inlined_anywhere(name: str, states: bool) -> None:
    model, weights = recurrence(EVERY[name], states=states)
    feeds = random_feeds(model, {"time": TIME, "batch": BATCH})
    wanted = stepped(EVERY[name], weights, dict(feeds))
    for found in runner(model)(feeds).values(), on_onnxruntime(_inlined(model), feeds):
        for expected, array in zip(wanted, found, strict=True):
            assert array.shape == expected.shape
            np.testing.assert_allclose(array, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", EVERY)
def test_the_model_keeps_the_laws_of_its_level(name: str) -> None:
    assert violations(recurrence(EVERY[name])[0], Level.SEMANTIC) == []


def test_functions_of_one_name_are_told_apart() -> None:
    assert len({(function.name, function.overload) for function in EVERY.values()}) == len(EVERY) == 9


def _inlined(model: ir.Model) -> ir.Model:
    made = model.clone()
    InlineFunctions(own=True).apply(made, Context())
    return made
