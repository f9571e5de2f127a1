"""Look rows of few bits up as they are stored, and dequantize what was found.

    before   Gather(DequantizeLinear{axis=1, block_size=32}(table, scale, zero), ids)
    after    GatherBlockQuantized{bits=4, block_size=32}(packed table, ids, scale, zero)

Exact: picking a row and scaling it commute. Without it ONNX Runtime would dequantize the whole table for every run. A
table with one scale for each row is one block wide. Integers of 3, 5, 6 and 7 bits stay stored as they are, and are
widened to 4 or 8 bits at load. Left alone: scales by column, blocks that are no power of two from
16 on, rows that do not fill bytes, and int8 around zero by row, which `onnxruntime-gather-quantized-rows` reads faster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Array, Attribute, Tape, attribute, replace
from ....passes.weights import Quantized
from ....passes.weights.stored import Stored
from . import nbits
from .linear import DOMAIN


@dataclass(frozen=True, kw_only=True)
class Blocks(Match):
    """The table [rows, width], and how many columns of it share a scale."""

    table: Stored
    block: int


@dataclass(frozen=True, kw_only=True)
class GatherQuantizedBlocks(Rewrite):
    """Gather of a dequantized table -> com.microsoft GatherBlockQuantized"""

    name: ClassVar[str] = "onnxruntime-gather-quantized-blocks"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("Gather",)

    def match(self, node: ir.Node) -> Match | Miss:
        source = node.inputs[0]
        stored = Stored.of(source)
        if source is None or stored is None or len(stored.shape) != 2 or attribute(node, "axis", 0) not in (0, -2):
            name = source.name or "" if source else ""
            return Miss("table", name, "rows of a dequantized constant table", far=stored is None)
        if stored.bits not in nbits.KERNEL or stored.shape[1] % (8 // nbits.KERNEL[stored.bits]):
            return Miss("bits", str(stored.bits), "2 to 8 bits, rows of whole bytes")
        if stored.block and (stored.axis != 1 or stored.block not in nbits.BLOCKS):
            return Miss("block", f"{stored.block} on axis {stored.axis}", "a power of two from 16 to 256, on axis 1")
        if not stored.block and stored.axis == 1:
            return Miss("scales", "one for each column", "one for each row, block or table")
        if not stored.block and stored.bits == 8 and stored.centred and stored.signed:
            need = "other than int8 rows around zero, which have a rule of their own"
            return Miss("rows", source.name or "", need, far=True)
        if source.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
            return Miss("type", str(source.dtype), "a table of float32 or float16")
        return Blocks(node=node, table=stored, block=stored.block or max(16, 1 << (stored.shape[1] - 1).bit_length()))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Blocks)
        tape, stored, block = Tape(), found.table, found.block
        (rows, width), bits = stored.shape, stored.bits
        source, count = found.node.inputs[0], -(-stored.shape[1] // found.block)
        assert source is not None and source.dtype is not None

        def weight(part: str, columns: int, dtype: ir.DataType, numbers: Callable[[Quantized], Array]) -> ir.Value:
            name = f"{source.name}_{part}"
            return tape.derived(name, [rows, columns], dtype, lambda: numbers(stored.read()), weight=True)

        kernel = nbits.KERNEL[bits]
        share = 8 // kernel
        if kernel == bits:
            packed = weight("packed", width // share, ir.DataType.UINT8, lambda table: nbits.packed(table, share))
        else:
            packed = nbits.widened(
                tape, source.name or "table", bits, [rows, width], lambda: nbits.codes(stored.read(), share)
            )
        scale = weight("scales", count, source.dtype, lambda table: nbits.scales(table, count))
        inputs = [packed, found.node.inputs[1], scale]
        if not stored.centred:
            zero = weight("zeros", -(-count // share), ir.DataType.UINT8, lambda table: nbits.zeros(table, count))
            inputs.append(zero)
        elif kernel != bits:
            inputs.append(nbits.middles(tape, bits, [rows, -(-count // share)]))
        attributes: dict[str, Attribute] = {"bits": kernel, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
        new = tape.node("GatherBlockQuantized", inputs, attributes, domain=DOMAIN)
        replace(tape, found.node.outputs, [new.outputs[0]], matched=[found.node, stored.node])
