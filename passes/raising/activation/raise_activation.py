"""Raise activation functions from their arithmetic, whatever their spelling.

    before   x * Sigmoid(alpha * x)                     after   tersor.Swish{alpha}(x)
             Where(x > 20, x, Log(Exp(x) + 1))                  Softplus(x)
             x * Clip(x + 3, 0, 6) / 6                          HardSwish(x)

and Sigmoid, HardSigmoid, Mish, Softsign, Elu and Selu. Exact: y = f(x) is shown by evaluating the arithmetic between x
and y in float64, at points of both tails and on both sides of wherever its constants may make it bend. Where the
arithmetic overflows far out, the op does not. Left alone where a value between is read elsewhere or f is none of these.
Swish: Ramachandran et al., Searching for Activation Functions, 2017; with alpha 1 it is SiLU, with 1.702 quick-GELU.
Opset 24 has it as an op; until then it is a function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...base import Match, Miss, Rewrite
from ...edit import Tape, replace
from ...functions import Function
from . import scalar_function
from .scalar_function import POINTS, Samples

SWISH = Function("Swish (x) => (y) { s = Sigmoid (x)  y = Mul (x, s) }")
SCALED_SWISH = Function(
    "Swish <alpha> (x) => (y) { a = Constant <value_float: float = @alpha> ()  b = CastLike (a, x)"
    "  c = Mul (x, b)  s = Sigmoid (c)  y = Mul (x, s) }",
    overload="scaled",
)

Parameters = Mapping[str, float]

#: A parameter smaller than this is there to keep a number off zero.
_LEAST = 1e-2


@dataclass(frozen=True)
class Kind:
    """An activation function: its formula, and how its parameters show in its values at POINTS."""

    op_type: str
    formula: Callable[[Samples, Parameters], Samples]
    parameters: Callable[[Mapping[float, float]], Parameters | None] = lambda _: {}


@dataclass(frozen=True, kw_only=True)
class Activation(Match):
    """y = f(x)."""

    x: ir.Value
    y: ir.Value
    op_type: str
    parameters: Parameters


@dataclass(frozen=True, kw_only=True)
class RaiseActivation(Rewrite):
    """Swish, Softplus, HardSwish and their like, spelled out -> one op or call"""

    name: ClassVar[str] = "raise-activation"
    anchors: ClassVar[tuple[str, ...]] = ("Abs", "Clip", "Exp", "HardSigmoid", "Sigmoid", "Softplus")

    def match(self, node: ir.Node) -> Match | Miss:
        for x, y, values in scalar_function.cones(node):
            producer = y.producer()
            for kind in KINDS:
                if producer is None or (producer.op_type == kind.op_type and producer.inputs[0] is x):
                    continue
                found = _recognised(kind, x, y, values)
                if found is not None:
                    return Activation(node=node, x=x, y=y, op_type=kind.op_type, parameters=found)
        return Miss("function", node.outputs[0].name or "", ", ".join(kind.op_type for kind in KINDS))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Activation)
        tape = Tape()
        if found.op_type != "Swish":
            y = tape.node(found.op_type, [found.x], found.parameters).outputs[0]
        elif found.parameters["alpha"] == 1.0:
            y = SWISH(tape, found.x)
        else:
            y = SCALED_SWISH(tape, found.x, alpha=found.parameters["alpha"])
        replace(tape, [found.y], [y], matched=[found.node])


def _recognised(kind: Kind, x: ir.Value, y: ir.Value, values: Samples) -> Parameters | None:
    """The parameters with which y is this function of x."""
    tolerance = scalar_function.tolerance(y.dtype)
    with np.errstate(all="ignore"):
        parameters = kind.parameters(dict(zip(POINTS.tolist(), values.tolist(), strict=True)))
        if parameters is None or not scalar_function.agrees(values, kind.formula(POINTS, parameters), tolerance):
            return None
        points = scalar_function.around(scalar_function.numbers(x, y))
        if points is None:
            return None
        found = scalar_function.evaluate(x, y, points)
        if found is None or not scalar_function.agrees(found, kind.formula(points, parameters), tolerance):
            return None
    return parameters


def _sigmoid(x: Samples) -> Samples:
    return np.where(x >= 0.0, 1.0 / (1.0 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1.0 + np.exp(-np.abs(x))))


def _elu(x: Samples, parameters: Parameters) -> Samples:
    return np.where(x >= 0.0, x, parameters["alpha"] * np.expm1(np.minimum(x, 0.0)))


def _selu(x: Samples, _: Parameters) -> Samples:
    """Klambauer et al., Self-Normalizing Neural Networks, 2017, equation 2."""
    return 1.0507009873554804935 * _elu(x, {"alpha": 1.6732632423543772848})


def _hard_sigmoid(x: Samples, parameters: Parameters) -> Samples:
    return np.clip(parameters["alpha"] * x + parameters["beta"], 0.0, 1.0)


@cache
def _sixth() -> Parameters:
    return {"alpha": 1.0 / 6.0, "beta": 0.5}


def _swish_alpha(at: Mapping[float, float]) -> Parameters | None:
    """y / x = sigmoid(alpha x)."""
    share = at[1.1] / 1.1
    if not 0.0 < share < 1.0:
        return None
    alpha = math.log(share / (1.0 - share)) / 1.1
    if abs(alpha) < _LEAST:
        return None
    return {"alpha": 1.0 if abs(alpha - 1.0) < 1e-6 else alpha}


def _elu_alpha(at: Mapping[float, float]) -> Parameters | None:
    alpha = at[-1.7] / math.expm1(-1.7)
    return {"alpha": alpha} if _LEAST < alpha < 1.0 / _LEAST else None


def _hard_sigmoid_line(at: Mapping[float, float]) -> Parameters | None:
    alpha = (at[0.07] - at[-0.04]) / 0.11
    return {"alpha": alpha, "beta": at[0.0]} if alpha > _LEAST and 0.0 < at[0.0] < 1.0 else None


KINDS = (
    Kind("Sigmoid", lambda x, _: _sigmoid(x)),
    Kind("Swish", lambda x, at: x * _sigmoid(at["alpha"] * x), _swish_alpha),
    Kind("Softplus", lambda x, _: np.logaddexp(0.0, x)),
    Kind("Mish", lambda x, _: x * np.tanh(np.logaddexp(0.0, x))),
    Kind("Softsign", lambda x, _: x / (1.0 + np.abs(x))),
    Kind("HardSwish", lambda x, _: x * _hard_sigmoid(x, _sixth())),
    Kind("HardSigmoid", _hard_sigmoid, _hard_sigmoid_line),
    Kind("Elu", _elu, _elu_alpha),
    Kind("Selu", _selu),
)
