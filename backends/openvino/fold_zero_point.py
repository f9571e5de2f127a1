"""Take the zero point of rounded activations into the bias: OpenVINO's int8 products then only multiply and scale.

    before   y = DequantizeLinear(q, s, z) @ W + b          q = QuantizeLinear(x, s, z), W dequantized from int8
    after    y = DequantizeLinear(q, s) @ W + (b - s z sum(W))

Exact: (s (q - z)) W == (s q) W - s z (1 W), a number for each output. Asymmetric activations then cost what symmetric
ones do: with a zero point the plugin subtracts, scales and adds one after the other behind the product.

Left alone: activations that something else than products with 8-bit constants reads, zero points of zero, and scales of
channels.

Tried on OpenVINO 2026.4: FullyConnected with DequantizationSubtract, or FullyConnectedQuantizedLegacy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.level import Level
from ...passes.base import Match, Miss, Rewrite
from ...passes.edit import Array, Ledger, Tape, attribute, constant_of, is_op, only_reader, replace
from ...passes.weights.stored import Stored


@dataclass(frozen=True, kw_only=True)
class Product(Match):
    """A MatMul or Gemm, the Add of a constant right behind it where there is one, and the weight."""

    weight: Stored
    sum: ir.Node | None
    bias: NDArray[np.float64] | None


@dataclass(frozen=True, kw_only=True)
class Asymmetric(Match):
    """A rounded activation with a zero point, and all that reads it."""

    products: Sequence[Product]
    shift: float


@dataclass(frozen=True, kw_only=True)
class FoldZeroPoint(Rewrite):
    """zero points of activations into biases"""

    name: ClassVar[str] = "fold-zero-point"
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("DequantizeLinear",)

    def match(self, node: ir.Node) -> Match | Miss:
        stored = node.inputs[0]
        if stored is None or not is_op(stored.producer(), "QuantizeLinear"):
            return Miss("activation", stored.name or "" if stored else "", "one that is rounded", far=True)
        scale, zero = (constant_of(value) for value in (*node.inputs[1:], None, None)[:2])
        if scale is None or zero is None or scale.size != 1 or zero.size != 1 or not zero.any():
            return Miss("zero point", "" if zero is None else str(zero.reshape(-1)[:4]), "a number other than zero")
        if scale.dtype != np.float32 or zero.dtype not in (np.uint8, np.int8):
            return Miss("dtype", f"{scale.dtype}, {zero.dtype}", "float32 in 8 bits")
        value = node.outputs[0]
        if value.is_graph_output():
            return Miss("output", value.name or "", "an activation that only products read")
        products = []
        for reader in dict.fromkeys(value.consumers()):
            found = _product(reader, value)
            if isinstance(found, Miss):
                return found
            products.append(found)
        return Asymmetric(node=node, products=products, shift=float(scale.item()) * float(zero.item()))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Asymmetric)
        tape = Tape()
        centred = tape("DequantizeLinear", *found.node.inputs[:2])
        replace(tape, found.node.outputs, [centred])
        # it holds other numbers than what it stands for, which are known by that name
        graph = centred.graph
        assert isinstance(graph, ir.Graph)
        centred.name = Ledger.of(graph).unique(f"{centred.name}/centred")
        for product in found.products:
            bias = -found.shift * _alpha(product.node) * _sums(product)
            bias = bias if product.bias is None else bias + product.bias
            _add(product, bias.astype(np.float32))


def _product(node: ir.Node, activation: ir.Value) -> Product | Miss:
    """A reader of the activation, if its zero point is a number for each output there."""
    where = node.outputs[0].name or ""
    if not is_op(node, "MatMul", "Gemm") or node.inputs[0] is not activation or attribute(node, "transA", 0):
        return Miss("reader", node.op_type, "a MatMul or Gemm whose left side it is")
    if node.graph is not activation.graph:
        return Miss("graph", where, "readers in the same graph")
    weight = Stored.of(node.inputs[1])
    if weight is None or weight.bits != 8 or weight.block or len(weight.shape) != 2:
        return Miss("weight", where, "a matrix of 8 bits without blocks")
    reader = only_reader(node.outputs[0])
    if not is_op(reader, "Add"):
        return Product(node=node, weight=weight, sum=None, bias=None)
    added = next((constant_of(value) for value in reader.inputs if value is not node.outputs[0]), None)
    outputs = weight.shape[0] if attribute(node, "transB", 0) else weight.shape[1]
    if added is None or added.dtype != np.float32 or added.shape not in ((), (1,), (outputs,)):
        return Product(node=node, weight=weight, sum=None, bias=None)
    return Product(node=node, weight=weight, sum=reader, bias=added.astype(np.float64))


def _add(product: Product, bias: Array) -> None:
    """Add the bias, in the place of the one that the product has."""
    node, last, tape = product.node, product.sum or product.node, Tape()
    made = tape.node(node.op_type, node.inputs, dict(node.attributes.items())).outputs[0]
    made.type, made.shape = node.outputs[0].type, node.outputs[0].shape
    added = tape("Add", made, tape.constant(bias, "bias"))
    replace(tape, last.outputs, [added], matched=dict.fromkeys((last, node)))


def _alpha(node: ir.Node) -> float:
    factor = node.attributes.get("alpha")
    return 1.0 if factor is None else factor.as_float()


def _sums(product: Product) -> NDArray[np.float64]:
    """The sum of the weights of each output."""
    stored = product.weight.read()
    values = stored.values.astype(np.float64)
    if stored.zero is not None:
        values = np.subtract(values, stored.spread(stored.zero), dtype=np.float64)
    values = np.multiply(values, stored.spread(stored.scale), dtype=np.float64)
    sums: NDArray[np.float64] = values.sum(axis=1 if attribute(product.node, "transB", 0) else 0)
    return sums
