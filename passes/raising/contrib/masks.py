"""ONNX Runtime's integer masks as additions to the scores, in the form that ai.onnx Attention takes.

A place that such a mask hides gets `mask_filter_value` added rather than -inf, so that a row that sees nothing is the
mean of what it may not see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ....ir.content import Element
from ....ir.polynomial import Polynomial
from ...base import Miss
from ...edit import Tape
from .call import rank, size

#: Records a size, [1].
Length = Callable[[Tape], ir.Value]


@dataclass(frozen=True)
class Scene:
    """What a mask is read against: queries, the number of keys with the cached ones, the type of the scores."""

    queries: ir.Value
    rows: Length
    total: Length
    dtype: ir.DataType


def mask_of(mask: ir.Value | None, scene: Scene, fill: float) -> Callable[[Tape], ir.Value | None] | Miss:
    """A mask to be added, that broadcasts to [batch, heads, rows, total]. A matrix [batch, total] is one of all keys.

    Rank 1: lengths [batch], or ends then starts [2 batch], or lengths and both cumulated [3 batch + 2]; else 0/1 masks
    [batch, total], [batch, rows, total], [batch, 1, longest, longest].
    """
    if mask is None:
        return lambda tape: None
    axes = rank(mask)
    if axes == 1:
        times = _lengths_per_row(size(mask, 0), size(scene.queries, 0))
        if times is None:
            value = f"{size(mask, 0)} numbers for a batch of {size(scene.queries, 0)}"
            return Miss("mask", value, "as many lengths as rows, or twice as many, or 3 batch + 2")
        return lambda tape: _added(tape, _inside(tape, mask, times, scene), scene, fill)
    if axes not in (2, 3, 4):
        return Miss("mask", f"{mask.name}: rank {axes}", "a mask of known rank, 1 to 4")
    return lambda tape: _added(tape, _shown(tape, _placed(tape, mask, axes, scene)), scene, fill)


def both(tape: Tape, mask: ir.Value | None, bias: ir.Value | None) -> ir.Value | None:
    """A mask and a bias as one."""
    if mask is None or bias is None:
        return bias if mask is None else mask
    return tape("Add", mask, bias)


def _lengths_per_row(count: Element, batch: Element) -> int | None:
    """1 for lengths, 2 for ends and starts, 3 for lengths and what is cumulated; None where the sizes do not tell."""
    if count is None or batch is None:
        return None
    numbers, rows = _polynomial(count), _polynomial(batch)
    if numbers is None or rows is None:
        return None
    wanted = {1: rows, 2: rows * 2, 3: rows * 3 + 2}
    return next((times for times, expected in wanted.items() if numbers == expected), None)


def _polynomial(dim: int | str) -> Polynomial | None:
    return Polynomial.of(dim) if isinstance(dim, int) else Polynomial.parse(dim)


def _inside(tape: Tape, mask: ir.Value, times: int, scene: Scene) -> ir.Value:
    """Whether a key lies before the end of its row (and not before its start), bool [batch, 1, 1, total]."""
    axis = tape.constant([0], "axes")
    count = tape("Squeeze", scene.total(tape), axis)
    zero, one = tape.constant(np.array(0, np.int64), "zero"), tape.constant(np.array(1, np.int64), "one")
    column = tape("Range", zero, count, one)
    parts = [mask]
    if times == 2:
        parts = list(tape.node("Split", [mask], {"axis": 0, "num_outputs": 2}, outputs=2).outputs)
    elif times == 3:
        parts = [tape("Slice", mask, axis, tape("Shape", scene.queries, start=0, end=1), axis)]
    wide = [
        tape("Unsqueeze", tape("Cast", part, to=ir.DataType.INT64), tape.constant([1, 2, 3], "axes")) for part in parts
    ]
    before = tape("Less", column, wide[0])
    return before if times != 2 else tape("And", before, tape("GreaterOrEqual", column, wide[1]))


def _placed(tape: Tape, mask: ir.Value, axes: int, scene: Scene) -> ir.Value:
    """A 0/1 mask as [batch, 1, 1 or rows, total]."""
    if axes == 2:
        return tape("Unsqueeze", mask, tape.constant([1, 2], "axes"))
    if axes == 3:
        return tape("Unsqueeze", mask, tape.constant([1], "axes"))
    rows, total = scene.rows(tape), scene.total(tape)
    start = tape("Concat", tape("Sub", total, rows), tape.constant([0], "zero"), axis=0)
    return tape("Slice", mask, start, tape("Concat", total, total, axis=0), tape.constant([2, 3], "axes"))


def _shown(tape: Tape, mask: ir.Value) -> ir.Value:
    if mask.dtype == ir.DataType.BOOL:
        return mask
    return tape("Greater", tape("Cast", mask, to=ir.DataType.INT64), tape.constant(np.array(0, np.int64), "zero"))


def _added(tape: Tape, seen: ir.Value, scene: Scene, fill: float) -> ir.Value:
    kind = scene.dtype.numpy()
    limits = np.finfo(np.float32 if scene.dtype == ir.DataType.BFLOAT16 else kind)
    low = np.asarray(np.clip(fill, float(limits.min), float(limits.max)), kind)
    return tape("Where", seen, tape.constant(np.asarray(0.0, kind), "shown"), tape.constant(low, "hidden"))
