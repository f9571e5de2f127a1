"""Raise a Loop or Scan over one step of an LSTM, GRU or RNN to that op over the sequence.

    before   Loop(h0, c0){body: h, c = LSTM(Unsqueeze(Gather(X, counter)), W, R, B, _, Unsqueeze(h), Unsqueeze(c))}
    after    Y, h, c = LSTM(X, W, R, B, _, Unsqueeze(h0), Unsqueeze(c0))

Exact: the op over a sequence is defined step by step. torch's TorchScript exporter writes a scripted loop over LSTMCell
this way. Left alone where the body carries, stacks or reads anything else, or its weights are made inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Attribute, Tape, attribute, integers_of, is_op, replace
from .blocks import constant, reader, rows
from .layers import as_rows, with_steps
from .raise_recurrent_scan import flat_rows, restacked
from .raise_reversed_recurrence import direction_of, has_lengths
from .trips import Carried, Scanned, Trips, plain, trips


@dataclass(frozen=True, kw_only=True)
class Looped(Match):
    """The op inside, the states in the order of its outputs, and how its slices are taken."""

    inner: ir.Node
    states: tuple[Carried, ...]
    scanned: Scanned
    trips: Trips


@dataclass(frozen=True, kw_only=True)
class RaiseLoopedRecurrence(Rewrite):
    """Loop or Scan over one step of a recurrence -> the recurrence"""

    name: ClassVar[str] = "raise-looped-recurrence"
    anchors: ClassVar[tuple[str, ...]] = ("Scan", "Loop")

    def match(self, node: ir.Node) -> Match | Miss:
        found = trips(node)
        if isinstance(found, Miss):
            return found
        steps = [inner for inner in found.body if is_op(inner, "LSTM", "GRU", "RNN")]
        if len(steps) != 1:
            return Miss("body", f"{len(steps)} recurrences", "one LSTM, GRU or RNN over one step")
        (inner,) = steps
        if direction_of(inner) != "forward" or attribute(inner, "layout", 0) or has_lengths(inner):
            return Miss("form", direction_of(inner), "direction=forward, steps first, no lengths")
        count = 2 if inner.op_type == "LSTM" else 1
        made = {_row(item.after): item for item in found.carried}
        states = [made[value] for value in inner.outputs[1:] if value in made]
        fed = [_unrow(value) for value in inner.inputs[5 : 5 + count]]
        if len(states) != count or len(found.carried) != count or fed != [item.before for item in states]:
            return Miss("carried", f"{len(found.carried)} states", f"the {count} of the {inner.op_type} alone")
        if any(_row(plain(item.each)) is not inner.outputs[1] for item in found.stacked):
            return Miss("stacked", found.stacked[0].each.name or "", "the hidden state")
        weights = [value for index, value in enumerate(inner.inputs) if value is not None and index in (1, 2, 3, 7)]
        if any(value.graph is found.body and constant(value) is None for value in weights):
            return Miss("weights", inner.name or "", "constant weights, or weights from outside")
        x = _unrow(inner.inputs[0])
        taken = None if x is None else found.slice_of(x, ())
        if taken is None:
            return Miss("input", inner.name or "", "the slice of a sequence that each trip reads")
        return _misfit(states, found, taken[0]) or Looped(
            node=node, inner=inner, states=tuple(states), scanned=taken[0], trips=found
        )

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Looped)
        tape, inner, scanned = Tape(), found.inner, found.scanned
        x = scanned.whole if scanned.axis == 0 else tape("Transpose", scanned.whole, perm=[1, 0, 2])
        states = [with_steps(tape, item.first) for item in found.states]
        weights = [_outside(tape, value, found.trips.body) for value in (*inner.inputs[1:4], None, None)][:3]
        peepholes = [_outside(tape, value, found.trips.body) for value in inner.inputs[7:]]
        inputs = [x, *weights, None, *states, *peepholes]
        attributes: dict[str, Attribute] = {
            **inner.attributes,
            "direction": "reverse" if scanned.backward else "forward",
        }
        every, *finals = tape.node(inner.op_type, inputs, attributes, outputs=1 + len(states)).outputs
        old: list[ir.Value] = []
        new: list[ir.Value] = []
        for item, final in zip(found.states, finals, strict=True):
            if item.last.uses() or item.last.is_graph_output():
                before, after = as_rows(tape, final, item.last, like=item.first)
                old, new = [*old, *before], [*new, *after]
        for stacked in found.trips.stacked:
            if stacked.all.uses() or stacked.all.is_graph_output():
                turned = scanned.backward != stacked.backward
                old.append(stacked.all)
                new.append(restacked(tape, every, stacked, turned=turned, flat=flat_rows(found.states[0].first)))
        replace(tape, old, new, matched=[found.node])


def _outside(tape: Tape, value: ir.Value | None, body: ir.Graph) -> ir.Value | None:
    """A weight where the new node can read it: a constant of the body is made again."""
    view = None if value is None or value.graph is not body else constant(value)
    if value is None or view is None:
        return value
    return tape.derived(value.name or "weight", view.shape, view.dtype, reader(view), weight=True)


def _row(value: ir.Value | None) -> ir.Value | None:
    """The [1, batch, hidden] that a state lost its first axis of."""
    node = None if value is None else value.producer()
    return node.inputs[0] if is_op(node, "Squeeze") and integers_of(node.inputs[1]) == [0] else None


def _unrow(value: ir.Value | None) -> ir.Value | None:
    """The state or slice that was given a first axis."""
    node = None if value is None else value.producer()
    return node.inputs[0] if is_op(node, "Unsqueeze") and integers_of(node.inputs[1]) == [0] else None


def _misfit(states: list[Carried], found: Trips, scanned: Scanned) -> Miss | None:
    dims = dimensions(scanned.whole)
    if dims is None or len(dims) != 3 or scanned.axis > 1 or dims[scanned.axis] == 0:
        return Miss("sequence", f"{scanned.whole.name}: {dims}, axis {scanned.axis}", "[sequence, batch, features]")
    batch = dims[1 - scanned.axis]
    for item in states:
        if batch is None or rows(item.first) != ([] if batch == 1 else [batch]) or not flat_rows(item.first):
            return Miss("shape", f"{item.first.name}: {dimensions(item.first)}", f"[{batch}, hidden]")
    if any(stacked.axis not in (0, 1) for stacked in found.stacked):
        return Miss("stacked", f"axes {[stacked.axis for stacked in found.stacked]}", "axis 0 or 1")
    return None
