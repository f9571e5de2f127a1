"""Leave the quantization of activations to OpenVINO, which does it while it multiplies.

    before   (q, s, z) = DynamicQuantizeLinear(x)        after   y = MatMul(x, DequantizeLinear(w8, scale))
             y = MatMul(DequantizeLinear(q, s, z),
                        DequantizeLinear(w8, scale))

Rows that were divided by their largest element are multiplied whole again, as (x / s) W * s = x W for a scale s of each
row. OpenVINO's CPU plugin keeps int8 weights as they are under a FullyConnected and, where the property
DYNAMIC_QUANTIZATION_GROUP_SIZE allows it and the CPU has int8 dot products, quantizes each row of x in groups along the
reduced axis. Where the CPU has none it multiplies in float. Either is finer than what is removed: the answers move
towards those of the model before quantization.

Lossy by the error of the quantization that is removed. Left alone: weights that are not 8-bit constants, which
OpenVINO would not keep compressed.

Source: docs.openvino.ai, "LLM weight compression: dynamic quantization" and openvino pull request 22738.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.level import Level
from ...passes.base import Contract, Lossy, Match, Miss, Rewrite
from ...passes.edit import Tape, attribute, integers_of, only_reader, replace, scalar_of

#: On a node's metadata: its activations are to be quantized by the runtime.
DEFERRED = "tersor.openvino.activations"

_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True, kw_only=True)
class Site(Match):
    """A product with compressed weights.

    activation: what was quantized.
    scaled: the multiplication behind the product that takes back a division of the rows, None where there is none.
    """

    activation: ir.Value
    scaled: ir.Node | None


@dataclass(frozen=True, kw_only=True)
class DeferActivationQuantization(Rewrite):
    """Leave the quantization of activations to OpenVINO, which does it while it multiplies."""

    name: ClassVar[str] = "defer-activation-quantization"
    contract: ClassVar[Contract] = Lossy(budget=0.05)
    level: ClassVar[Level] = Level.LOWERED
    anchors: ClassVar[tuple[str, ...]] = ("MatMul", "Gemm")

    def match(self, node: ir.Node) -> Match | Miss:
        if DEFERRED in node.metadata_props:
            return Miss("done", "deferred", "quantization that is still in the graph")
        weight = compressed_weight(node)
        if weight is None or weight.dtype not in _BYTES:
            return Miss("weight", str(None if weight is None else weight.dtype), "weights dequantized from 8 bits")
        source = _quantized_from(node.inputs[0])
        if source is None:
            return Miss("activation", "not quantized at run time", "DynamicQuantizeLinear and DequantizeLinear")
        division = source.producer()
        scaled = None if division is None else _undone(division, node)
        if division is None or scaled is None:
            return Site(node=node, activation=source, scaled=None)
        whole = division.inputs[0]
        assert whole is not None
        return Site(node=node, activation=whole, scaled=scaled)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Site)
        node, tape = found.node, Tape()
        last = node if found.scaled is None else found.scaled
        inputs = [found.activation, *node.inputs[1:]]
        product = tape.node(node.op_type, inputs, dict(node.attributes.items()))
        replace(tape, last.outputs, product.outputs, matched=dict.fromkeys((last, node)))
        product.metadata_props[DEFERRED] = "runtime"


def compressed_weight(node: ir.Node) -> ir.Value | None:
    """The stored constant behind the right side of a MatMul or Gemm that is dequantized from one, else None."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    producer = None if weight is None else weight.producer()
    if producer is None or producer.op_type != "DequantizeLinear" or producer.domain:
        return None
    stored = producer.inputs[0]
    return stored if stored is not None and ir.convenience.get_const_tensor(stored) is not None else None


def _quantized_from(activation: ir.Value | None) -> ir.Value | None:
    """What was quantized and dequantized at run time to give `activation`, else None."""
    producer = None if activation is None else activation.producer()
    if producer is None or producer.domain or producer.op_type != "DequantizeLinear" or len(producer.inputs) != 3:
        return None
    stored = producer.inputs[0]
    maker = None if stored is None else stored.producer()
    if maker is None or maker.op_type != "DynamicQuantizeLinear" or list(producer.inputs) != list(maker.outputs):
        return None
    return maker.inputs[0]


def _undone(division: ir.Node, node: ir.Node) -> ir.Node | None:
    """The Mul that multiplies the product by what `division` divided the rows by; None where there is none."""
    reader = only_reader(node.outputs[0])
    if division.op_type != "Div" or node.op_type != "MatMul" or reader is None or reader.op_type != "Mul":
        return None
    scale = division.inputs[1]
    return reader if scale in reader.inputs and _by_row(scale) else None


def _by_row(value: ir.Value | None) -> bool:
    """Whether a value is one number for each row: its last dimension is known to be 1."""
    if value is None:
        return False
    if value.shape is not None and len(value.shape) > 1:
        return value.shape[-1] == 1
    producer = value.producer()
    if producer is None:
        return False
    if producer.op_type == "Max":
        return any(map(_by_row, producer.inputs)) and all(
            _by_row(v) or scalar_of(v) is not None for v in producer.inputs
        )
    kept = attribute(producer, "keepdims", 1) == 1
    return (
        producer.op_type == "ReduceMax"
        and kept
        and len(producer.inputs) > 1
        and integers_of(producer.inputs[1]) == [-1]
    )
