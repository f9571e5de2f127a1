"""Raise a Scan or Loop whose body is one step of a recurrence to one LSTM, GRU or RNN over the sequence.

    before   hs = Scan(h0, c0, x){body: the gates of an LSTM, h' stacked}       x: [sequence, batch, input]
    after    Y, h, c = LSTM(x, W, R, B, _, Unsqueeze(h0), Unsqueeze(c0))        hs = Squeeze(Y, 1)

Exact: see `cells` for what is proven. The input may be multiplied inside the body, or for all steps before it. A Scan
that runs backward, and a Loop that takes its slices from the last to the first, become direction=reverse; a sequence on
the second axis is transposed. Left alone, with the reason: a body that carries, stacks or reads anything else than a
cell does, slices whose number is not provably that of the trips, a condition that may end the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from ....ir.content import Element, dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Tape, is_op
from ...edit import replace as put
from .affine import Bias, Product, Step, terms
from .blocks import rows, width
from .cells import Cell, gru, lstm, rnn
from .layers import Layer, as_rows, emit, flipped, layer, source, with_steps
from .trips import Scanned, Stacked, Trips, plain, trips


@dataclass(frozen=True, kw_only=True)
class Whole(Match):
    """The layer over the whole sequence, the axis that its input has the steps on, and the trips it stands for."""

    layer: Layer
    trips: Trips
    scanned: Scanned


@dataclass(frozen=True, kw_only=True)
class RaiseRecurrentScan(Rewrite):
    """Scan or Loop over a cell -> LSTM, GRU or RNN"""

    name: ClassVar[str] = "raise-recurrent-scan"
    anchors: ClassVar[tuple[str, ...]] = ("Scan", "Loop")

    def match(self, node: ir.Node) -> Match | Miss:
        found = trips(node)
        if isinstance(found, Miss):
            return found
        cell = _cell(found)
        if isinstance(cell, Miss):
            return cell
        opened = _opened(cell, found)
        if isinstance(opened, Miss):
            return opened
        cell, scanned = opened
        assert cell.state is not None  # found by what is carried
        made = layer(cell, cell.state)
        if isinstance(made, Miss):
            return made
        misfit = _misfit(made, found, scanned)
        return misfit or Whole(node=node, layer=made, trips=found, scanned=scanned)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Whole)
        tape, cell, scanned = Tape(), found.layer.cell, found.scanned
        first = {item.before: item for item in found.trips.carried}
        carried = [first[value] for value in (cell.state, cell.before) if value is not None]
        states = [with_steps(tape, item.first) for item in carried]
        x = source(tape, found.layer.origins)
        x = x if scanned.axis == 0 else tape("Transpose", x, perm=[1, 0, 2])
        owner = next((item.all.name for item in found.trips.stacked if item.all.name), None) or found.node.name or "h"
        every, *finals = emit(tape, found.layer, x, states, backward=scanned.backward, owner=owner)
        old: list[ir.Value] = []
        new: list[ir.Value] = []
        for item, final in zip(carried, finals, strict=True):
            if item.last.uses() or item.last.is_graph_output():
                before, after = as_rows(tape, final, item.last, like=item.first)
                old, new = [*old, *before], [*new, *after]
        for stacked in found.trips.stacked:
            if stacked.all.uses() or stacked.all.is_graph_output():
                old.append(stacked.all)
                turned = scanned.backward != stacked.backward
                new.append(restacked(tape, every, stacked, turned=turned, flat=flat_rows(carried[0].first)))
        put(tape, old, new, matched=[found.node])


def _cell(found: Trips) -> Cell | Miss:
    """The cell that the body is, its state told by what is carried."""
    after = {item.after: item for item in found.carried}
    miss = Miss("body", f"{len(found.body)} nodes", "one step of an LSTM, GRU or RNN whose states are carried")
    for node in found.body:
        if is_op(node, "Tanh"):
            for made in (lstm(node), gru(node)):
                if isinstance(made, Miss):
                    miss = made if made.rule not in ("update", "output") else miss
                elif made.output in after:
                    return _carries(made, found)
    for node in found.body:
        if is_op(node, "Tanh", "Relu") and node.outputs[0] in after:
            made = rnn(node, after[node.outputs[0]].before)
            return _carries(made, found) if isinstance(made, Cell) else made
    return miss


def _carries(cell: Cell, found: Trips) -> Cell | Miss:
    """The cell, if the body carries its states, stacks its outputs, and does nothing else."""
    wanted = {cell.output: cell.state} if cell.op_type != "LSTM" else {cell.output: None, cell.after: cell.before}
    if len(found.carried) != len(wanted) or {item.after for item in found.carried} != set(wanted):
        return Miss(
            "carried", ", ".join(item.before.name or "" for item in found.carried), "the states of the cell alone"
        )
    for item in found.carried:
        before = wanted[item.after]
        if before is not None and before is not item.before:
            return Miss("carried", item.before.name or "", f"{before.name}, which the cell makes it of")
        if item.after is cell.output:
            cell = replace(cell, state=item.before)
    for stacked in found.stacked:
        if plain(stacked.each) is not cell.output:
            return Miss("stacked", stacked.each.name or "", "the output of the cell")
    return cell


def _opened(cell: Cell, found: Trips) -> tuple[Cell, Scanned] | Miss:
    """The cell with what it reads of a slice read of the whole, and how the slices are taken."""
    ways: set[tuple[int, bool]] = set()
    wholes: list[Scanned] = []
    inner = {item.before for item in found.carried}

    def whole(value: ir.Value, via: tuple[Step, ...]) -> tuple[Scanned, tuple[Step, ...]] | None:
        taken = found.slice_of(value, via)
        if taken is not None:
            ways.add((taken[0].axis, taken[0].backward))
            wholes.append(taken[0])
        return taken

    shares = []
    for share in cell.gates:
        products: list[Product] = []
        biases = list(share.biases)
        for product in share.products:
            taken = None if product.source in inner else whole(product.source, product.via)
            if product.source is cell.state and not product.via:
                products.append(product)
            elif taken is None:
                return Miss(
                    "input", product.source.name or "", "the state, or the slice of a sequence that each trip reads"
                )
            else:
                products.append(replace(product, source=taken[0].whole, via=taken[1]))
        for item in share.rest:
            taken = whole(item.value, item.via)
            if taken is None:
                return Miss("input", item.value.name or "", "the slice of a sequence, times a constant matrix")
            for term in terms(taken[0].whole, item.columns, item.scale, taken[1]):
                if isinstance(term, Product):
                    products.append(term)
                elif isinstance(term, Bias):
                    biases.append(term)
                else:
                    return Miss("input", item.value.name or "", "the slice of a product with a constant matrix")
        shares.append(replace(share, products=tuple(products), biases=tuple(biases), rest=()))
    if len(ways) != 1:
        return Miss("input", cell.output.name or "", "one sequence, read in one direction")
    return replace(cell, gates=tuple(shares)), wholes[0]


def _misfit(made: Layer, found: Trips, scanned: Scanned) -> Miss | None:
    """What of the sizes outside does not fit the op: [sequence, batch, ..] and [batch, hidden]."""
    dims = dimensions(scanned.whole)
    if dims is None or len(dims) != 3 or scanned.axis > 1:
        return Miss("sequence", f"{scanned.whole.name}: {dims}, axis {scanned.axis}", "[sequence, batch, features]")
    if dims[scanned.axis] == 0:
        return Miss("sequence", f"{scanned.whole.name}: {dims}", "at least one step")
    batch: Element = dims[1 - scanned.axis]
    for item in found.carried:
        lead, size = rows(item.first), width(item.first)
        if batch is None or lead != ([] if batch == 1 else [batch]) or size != made.cell.hidden:
            return Miss("shape", f"{item.first.name}: {dimensions(item.first)}", f"[{batch}, {made.cell.hidden}]")
        if item.first.shape is None or not 2 <= len(item.first.shape) <= 3:
            return Miss("shape", f"{item.first.name}: {dimensions(item.first)}", f"[{batch}, {made.cell.hidden}]")
        if any(stacked.axis != 0 and (stacked.axis != 1 or len(item.first.shape) == 3) for stacked in found.stacked):
            return Miss("stacked", f"axes {[stacked.axis for stacked in found.stacked]}", "axis 0, or 1 of two")
    return None


def restacked(tape: Tape, every: ir.Value, stacked: Stacked, *, turned: bool, flat: bool) -> ir.Value:
    """Y [sequence, 1, batch, hidden] as the body stacked it; `flat` are states [batch, hidden]."""
    if flat:
        every = tape("Squeeze", every, tape.constant([1], "axes"))
    if turned:
        every = flipped(tape, every)
    return every if stacked.axis == 0 else tape("Transpose", every, perm=[1, 0, 2])


def flat_rows(state: ir.Value) -> bool:
    """Whether a state is [batch, hidden], with no axis before."""
    return state.shape is not None and len(state.shape) == 2
