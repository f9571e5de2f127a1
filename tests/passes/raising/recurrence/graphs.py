"""Recurrences as exporters decompose them: one step of each kind as lines, and Scan or Loop around a step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.clean.infer_shapes import InferShapes
from tersor.tests.support import parse

FEATURES, HIDDEN = 6, 4
STEP = {"x": f"float[batch, {FEATURES}]", "h": f"float[batch, {HIDDEN}]", "c": f"float[batch, {HIDDEN}]"}


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng((seed, *shape)).standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def weights(gates: int) -> dict[str, np.ndarray]:
    """w, r as [in, gates * hidden], and the two biases b, d."""
    width = gates * HIDDEN
    return {
        "w": numbers(FEATURES, width),
        "r": numbers(HIDDEN, width),
        "b": numbers(width),
        "d": numbers(width, seed=1),
    }


#: What all gates sum, in the order of the columns of the weights.
SUM = ("xw = MatMul(x, w)", "xb = Add(xw, b)", "hr = MatMul(h, r)", "hd = Add(hr, d)", "a = Add(xb, hd)")
#: What an LSTM does with its gates; torch's order of gates is i f g o.
LSTM_GATES = ("i = Sigmoid(ai)", "f = Sigmoid(af)", "g = Tanh(ag)", "o = Sigmoid(ao)")
LSTM_UPDATE = ("fc = Mul(f, c)", "ig = Mul(i, g)", "c1 = Add(fc, ig)", "t = Tanh(c1)", "h1 = Mul(o, t)")
LSTM = (*SUM, "(ai, af, ag, ao) = Split{axis=-1, num_outputs=4}(a)", *LSTM_GATES, *LSTM_UPDATE)
#: torch's GRU: the reset gate multiplies the product of the state.
GRU_SUM = (
    *SUM[:4],
    "(xz, xr, xn) = Split{axis=1, num_outputs=3}(xb)", "(hz, hr1, hn) = Split{axis=1, num_outputs=3}(hd)",
    "az = Add(xz, hz)", "ar = Add(xr, hr1)", "z = Sigmoid(az)", "k = Sigmoid(ar)", "kn = Mul(k, hn)",
    "an = Add(xn, kn)", "n = Tanh(an)",
)  # fmt: skip
GRU_UPDATE = ("u = Sub(1.0, z)", "un = Mul(u, n)", "zh = Mul(z, h)", "h1 = Add(un, zh)")
GRU = (*GRU_SUM, *GRU_UPDATE)
RNN = (*SUM, "h1 = Tanh(a)")


def step(*text: str, outputs: Sequence[str] = ("h1",), **constants: object) -> ir.Model:
    """One step over x, h and, where it is read, c."""
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    return graph(*text, inputs={k: v for k, v in STEP.items() if k in read}, outputs=outputs, **constants)


def swapped(text: Sequence[str], **lines: str) -> tuple[str, ...]:
    """The lines with those replaced that define a name: `swapped(LSTM, g="g = Sigmoid(ag)")`."""
    return tuple(lines.get(line.split(" = ")[0], line) for line in text)


def outside(text: str, **constants: np.ndarray) -> ir.Model:
    """A model in ONNX's own text, the inputs that `constants` names made initializers, and shapes inferred."""
    model = parse(text)
    constants = {"one": np.ones((), np.float32), **constants}
    for value in [value for value in model.graph.inputs if value.name in constants]:
        model.graph.inputs.remove(value)
        if not value.uses():
            continue
        value.const_value = ir.tensor(constants[str(value.name)], name=value.name)
        model.graph.register_initializer(value)
    InferShapes().apply(model, Context())
    return model


def scan(
    *step_text: str,
    states: Mapping[str, str],
    stacked: Sequence[str] = ("h1",),
    x: str = "time, batch, 6",
    kind: str = "batch, 4",
    attributes: str = "",
    extra: str = "",
    outer: Sequence[str] = (),
    **constants: np.ndarray,
) -> ir.Model:
    """Scan over X [time, batch, input] around the lines of a step, which maps each state to its next value.

    `outer` are lines before the Scan; what the Scan scans is then called P, of which a trip reads p.
    """
    scanned, each = (
        ("P", f"float[batch, {constants['w'].shape[1]}] p") if outer else ("X", f"float[batch, {FEATURES}] x")
    )
    entering = ", ".join([*(f"float[{kind}] {name}" for name in states), each])
    copies = [f"s{i} = Identity(h1)".replace("h1", name) for i, name in enumerate(stacked)]
    leaving = ", ".join(f"float[{kind}] {n}" for n in (*states.values(), *(f"s{i}" for i in range(len(stacked)))))
    body = f"step ({entering}) => ({leaving}) {{ {_onnx([*step_text, *copies])} }}"
    lasts = [*(f"last_{name}" for name in states), *(f"all_{i}" for i in range(len(stacked)))]
    first = ", ".join(f"{name}0" for name in states)
    node = f"{', '.join(lasts)} = Scan <num_scan_inputs = 1{attributes}, body = {body}> ({first}, {scanned}{extra})"
    return outside(_graph(f"{_onnx(outer)} {node}", states, lasts, x, kind, constants), **constants)


def loop(
    *step_text: str,
    states: Mapping[str, str],
    stacked: Sequence[str] = ("h1",),
    x: str = "time, batch, 6",
    kind: str = "batch, 4",
    trips: str = "axis = Constant <value_int = 0> ()  sizes = Shape (X)  trips = Gather (sizes, axis)",
    going: str = "on = Identity (go)",
    **constants: np.ndarray,
) -> ir.Model:
    """Loop around the lines of a step, which takes its own slice of X by `counter`."""
    entering = ", ".join(["int64 counter", "bool go", *(f"float[{kind}] {name}" for name in states)])
    copies = [f"s{i} = Identity({name})" for i, name in enumerate(stacked)]
    given = (*states.values(), *(f"s{i}" for i in range(len(stacked))))
    leaving = ", ".join(["bool on", *(f"float[{kind}] {name}" for name in given)])
    body = f"step ({entering}) => ({leaving}) {{ {_onnx(step_text)} {_onnx(copies)} {going} }}"
    lasts = [*(f"last_{name}" for name in states), *(f"all_{i}" for i in range(len(stacked)))]
    first = ", ".join(f"{name}0" for name in states)
    node = f'{trips} {", ".join(lasts)} = Loop <body = {body}> (trips, "", {first})'
    return outside(_graph(node, states, lasts, x, kind, constants), **constants)


def _graph(
    nodes: str, states: Mapping[str, str], lasts: Sequence[str], x: str, kind: str, constants: Mapping[str, np.ndarray]
) -> str:
    names = {np.dtype("float32"): "float", np.dtype("int64"): "int64"}
    constants = {"one": np.ones((), np.float32), **constants}
    weights = [
        f"{names[array.dtype]}{list(array.shape) if array.ndim else ''} {name}" for name, array in constants.items()
    ]
    inputs = ", ".join([f"float[{x}] X", *(f"float[{kind}] {name}0" for name in states), *weights])
    outputs = ", ".join(f"float[{'' if name.startswith('last') else 'time, '}{kind}] {name}" for name in lasts)
    return f"g ({inputs}) => ({outputs}) {{ {nodes} }}"


def _onnx(text: Sequence[str]) -> str:
    """Our lines as ONNX's own text, which has no literals: 1.0 is the constant `one`."""
    lines = [re.sub(r"^\(([^)]*)\) =", r"\1 =", line) for line in text]
    return "  ".join(line.replace("{", " <").replace("}", "> ").replace("1.0", "one") for line in lines)
