"""Raise the division of rows by their Euclidean norm to one call.

    before   x / Max(ReduceL2(x), epsilon)              after   tersor.L2Normalization{epsilon}(x)

Exact: y = x / max(||x||, epsilon) over the last axis is shown by evaluating what lies between x and y at rows whose
norms are large, small, and on both sides of epsilon, which is 0 where nothing keeps the norm off zero. (ONNX's own
LpNormalization gives zeros for a row of zeros, where division gives NaN.) Left alone, with the reason: other axes,
epsilon added instead of compared, half precision, and any other function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...base import Match, Miss, Rewrite
from ...edit import Tape, replace
from ...functions import Function
from ..normalization.normalization import is_root, is_whole, values_above, values_below
from ..normalization.rows import ARITHMETIC, CLAMPS, Axes, Floats, Rows, reduced

FUNCTION = Function(
    "L2Normalization <epsilon: float = 1e-12> (x) => (y) {"
    " last = Constant <value_ints: ints = [-1]> ()  squares = Mul (x, x)  sum = ReduceSum (squares, last)"
    " norm = Sqrt (sum)  number = Constant <value_float: float = @epsilon> ()  least = CastLike (number, x)"
    " divisor = Max (norm, least)  y = Div (x, divisor) }"
)

#: A norm below every epsilon, and the others that rows are tried at, with and without regard to epsilon.
_LEAST = 1e-18
_NORMS = (1e3, 1.0, 1e-3, 1e-6, 1e-9, 1e-15)
_SIDES = (0.01, 0.5, 0.999, 1.001, 2.0, 100.0)

#: Squares of half precision overflow where a norm that is computed in float does not.
_DTYPES = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
_TOLERANCE = 2e-6
_WIDEST = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Normalized(Match):
    """y = x / max(||x||, epsilon)."""

    x: ir.Value
    y: ir.Value
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class RaiseL2Normalization(Rewrite):
    """x / max(||x||, epsilon) -> L2Normalization"""

    name: ClassVar[str] = "raise-l2-normalization"
    anchors: ClassVar[tuple[str, ...]] = ("ReduceL2", "ReduceSum", "ReduceSumSquare")

    def match(self, node: ir.Node) -> Match | Miss:
        name = node.outputs[0].name or ""
        below = list(values_below(node, (*ARITHMETIC, *CLAMPS)))
        if not any(is_root(value.producer()) for value in below):
            return Miss("root", name, "a square root of a sum of squares", far=node.op_type != "ReduceL2")
        axes = reduced(node)
        if axes is None:
            return Miss("axes", f"{name}: unknown", "known axes of known sizes")
        if not axes.last or len(axes.axes) != 1:
            return Miss("axes", f"{list(axes.axes)} of {axes.rank}", "the last axis, with another before it")
        if not 2 <= axes.count <= _WIDEST:
            return Miss("width", str(axes.count), f"2 to {_WIDEST} elements in a row")
        for x in values_above(node, axes):
            for y in below:
                if is_whole(y, axes) and (epsilon := _epsilon(x, y, axes)) is not None:
                    if x.dtype != y.dtype or x.dtype not in _DTYPES:
                        return Miss("dtype", f"{x.dtype} to {y.dtype}", "float or double throughout")
                    return Normalized(node=node, x=x, y=y, epsilon=epsilon)
        return Miss("function", name, "x / max(||x||, epsilon)")

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Normalized)
        tape = Tape()
        made = FUNCTION(tape, found.x, epsilon=found.epsilon)
        replace(tape, [found.y], [made], matched=[found.node])


def _epsilon(x: ir.Value, y: ir.Value, axes: Axes) -> float | None:
    """What keeps the norm off zero, 0 where nothing does; None where y is another function of x."""
    found = _at(x, y, axes, [_LEAST])
    if found is None or not np.all(np.isfinite(found[1])):
        return None
    length = float(np.linalg.norm(found[1]))
    # x / epsilon has norm ||x|| / epsilon, x / ||x|| has norm 1
    epsilon = 0.0 if length == 0.0 or abs(length - 1.0) < _TOLERANCE else _LEAST / length
    found = _at(x, y, axes, [*_NORMS, *(side * epsilon for side in _SIDES if epsilon)])
    if found is None:
        return None
    norms = np.linalg.norm(found[0], axis=1, keepdims=True)
    wanted = found[0] / np.maximum(norms, epsilon)
    near = np.abs(found[1] - wanted) <= _TOLERANCE * np.max(np.abs(wanted), axis=1, keepdims=True)
    return epsilon if bool(np.all(near)) else None


def _at(x: ir.Value, y: ir.Value, axes: Axes, norms: list[float]) -> tuple[Floats, Floats] | None:
    """Rows of the given norms, and what y is there; None where y depends on more than them."""
    rows = np.random.default_rng(axes.count).standard_normal((len(norms), axes.count)) + 0.6
    rows *= np.array(norms)[:, None] / np.linalg.norm(rows, axis=1, keepdims=True)
    evaluated = Rows(x, axes, rows, clamps=True)
    found = evaluated.of(y)
    return None if found is None or evaluated.parameters else (rows, found)
