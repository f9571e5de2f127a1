"""Recognise a scalar function by what it computes, not by how it is spelled.

The cone of nodes between a value x and a value y is elementwise with scalar constants: then y = f(x) for one scalar
function f, and evaluating the cone at sample points in float64 tells which one, whatever the order, association or
spelling of its arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ...edit import is_op, only_reader, scalar_of

Samples = np.ndarray[tuple[int], np.dtype[np.float64]]

#: Where functions are told apart: both tails, the bend, and zero; no symmetry that could hide a sign.
POINTS: Samples = np.array([-7.9, -4.3, -2.6, -1.7, -0.9, -0.31, -0.04, 0.0, 0.07, 0.44, 1.1, 1.9, 2.8, 4.7, 8.3])

_BINARY: Mapping[str, Callable[[Samples, Samples], Samples]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}
_UNARY: Mapping[str, Callable[[Samples], Samples]] = {
    "Erf": lambda x: np.array([math.erf(item) for item in x]),
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1.0 / (1.0 + np.exp(-x)),
    "Neg": np.negative,
    "Exp": np.exp,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Identity": lambda x: x,
    "Log": np.log,
    "Abs": np.abs,
    "Relu": lambda x: np.maximum(x, 0.0),
    "Softplus": lambda x: np.logaddexp(0.0, x),
}
#: What else a cone may hold; their rules are in `_other`.
_OTHERS = ("Clip", "HardSigmoid", "Where")
_OPS = (*_BINARY, *_UNARY, *_OTHERS)

#: Beyond these e^x leaves what float32 holds, and a formula what it stands for.
_FARTHEST = 80.0
#: A bound so far out bounds nothing.
_BOUNDLESS = 1e30

#: What 1 + erf(x) leaves of zero in float64.
_ZERO = 1e-14

#: How far a cone is followed up and down from the nonlinearity inside it.
_REACH = 12


def gelu(points: Samples) -> Samples:
    """x * Phi(x): Hendrycks & Gimpel, Gaussian Error Linear Units, 2016."""
    return np.array([0.5 * x * (1.0 + math.erf(x / math.sqrt(2.0))) for x in points])


def gelu_tanh(points: Samples) -> Samples:
    """0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): the same paper, section 2."""
    inner = math.sqrt(2.0 / math.pi) * (points + 0.044715 * points**3)
    return 0.5 * points * (1.0 + np.tanh(inner))


def cones(node: ir.Node) -> Iterator[tuple[ir.Value, ir.Value, Samples]]:
    """Every (x, y, f(POINTS)) with y = f(x) whose cone goes through `node`, smaller cones first."""
    tops = list(dict.fromkeys(_climb(node)))
    for bottom in _descend(node):
        for top in tops:
            values = evaluate(top, bottom, POINTS)
            if values is not None:
                yield top, bottom, values


def evaluate(x: ir.Value, y: ir.Value, points: Samples) -> Samples | None:
    """f(points) where y = f(x); None where it is no scalar function."""
    with np.errstate(all="ignore"):
        return _evaluate(y, x, {x: points}, _REACH)


def numbers(x: ir.Value, y: ir.Value) -> list[float]:
    """The constants in the cone between x and y."""
    known: dict[ir.Value, Samples | None] = {x: POINTS}
    with np.errstate(all="ignore"):
        _evaluate(y, x, known, _REACH)
    found = (scalar_of(value) for value in known)
    return [number for number in found if number is not None]


def around(numbers: Sequence[float]) -> Samples | None:
    """A grid, and both sides of wherever a line through these numbers may meet one of them.

    None where a number lies farther out than functions can be told apart.
    """
    if any(_FARTHEST < abs(number) < _BOUNDLESS for number in numbers):
        return None
    near = {0.0, *(number for number in numbers if abs(number) <= _FARTHEST)}
    bends = {*near, *(-number for number in near)}
    bends |= {a / b for a in near for b in near if b}
    bends |= {(a - c) / b for a in near for b in near if b for c in near} if len(near) <= 8 else set()
    ends = [bend + side for bend in bends if abs(bend) <= _FARTHEST for side in (-0.3, -1e-3, 1e-3, 0.3)]
    return np.array([*np.linspace(-_FARTHEST, _FARTHEST, 81), *np.linspace(-6.7, 6.9, 41), *ends])


def agrees(found: Samples, wanted: Samples, tolerance: float) -> bool:
    """Whether a cone computes the wanted function: constants in the graph are float32 or coarser.

    Zeros are exact in any precision, and what is kept off them by however little is another function.
    """
    near = np.abs(found - wanted) <= tolerance * (1.0 + np.abs(wanted))
    return bool(np.all(near & ((wanted != 0.0) | (np.abs(found) <= _ZERO))))


def tolerance(dtype: ir.DataType | None) -> float:
    """Constants of the formula are rounded to the model's dtype before they are stored."""
    if dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return 4.0 * float(np.finfo(np.float16).eps) * (8.0 if dtype == ir.DataType.BFLOAT16 else 1.0)
    return 8.0 * float(np.finfo(np.float32).eps)


