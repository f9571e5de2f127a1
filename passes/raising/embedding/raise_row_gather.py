"""Read the elements of one row, spread over all others, as a lookup in that row.

    before   GatherElements{axis=1}(row [1, 512], positions [1, sequence])          after   Gather(row [512], positions)
    before   .. where the row is 0, 1, 2, .. and the positions are in it            after   positions

Exact. The first reads of each position the element that stands there in its own row; with one row alone that is a
lookup. Left alone: data with several rows, rows that are computed, long ones, and axes that are not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.constants import tensor_of
from ....ir.content import dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Tape, attribute, constant_of, is_op, replace
from .intervals import interval

#: Longer rows are not read.
_LONGEST = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Row(Match):
    """The constant whose elements are looked up, and whether each is its own place."""

    row: ir.Value
    counts: bool


@dataclass(frozen=True, kw_only=True)
class RaiseRowGather(Rewrite):
    """GatherElements(one row, ids) -> Gather(row, ids)"""

    name: ClassVar[str] = "raise-row-gather"
    anchors: ClassVar[tuple[str, ...]] = ("GatherElements",)

    def match(self, node: ir.Node) -> Match | Miss:
        data, ids = node.inputs
        assert data is not None and ids is not None
        source = data.producer()
        row = source.inputs[0] if is_op(source, "Expand") else data
        tensor, dims = tensor_of(row), dimensions(data)
        if row is None or tensor is None or dims is None:
            return Miss("row", data.name or "", "a constant, spread or as it is")
        sizes = [int(size) for size in tensor.shape.numpy()]
        # the axis counted from the right, as an Expand adds axes on the left
        axis = attribute(node, "axis", 0)
        axis -= len(dims) * (axis >= 0)
        if -axis > len(sizes) or tensor.size != sizes[axis] or dims[axis] != sizes[axis]:
            return Miss("row", f"{row.name}: {sizes}", f"size one at every axis but {axis}")
        if not 0 < tensor.size <= _LONGEST:
            return Miss("length", str(tensor.size), f"1 to {_LONGEST:,} elements")
        counts = tensor.dtype == ids.dtype and np.array_equal(tensor.numpy().reshape(-1), np.arange(tensor.size))
        inside = interval(ids) if counts else None
        counts = inside is not None and inside[0] >= 0 and inside[1] < tensor.size
        return Row(node=node, row=row, counts=counts)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Row)
        tape, ids = Tape(), found.node.inputs[1]
        assert ids is not None
        result = found.node.outputs[0]
        if found.counts:
            replace(tape, [result], [tape("Identity", ids) if result.is_graph_output() else ids])
            return
        numbers = constant_of(found.row)
        assert numbers is not None
        replace(tape, [result], [tape("Gather", tape.constant(numbers.reshape(-1), "row"), ids, axis=0)])
