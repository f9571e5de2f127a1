"""Look rows up before they are dequantized.

    before   Gather(DequantizeLinear(table, scale, axis=0), ids)
    after    Cast(Gather(table, ids)) * Gather(scale, ids)

Exact: scaling a row and picking a row commute. Without it ONNX Runtime would dequantize the whole table for every run
or fold it to float when it loads. Left alone: tables with zero points or scaled by column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Tape, attribute, is_op, replace


@dataclass(frozen=True, kw_only=True)
class Rows(Match):
    """The int8 table, and a scale for each row as [rows, 1]."""

    dequantize: ir.Node
    table: ir.Value
    scale: ir.Value


@dataclass(frozen=True, kw_only=True)
class GatherQuantizedRows(Rewrite):
    """Gather of a dequantized table -> dequantized rows"""

    name: ClassVar[str] = "onnxruntime-gather-quantized-rows"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("Gather",)

    def match(self, node: ir.Node) -> Match | Miss:
        source = node.inputs[0].producer() if node.inputs[0] is not None else None
        if not is_op(source, "DequantizeLinear") or attribute(node, "axis", 0) not in (0, -2):
            name = node.inputs[0].name or "" if node.inputs[0] else ""
            return Miss("table", name, "a dequantized table, axis 0", far=not is_op(source, "DequantizeLinear"))
        table, scale = source.inputs[:2]
        zero = source.inputs[2] if len(source.inputs) > 2 else None
        if table is None or scale is None or table.const_value is None or zero is not None:
            return Miss("zero point", source.name or "", "a constant table without zero points")
        if table.shape is None or len(table.shape) != 2:
            return Miss("rank", table.name or "", "a table of rows and columns")
        if scale.shape is None or len(scale.shape) != 1 or attribute(source, "axis", 1) not in (0, -2):
            return Miss("scale", scale.name or "", "one scale for each row")
        return Rows(node=node, dequantize=source, table=table, scale=scale)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Rows)
        tape, ids = Tape(), found.node.inputs[1]
        dtype = found.scale.dtype or ir.DataType.FLOAT
        rows = tape("Cast", tape("Gather", found.table, ids), to=int(dtype))
        scales = tape("Unsqueeze", tape("Gather", found.scale, ids), tape.constant([-1], "last"))
        replace(tape, found.node.outputs, [tape("Mul", rows, scales)], matched=[found.node, found.dequantize])
