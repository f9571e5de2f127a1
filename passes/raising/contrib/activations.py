"""Activations with what was fused into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from ...base import Miss
from ...edit import Attribute, Tape
from .call import Build, Call, Table, added, alike, like, named, one, times

Apply = Callable[[Tape, ir.Value], ir.Value]

#: name -> (op, alpha, beta): ONNX's activations and their defaults, of which None is a parameter that the op lacks.
_PARAMETERS: dict[str, tuple[str, float | None, float | None]] = {
    "relu": ("Relu", None, None),
    "tanh": ("Tanh", None, None),
    "sigmoid": ("Sigmoid", None, None),
    "gelu": ("Gelu", None, None),
    "softplus": ("Softplus", None, None),
    "softsign": ("Softsign", None, None),
    "hardswish": ("HardSwish", None, None),
    "leakyrelu": ("LeakyRelu", 0.01, None),
    "thresholdedrelu": ("ThresholdedRelu", 1.0, None),
    "elu": ("Elu", 1.0, None),
    "hardsigmoid": ("HardSigmoid", 0.2, 0.5),
}


def activation(name: str, parameters: Sequence[float] = ()) -> Apply | Miss:
    """A fused activation by its ONNX name, "" for none; parameters that are not given take ONNX's defaults."""
    lower = name.lower()
    if not lower:
        return lambda tape, x: x
    if lower in ("silu", "swish"):
        return lambda tape, x: alike(tape("Mul", x, alike(tape("Sigmoid", x), x)), x)
    if lower == "clip" and len(parameters) == 2:
        low, high = parameters
        return lambda tape, x: alike(tape("Clip", x, like(tape, low, x), like(tape, high, x)), x)
    if lower not in _PARAMETERS:
        return Miss("activation", name, f"one of clip, silu, {', '.join(_PARAMETERS)}")
    op, *defaults = _PARAMETERS[lower]
    given = [*parameters[:2], *(None,) * (2 - len(parameters[:2]))]
    settings: dict[str, Attribute] = {
        key: default if value is None else value
        for key, value, default in zip(("alpha", "beta"), given, defaults, strict=True)
        if default is not None
    }
    return lambda tape, x: alike(one(tape, op, [x], settings), x)


def _gelu(approximate: str) -> Callable[[Call], Build]:
    def expand(call: Call) -> Build:
        return lambda tape: [_made(tape, added(tape, call.need(0), call[1]), approximate)]

    return expand


def _made(tape: Tape, x: ir.Value, approximate: str) -> ir.Value:
    return alike(tape("Gelu", x, approximate=approximate), x)


def _quick_gelu(call: Call) -> Build:
    """x * sigmoid(alpha * x)"""
    x, alpha = call.need(0), call.number("alpha", 1.702)
    return lambda tape: [alike(tape("Mul", x, alike(tape("Sigmoid", times(tape, x, alpha)), x)), x)]


def _bias_split_gelu(call: Call) -> Build:
    """The left half of x + bias times the Gelu of its right half."""

    def build(tape: Tape) -> list[ir.Value]:
        whole = added(tape, call.need(0), call[1])
        left, right = tape.node("Split", [whole], {"axis": -1, "num_outputs": 2}, outputs=2).outputs
        return [tape("Mul", left, tape("Gelu", right))]

    return build


def _bias_add(call: Call) -> Build:
    return lambda tape: [added(tape, call.need(0), call[1], call[2])]


def _bias_softmax(call: Call) -> Build | Miss:
    """Softmax of x + bias over the last axis."""
    x, bias = call.need(0), call.need(1)
    dims, axis = x.shape, call.integer("axis", 1)
    if dims is None or axis not in (-1, len(dims) - 1):
        return Miss("axis", f"axis {axis}", "softmax over the last axis, of an input of known rank")
    plain = bias.shape is not None and (not call.integer("is_inner_broadcast") or len(bias.shape) == len(dims))
    if not plain:
        return Miss("bias", bias.name or "", "a bias that lacks leading axes only")
    return lambda tape: [alike(tape("Softmax", added(tape, x, bias), axis=-1), x)]


ACTIVATIONS: Table = named(
    {
        "Gelu": _gelu("none"),
        "BiasGelu": _gelu("none"),
        "FastGelu": _gelu("tanh"),
        "QuickGelu": _quick_gelu,
        "BiasSplitGelu": _bias_split_gelu,
        "BiasAdd": _bias_add,
        "BiasSoftmax": _bias_softmax,
    }
)
