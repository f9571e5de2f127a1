"""Quantize weights to int8 ahead of time and activations at run time.

    before   y = x @ W + b
    after    y = DequantizeLinear(DynamicQuantizeLinear(x)) @ DequantizeLinear(W8, scale) + b

Lossy. Weights have one scale for each output channel. Activations have one for the tensor, or with `rows` one for each
row: x = r * x', r = max|row|, and x W = r * (x' W), so that a loud token no longer costs the quiet ones their bits
(Dettmers et al., LLM.int8(), 2022, section 2.1). Linear layers compute in int8 where the backend can; embedding tables
(by option) and recurrent weights are stored in int8 and read as float, or LSTM and GRU become calls of
`tersor.DynamicQuantizeLSTM` and `tersor.DynamicQuantizeGRU` (`passes.dynamic_recurrence`), which quantize their input
and, at every step, their state. Needs no data. Left alone: convolutions, weights read in two ways, small, not finite or
computed, and sites that `ignore` and `only` leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from dataclasses import replace as replace_fields
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.provenance import inherit
from ...ir.site import Kind, Site, computed_sites, sites
from ...ir.weight import resolve
from ..base import Context, Contract, Lossy, Miss, Outcome, Pass
from ..choosing import Choice, Verdict, outcome, paying, together
from ..edit import Tape, attribute, constant_of, declare_functions, replace, reroute
from ..weight_pass import OPTIONS, reading
from ..weights import Quantized
from .methods.uniform import symmetric
from .rounded_states import RECURRENT, round_states, unrounded


@dataclass(frozen=True, kw_only=True)
class QuantizeDynamic(Pass):
    """int8 weights by channel, activations quantized at run time

    rows: one activation scale for each row instead of one for the tensor.
    embeddings: store embedding tables in int8 too, one scale for each row of the table.
    recurrent: `stored` keeps the weights of LSTM, GRU and RNN in int8 and reads them as float; `computed` multiplies
        in int8 too, LSTM and GRU alone, where both weights are quantized; `none` leaves them alone.
    headroom: against saturation on x86 CPUs without VNNI, which add pairs of 8-bit products in 16 bits. `pairs` scales
        each channel so that no pair of neighbouring weights can; `bits` uses 7 bits; `none` trusts the CPU.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "quantize-dynamic"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.05)
    rows: bool = False
    embeddings: bool = False
    recurrent: Literal["stored", "computed", "none"] = "stored"
    headroom: Literal["pairs", "bits", "none"] = "pairs"
    smallest: int = 1024
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        verdicts = self._paying(model, context)
        found = outcome(verdicts, ignore=self.ignore)
        activations: Activations = {}
        chosen, weights = reading(verdicts), _Weights(self._quantize)
        for site in chosen:
            _SURGERY[site.kind](site, weights, self.rows, activations)
        if self.recurrent == "computed":
            fed = {site.node for site in chosen if site.kind is Kind.RECURRENT_INPUT}
            for site in (site for site in chosen if site.kind is Kind.RECURRENT_HIDDEN and site.node in fed):
                round_states(site)
            declare_functions(model)
        return found

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every weight site, leaving `model` as it is."""
        return outcome(self._paying(model, context), ignore=self.ignore)

    def _paying(self, model: ir.Model, context: Context) -> list[Verdict]:
        """The verdicts; weights that are slower to read as float than they were say how they would not be."""
        found = together(paying(self, model, self._verdicts(model), context))
        told = self.recurrent == "stored"
        return [
            (site, replace_fields(miss, need=miss.need + _COMPUTED))
            if told and site.kind in RECURRENT and miss is not None and miss.rule == "speed"
            else (site, miss)
            for site, miss in found
        ]

    def _verdicts(self, model: ir.Model) -> list[Verdict]:
        options = {Kind.EMBEDDING: OPTIONS[Kind.EMBEDDING], **dict.fromkeys(RECURRENT, "recurrent=stored")}
        asked = [*([Kind.EMBEDDING] if self.embeddings else []), *(RECURRENT if self.recurrent != "none" else ())]
        choice = Choice(
            kinds=(Kind.LINEAR, *asked),
            options=options,
            smallest=self.smallest,
            only=self.only,
            ignore=self.ignore,
            dtypes=(ir.DataType.FLOAT, ir.DataType.FLOAT16),
            tied=True,
        )
        found = together((site, choice.verdict(site) or self._unfit(site)) for site in sites(model))
        return [*found, *((site, choice.computed(site)) for site in computed_sites(model))]

    def _unfit(self, site: Site) -> Miss | None:
        """Why a site that was chosen cannot be computed in int8."""
        if site.weight not in site.node.inputs:
            return Miss("weight", site.name, "an initializer that the node reads directly; run fold-constants first")
        if site.kind in RECURRENT and self.recurrent == "computed":
            tied = Miss("tied", ", ".join(site.tied), "a weight that one node reads; recurrent=stored takes others")
            return tied if site.tied else unrounded(site.node)
        if site.kind is not Kind.LINEAR:
            return None
        if site.node.op_type not in ("MatMul", "Gemm"):
            return Miss("op", site.node.op_type, "MatMul or Gemm")
        if site.view.dtype != ir.DataType.FLOAT:
            return Miss("dtype", site.view.dtype.name.lower(), "weights of float")
        return None

    def _quantize(self, site: Site) -> Quantized:
        weight = constant_of(site.weight)
        assert weight is not None
        axis = _channel_axis(site, weight.ndim)
        summed, last = None, weight.ndim - 1
        if self.headroom == "pairs" and site.kind is Kind.LINEAR:
            summed = last - 1 if axis == last else last
        elif self.headroom == "pairs" and site.kind in RECURRENT and self.recurrent == "computed":
            summed = 2
        return symmetric(weight, bits=7 if self.headroom == "bits" else 8, axis=axis, paired=summed)


def _channel_axis(site: Site, rank: int) -> int:
    """The axis of the stored weight along which each index has a scale of its own."""
    if site.kind is Kind.EMBEDDING:
        return 0
    if site.kind in RECURRENT:
        return 1
    if site.node.op_type == "Gemm":
        return 0 if attribute(site.node, "transB", 0) else 1
    return rank - 2 if site.flipped else rank - 1


#: Reading a recurrent weight as float costs a conversion at every run; multiplying in int8 does not.
_COMPUTED = ", as recurrent=computed is on onnxruntime for LSTM"

#: Rounded activations and the factors of their rows, by activation, graph that reads it, and whether by row.
Activations = dict[tuple[ir.Value, ir.Graph | ir.Function | None, bool], tuple[ir.Value, ir.Value | None]]


@dataclass
class _Weights:
    """What weights are read as from now on: each is quantized for the first site that reads it, and for the others."""

    quantize: Callable[[Site], Quantized]
    _made: dict[ir.Value, ir.Value] = field(default_factory=dict)

    def emit(self, tape: Tape, site: Site) -> ir.Value:
        made = self._made.get(site.weight)
        if made is None:
            made = self._made[site.weight] = self.quantize(site).emit(tape, site.weight.name or "weight")
        elif (node := made.producer()) is not None:
            inherit([node], [node, site.node])
        return made


def _linear(site: Site, weights: _Weights, rows: bool, activations: Activations) -> None:
    """Both operands of the product become dequantized; a row scale multiplies the product."""
    node, tape = site.node, Tape()
    by_row = rows and node.op_type == "MatMul" and not site.flipped
    # where another product gave the activation, that has another value by now
    fed = next(value for value in node.inputs if value is not None and resolve(value) is None)
    key = fed, node.graph, by_row
    if key not in activations:
        activations[key] = _fake_quantize(tape, fed, by_row)
    rounded, scale = activations[key]
    stored = weights.emit(tape, site)
    swap = {fed: rounded, site.weight: stored}
    inputs = [swap.get(value, value) if value is not None else None for value in node.inputs]
    result = tape.node(node.op_type, inputs, dict(node.attributes.items())).outputs[0]
    replace(tape, node.outputs, [result if scale is None else tape("Mul", result, scale)])


def _fake_quantize(tape: Tape, x: ir.Value, rows: bool) -> tuple[ir.Value, ir.Value | None]:
    """x after a round trip through uint8, and the factor its rows were divided by."""
    scale = None
    if rows:
        largest = tape("ReduceMax", tape("Abs", x), tape.constant([-1], "last"), keepdims=1)
        scale = tape("Max", largest, tape.constant(float(np.finfo(np.float32).tiny), "tiny"))
        x = tape("Div", x, scale)
    quantized = tape.node("DynamicQuantizeLinear", [x], outputs=3)
    return tape("DequantizeLinear", *quantized.outputs), scale


def _stored(site: Site, weights: _Weights, rows: bool, activations: Activations) -> None:
    """The node reads the dequantized weight; its arithmetic stays float."""
    tape = Tape()
    reroute(tape, site.node, site.weight, weights.emit(tape, site))


_SURGERY: Mapping[Kind, Callable[[Site, _Weights, bool, Activations], None]] = {
    Kind.LINEAR: _linear,
    Kind.EMBEDDING: _stored,
    Kind.RECURRENT_INPUT: _stored,
    Kind.RECURRENT_HIDDEN: _stored,
}
