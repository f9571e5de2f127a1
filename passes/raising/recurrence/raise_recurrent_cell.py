"""Raise one step of a recurrence, written as its gates, to one LSTM or GRU of sequence length one.

    before   a = Gemm(x, W, b) + Gemm(h, R, d)     i, f, g, o = Split(a)
             c' = Sigmoid(f) * c + Sigmoid(i) * Tanh(g)     h' = Sigmoid(o) * Tanh(c')
    after    _, h', c' = LSTM(Unsqueeze(x), W', R', B, _, Unsqueeze(h), Unsqueeze(c))

Exact: see `cells` for what is proven and the sources. The walk starts at a Tanh: that of the cell state, or of the new
content of a GRU. The weights are laid out in ONNX's order when they are read. Of an LSTM's two inputs the arithmetic
does not say which one is h: both are multiplied by constants; it is taken to be the one that comes from where c does.
Left alone, with the reason: other activations, gates that are read elsewhere, sizes that broadcast or are unknown,
weights that are computed, inputs that were multiplied before they came here, and plain tanh cells, which are also what
any two linear layers under a tanh are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Tape, is_op, replace
from .blocks import rows, width
from .cells import Cell, gru, lstm
from .layers import Layer, as_rows, emit, layer, source, with_steps

#: What takes a state out of the tensor that holds all states.
_PARTS = frozenset({"Gather", "Slice", "Split", "Squeeze", "Unsqueeze", "Identity", "Reshape", "Expand", "Transpose"})
_REACH = 6


@dataclass(frozen=True, kw_only=True)
class Step(Match):
    """The cell with its input and state told apart."""

    layer: Layer


@dataclass(frozen=True, kw_only=True)
class RaiseRecurrentCell(Rewrite):
    """The gates of an LSTM or GRU cell -> LSTM or GRU over one step"""

    name: ClassVar[str] = "raise-recurrent-cell"
    anchors: ClassVar[tuple[str, ...]] = ("Tanh",)

    def match(self, node: ir.Node) -> Match | Miss:
        cell = _cell(node)
        if isinstance(cell, Miss):
            return cell
        state = cell.state if cell.state is not None else hidden_state(cell)
        stray = next((item for share in cell.gates for item in share.rest), None)
        if stray is not None:
            return Miss("share", stray.value.name or "", "a gate that sums products with constant matrices")
        if state is None:
            return Miss("state", cell.output.name or "", f"a state of {cell.hidden} features that every gate reads")
        found = layer(cell, state)
        if isinstance(found, Miss):
            return found
        for value in (state, *(origin for origin, via in found.origins if not via)):
            if value.shape is None or not 2 <= len(value.shape) <= 3 or rows(value) != rows(cell.output):
                return Miss("shape", f"{value.name}: {dimensions(value)}", f"the rows of {dimensions(cell.output)}")
        if any(dimensions(origin) is None for origin, _ in found.origins) or any(via for _, via in found.origins):
            return Miss("input", cell.output.name or "", "an input that is read as it is")
        return Step(node=node, layer=found)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Step)
        made, tape = found.layer, Tape()
        cell = made.cell
        owner = cell.output.name or cell.op_type
        states = [with_steps(tape, value) for value in (cell.state, cell.before) if value is not None]
        x = source(tape, [(with_steps(tape, value), via) for value, via in made.origins])
        _, *finals = outputs = emit(tape, made, x, states, owner=owner)
        outputs[0].name = ""
        made_of = [value for value in (cell.output, cell.after) if value is not None]
        pairs = [as_rows(tape, final, value) for final, value in zip(finals, made_of, strict=True)]
        old, new = ([value for pair in pairs for value in pair[side]] for side in (0, 1))
        replace(tape, old, new, matched=list(cell.nodes))


def _cell(node: ir.Node) -> Cell | Miss:
    found, other = lstm(node), gru(node)
    if isinstance(found, Cell) or isinstance(other, Cell):
        return found if isinstance(found, Cell) else other
    if found.rule == "output" and other.rule == "update":
        need = "a sigmoid times it, or (1 - z) * n + z * h of it with a sigmoid z"
        return Miss("use", node.outputs[0].name or "", need, far=True)
    return found if other.rule == "update" else other


def hidden_state(cell: Cell) -> ir.Value | None:
    """Which of the sources of an LSTM's gates is h: the one that comes from where c does, or else lies next to it."""
    shared = [
        item.source
        for item in dict.fromkeys(cell.gates[0].products)
        if width(item.source) == cell.hidden and not item.via and rows(item.source) == rows(cell.output)
    ]
    shared = [
        value for value in shared if all(any(item.source is value for item in share.products) for share in cell.gates)
    ]
    if not shared or cell.before is None:
        return None
    home = _origin(cell.before)
    alike = [value for value in shared if _origin(value) is home]
    return min(alike or shared, key=lambda value: _apart(_origin(value), home))


def _origin(value: ir.Value) -> ir.Value:
    for _ in range(_REACH):
        node = value.producer()
        if not is_op(node, *_PARTS) or node.inputs[0] is None:
            break
        value = node.inputs[0]
    return value


def _apart(value: ir.Value, home: ir.Value) -> int:
    """How far apart two inputs of the graph are; the outputs of one node are close."""
    if value.producer() is not None and value.producer() is home.producer():
        return 0
    ports = list(value.graph.inputs) if value.graph is not None and value.is_graph_input() else []
    return abs(ports.index(value) - ports.index(home)) if home in ports and value in ports else 1 << 16
