"""Leave the quantization of activations to OpenVINO, which does it while it multiplies.

    before   (q, s, z) = DynamicQuantizeLinear(x)        after   y = MatMul(x, DequantizeLinear(w8, scale))
             y = MatMul(DequantizeLinear(q, s, z),
                        DequantizeLinear(w8, scale))

The same for rows quantized by a call of `tersor.QuantizeDequantizeRows`. OpenVINO's CPU plugin keeps int8 weights as
they are under a FullyConnected and, where the property DYNAMIC_QUANTIZATION_GROUP_SIZE allows it and the CPU has int8
dot products, quantizes each row of x in groups along the reduced axis. Where the CPU has none it multiplies in float.
Either is finer than what is removed: the answers move towards those of the model before quantization.

Lossy by the error of the quantization that is removed. Left alone: weights that are not 8-bit constants, which
OpenVINO would not keep compressed.

Source: docs.openvino.ai, "LLM weight compression: dynamic quantization" and openvino pull request 22738.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.level import DOMAIN, Level
from ...passes.base import Contract, Lossy, Match, Miss, Rewrite
from ...passes.edit import sweep

#: On a node's metadata: its activations are to be quantized by the runtime.
DEFERRED = "tersor.openvino.activations"

_BYTES = (ir.DataType.INT8, ir.DataType.UINT8)


@dataclass(frozen=True, kw_only=True)
class Site(Match):
    """A multiplication by compressed weights, and its activation before it was quantized."""

    activation: ir.Value


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
        if weight is None:
            return Miss("weight", "not dequantized from a constant", "weights in 8 bits")
        if weight.dtype not in _BYTES:
            return Miss("weight", str(weight.dtype), "weights in 8 bits")
        source = _quantized_from(node.inputs[0])
        if source is None:
            return Miss("activation", "not quantized at run time", "DynamicQuantizeLinear or QuantizeDequantizeRows")
        return Site(node=node, activation=source)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Site)
        before = found.node.inputs[0]
        found.node.replace_input_with(0, found.activation)
        found.node.metadata_props[DEFERRED] = "runtime"
        producer = None if before is None else before.producer()
        if producer is not None:
            sweep([producer])


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
    if producer is None:
        return None
    if (producer.domain, producer.op_type) == (DOMAIN, "QuantizeDequantizeRows"):
        return producer.inputs[0]
    if producer.domain or producer.op_type != "DequantizeLinear" or len(producer.inputs) != 3:
        return None
    makers = {None if value is None else value.producer() for value in producer.inputs}
    maker = makers.pop()
    if makers or maker is None or maker.op_type != "DynamicQuantizeLinear":
        return None
    return maker.inputs[0] if list(producer.inputs) == list(maker.outputs) else None
