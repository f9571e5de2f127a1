"""Put an arrangement (`ir.arrangement`) on a tape."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import onnx_ir as ir

from ..ir.arrangement import Arrangement, Kept, Target
from .edit import Tape


def arranged(tape: Tape, plan: Arrangement) -> ir.Value:
    """The value that `plan` makes of its own."""
    result = plan.value
    for step in plan.steps:
        if step.target is not None:
            moved = tape("Reshape", result, _target(tape, result, step.target))
        elif step.squeezed or step.unsqueezed:
            axes = tape.constant(step.squeezed or step.unsqueezed, "axes")
            moved = tape("Squeeze" if step.squeezed else "Unsqueeze", result, axes)
        else:
            moved = tape("Transpose", result, perm=step.perm)
        moved.type, moved.shape = result.type, ir.Shape(step.dims)
        result = moved
    return result


def _target(tape: Tape, value: ir.Value, target: Target) -> ir.Value:
    """The target of a Reshape of `value`: a constant where it can be."""
    parts: list[ir.Value] = []
    for computed, run in groupby(target, lambda dim: isinstance(dim, Kept)):
        if computed:
            sizes = (tape("Shape", value, start=dim.axis, end=dim.axis + 1) for dim in run if isinstance(dim, Kept))
            parts += (_numbers(size, 1) for size in sizes)
        else:
            parts.append(tape.constant([dim for dim in run if isinstance(dim, int)], "shape"))
    if not parts:
        return tape.constant(np.empty(0, np.int64), "shape")
    return parts[0] if len(parts) == 1 else _numbers(tape("Concat", *parts, axis=0), len(target))


def _numbers(value: ir.Value, count: int) -> ir.Value:
    """A value, known to hold that many sizes."""
    value.type, value.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([count])
    return value
