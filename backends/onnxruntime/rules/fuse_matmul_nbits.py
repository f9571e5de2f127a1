"""Linear layers whose weights are stored in 2 to 8 bits as one kernel each, which reads them as they are.

    before   x @ DequantizeLinear{axis=0, block_size=32}(W4, scale, zero) + b
    after    MatMulNBits{bits=4, block_size=32}(x, packed W4, scale, zero, b)

Exact: the same integers and scales. Without it ONNX Runtime's CPU provider dequantizes the whole weight for every run,
or makes of what it folded a MatMulNBits of its own, whose default rounds activations to 8 bits. There are kernels of 2,
4 and 8 bits; integers of other widths stay stored as they are and are widened at load. A weight with one scale for each
output gets it repeated for every 128 inputs, or one block that is no longer than it has to be. Left alone, to be
dequantized: scales along another axis, blocks that are no power of two from 16 to 256, and weights of halves, for which
the kernel was not timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.level import Level
from ....passes.base import Match, Miss, Rewrite
from ....passes.edit import Array, Attribute, Tape, is_constant, is_op, replace
from ....passes.weights import Quantized
from ....passes.weights.stored import Stored
from . import nbits
from .linear import DOMAIN

#: The longest block of weights that have one scale for each output.
_WHOLE = 128


@dataclass(frozen=True, kw_only=True)
class Narrow(Match):
    """The layer's output with its bias, which may be absent, and its weight [in, out]."""

    output: ir.Value
    weight: Stored
    bias: ir.Value | None
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True, kw_only=True)
class FuseMatMulNBits(Rewrite):
    """MatMul with a dequantized weight -> com.microsoft MatMulNBits"""

    name: ClassVar[str] = "onnxruntime-fuse-matmul-nbits"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("MatMul",)

    def match(self, node: ir.Node) -> Match | Miss:
        x, w = node.inputs
        stored = Stored.of(w)
        if x is None or w is None or stored is None or len(stored.shape) != 2:
            return Miss("weight", w.name or "" if w else "", "a dequantized constant matrix", far=True)
        quantizer = x.producer()
        if is_op(quantizer, "DequantizeLinear") and stored.bits == 8 and not stored.block:
            return Miss("activation", x.name or "", "an activation in floats", far=True)
        if stored.bits not in nbits.KERNEL:
            return Miss("bits", str(stored.bits), "2 to 8 bits")
        if w.dtype != ir.DataType.FLOAT or stored.node.inputs[1] is None:
            return Miss("type", str(w.dtype), "a weight of float32")
        if stored.block and (stored.axis != 0 or stored.block not in nbits.BLOCKS):
            return Miss("block", f"{stored.block} on axis {stored.axis}", "a power of two from 16 to 256, on axis 0")
        if not stored.block and stored.axis == 0:
            return Miss("scales", "one for each input", "one for each output, block or weight")
        output, bias, nodes = _biased(node, stored.shape[1])
        return Narrow(node=node, output=output, weight=stored, bias=bias, nodes=(*nodes, stored.node))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Narrow)
        tape, stored = Tape(), found.weight
        rows, columns = stored.shape
        block = stored.block or next(size for size in nbits.BLOCKS if size >= min(rows, _WHOLE))
        count = -(-rows // block)
        name, bytes_of = found.node.inputs[1].name if found.node.inputs[1] else "weight", ir.DataType.UINT8

        def weight(part: str, shape: list[int], dtype: ir.DataType, numbers: Callable[[Quantized], Array]) -> ir.Value:
            return tape.derived(
                f"{name}_{part}", shape, dtype, lambda: numbers(stored.read().transposed()), weight=True
            )

        kernel = nbits.KERNEL[stored.bits]
        shape, of_zeros = [columns, count, block * kernel // 8], [columns, -(-count * kernel // 8)]
        if kernel == stored.bits:
            packed = weight("packed", shape, bytes_of, lambda rows: nbits.packed(rows, block).reshape(shape))
        else:
            whole = [columns, count, block]
            packed = nbits.widened(
                tape, f"{name}", stored.bits, whole, lambda: nbits.codes(stored.read().transposed(), block)
            )
        scale = weight("scales", shape[:2], ir.DataType.FLOAT, lambda rows: nbits.scales(rows, count))
        zero = None
        if not stored.centred:
            zero = weight("zeros", of_zeros, bytes_of, lambda rows: nbits.zeros(rows, count))
        elif kernel != stored.bits:
            zero = nbits.middles(tape, stored.bits, of_zeros)
        inputs = [found.node.inputs[0], packed, scale, zero, None, found.bias]
        while inputs[-1] is None:
            inputs.pop()
        attributes: dict[str, Attribute] = {"K": rows, "N": columns, "bits": kernel, "block_size": block}
        new = tape.node("MatMulNBits", inputs, attributes, domain=DOMAIN)
        replace(tape, [found.output], [new.outputs[0]], matched=found.nodes)


def _biased(node: ir.Node, width: int) -> tuple[ir.Value, ir.Value | None, tuple[ir.Node, ...]]:
    """The product's output, or that of the Add of a constant vector which alone reads it."""
    product = node.outputs[0]
    readers = product.consumers()
    if len(readers) == 1 and is_op(readers[0], "Add") and not product.is_graph_output() and len(product.uses()) == 1:
        bias = next((each for each in readers[0].inputs if each is not product), None)
        if bias is not None and is_constant(bias) and bias.shape is not None and list(bias.shape) == [width]:
            return readers[0].outputs[0], bias, (readers[0], node)
    return product, None, (node,)
