"""Two recurrent layers whose weights read few directions, for the tests of what factors them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tersor.ir.feeds import random_feeds
from tersor.ir.level import Level, Signature, violations
from tersor.ir.text import graph
from tersor.passes.base import Context, Outcome
from tersor.passes.factorize.factorize_recurrent import FactorizeRecurrent
from tersor.passes.statistics import Calibration

RNG = np.random.default_rng(0)
IN, HIDDEN, RANK = 24, 32, 6
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SIZES = {"time": 5, "batch": 3}


def noise(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape) / np.sqrt(shape[-1])


def stacked(
    op: str, direction: str = "forward", *, options: str = "", extra: str = "", batch: bool = False
) -> ir.Model:
    """Two layers: R of the first and W of the second read the same few directions of each direction's states.

    options: attributes. extra: inputs behind the bias. batch: batch first.
    """
    ways, wide = (2 if direction == "bidirectional" else 1), GATES[op] * HIDDEN
    states = [noise(HIDDEN, RANK) for _ in range(ways)]
    own = [noise(HIDDEN, RANK) for _ in range(ways)]
    words = noise(IN, RANK)
    weights = {
        "w0": [words @ noise(RANK, wide) for _ in range(ways)],
        "r0": [each @ noise(RANK, wide) for each in states],
        "w1": [np.concatenate([each @ noise(RANK, wide) for each in states]) for _ in range(ways)],
        "r1": [each @ noise(RANK, wide) for each in own],
    }
    made = f"hidden_size={HIDDEN}, direction={direction}{options}{', layout=1' if batch else ''}"
    outputs = ", _" * (op == "LSTM")
    if ways == 1:
        between = [f"m = Squeeze(y0, [{2 if batch else 1}])"]
    elif batch:
        between = [f"m = Reshape(y0, [0, 0, {2 * HIDDEN}])"]
    else:
        between = ["t = Transpose{perm=[0, 2, 1, 3]}(y0)", f"m = Reshape(t, [0, 0, {2 * HIDDEN}])"]
    inputs = {"x": f"float[{'batch, time' if batch else 'time, batch'}, {IN}]"}
    inputs |= {"lens": "int32[batch]"} if "lens" in extra else {}
    inputs |= {name: f"float[{ways}, batch, {HIDDEN}]" for name in ("s", "e") if f", {name}" in extra}
    return graph(
        f"(y0, _{outputs}) = {op}{{{made}}}(x, w0, r0, b0{extra})", *between,
        f"(y, h{outputs}) = {op}{{{made}}}(m, w1, r1, b1)",
        inputs=inputs, outputs=["y", "h"],
        b0=noise(ways, 2 * wide).astype(np.float32), b1=noise(ways, 2 * wide).astype(np.float32),
        **{name: np.stack([each.T for each in parts]).astype(np.float32) for name, parts in weights.items()},
    )  # fmt: skip


def factored(made: FactorizeRecurrent, model: ir.Model, context: Context | None = None) -> Outcome:
    signature = Signature.of(model)
    found = made.apply(model, context or Context())
    assert violations(model, Level.SEMANTIC, signature=signature) == []
    return found


def calibrated(model: ir.Model) -> Context:
    return Context(calibration=Calibration([random_feeds(model, SIZES, seed=seed) for seed in range(3)]))


def numbers(model: ir.Model) -> int:
    """Of weights of recurrences, biases aside."""
    held = model.graph.initializers.values()
    return sum(value.const_value.size for value in held if len(value.shape) > 2 or "projection" in (value.name or ""))