def _climb(node: ir.Node) -> Iterator[ir.Value]:
    """The values that feed `node` through scalar arithmetic, nearest first."""
    frontier = [value for value in node.inputs if value is not None and scalar_of(value) is None]
    for _ in range(_REACH):
        yield from frontier
        producers = [value.producer() for value in frontier]
        frontier = [
            value
            for producer in dict.fromkeys(producers)
            if is_op(producer, *_OPS)
            for value in producer.inputs
            if value is not None and scalar_of(value) is None
        ]


def _descend(node: ir.Node) -> Iterator[ir.Value]:
    for _ in range(_REACH):
        yield node.outputs[0]
        reader = only_reader(node.outputs[0])
        if not is_op(reader, *_OPS):
            return
        node = reader


def _evaluate(value: ir.Value, x: ir.Value, known: dict[ir.Value, Samples | None], depth: int) -> Samples | None:
    """The samples of `value`, each value of the cone computed once; None where it is no scalar function of `x`."""
    if value not in known:
        known[value] = _computed(value, x, known, depth)
    return known[value]


def _computed(value: ir.Value, x: ir.Value, known: dict[ir.Value, Samples | None], depth: int) -> Samples | None:
    constant = scalar_of(value)
    if constant is not None:
        return np.full_like(known[x], constant) if _rank(value) <= _rank(x) else None
    node = value.producer()
    if node is None or node.domain or depth == 0 or node.op_type not in _OPS:
        return None
    inputs = [None if item is None else _evaluate(item, x, known, depth - 1) for item in node.inputs]
    found = [item for item in inputs if item is not None]
    if len(found) != sum(item is not None for item in node.inputs):
        return None
    if node.op_type in _BINARY and len(found) == 2:
        return np.asarray(_BINARY[node.op_type](found[0], found[1]), np.float64)
    if node.op_type in _UNARY and len(found) == 1:
        return _UNARY[node.op_type](found[0])
    return _other(node, inputs)


def _other(node: ir.Node, inputs: list[Samples | None]) -> Samples | None:
    """Ops of optional inputs, attributes or truth values."""
    first, second, third = (*inputs, None, None, None)[:3]
    if node.op_type == "Clip" and first is not None:
        above = first if second is None else np.maximum(first, second)
        return above if third is None else np.minimum(above, third)
    if node.op_type == "HardSigmoid" and first is not None:
        alpha, beta = (node.attributes.get_float(name, default) for name, default in (("alpha", 0.2), ("beta", 0.5)))
        return np.clip(first * alpha + beta, 0.0, 1.0)
    if node.op_type == "Where" and first is not None and second is not None and third is not None:
        return np.where(first != 0.0, second, third)
    return None


def _rank(value: ir.Value) -> int:
    """Axes of a value, 0 where unknown: a constant [1, 1, 1] would give a vector two axes more."""
    return 0 if value.shape is None else len(value.shape)
