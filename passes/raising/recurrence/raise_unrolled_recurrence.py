"""Raise a recurrence that was written out step by step to one LSTM, GRU or RNN over the sequence.

    before   h1, c1 = cell(x[0], h0, c0)    h2, c2 = cell(x[1], h1, c1)    ..    y = Concat(h1, h2, ..)
    after    Y, h, c = LSTM(x, W, R, B, _, Unsqueeze(h0), Unsqueeze(c0))         y = Squeeze(Y, 1)

Exact: see `cells` for what is proven of each step. All steps share the stored weights, and read the slices of one
sequence in order: from the first to the last, or backward, which becomes direction=reverse. The walk starts at the last
step. Left alone, with the reason: steps whose weights differ, slices out of order or of several sequences, cell states
that are read on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Tape, attribute, integers_of, is_op, replace, sweep
from .blocks import rows
from .cells import Cell, gru, lstm, rnn
from .chains import Chain, chain, is_last, is_zero
from .layers import as_rows, emit, flipped, source, with_steps


@dataclass(frozen=True, kw_only=True)
class Unrolled(Match):
    """The steps, and in which order they take the slices."""

    chain: Chain
    backward: bool


@dataclass(frozen=True, kw_only=True)
class RaiseUnrolledRecurrence(Rewrite):
    """Equal cells, one behind the other -> LSTM, GRU or RNN"""

    name: ClassVar[str] = "raise-unrolled-recurrence"
    anchors: ClassVar[tuple[str, ...]] = ("Tanh", "Relu")

    def match(self, node: ir.Node) -> Match | Miss:
        cell = _cell(node)
        if isinstance(cell, Miss):
            return cell
        if not is_last(cell):
            return Miss("last", cell.output.name or "", "the last step, which stands for all")
        found = chain(cell)
        if isinstance(found, Miss):
            return found
        backward = _order(found)
        if isinstance(backward, Miss):
            return backward
        return _misfit(found) or Unrolled(node=node, chain=found, backward=backward)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Unrolled)
        tape, steps, backward = Tape(), found.chain.layers, found.backward
        first, last = steps[0].cell, steps[-1].cell
        x = _sequence(tape, found.chain, backward=backward)
        given = [first.state, *([first.before] if last.op_type == "LSTM" else [])]
        # a state that is left out is zero
        states = [None if value is None or is_zero(value) else with_steps(tape, value) for value in given]
        owner = last.output.name or last.op_type
        every, *finals = emit(tape, steps[-1], x, states, backward=backward, owner=owner)
        outputs = [step.cell.output for step in steps]
        flat = tape("Squeeze", every, tape.constant([1], "axes"))
        old: list[ir.Value] = []
        new: list[ir.Value] = []
        for stack, axis, turned in _stacks(outputs):
            whole = flipped(tape, flat) if turned != backward else flat
            old, new = [*old, stack], [*new, whole if axis == 0 else tape("Transpose", whole, perm=[1, 0, 2])]
        for final, value in zip(finals, (last.output, last.after), strict=False):
            if value is not None:
                before, after = as_rows(tape, final, value)
                old, new = [*old, *before], [*new, *after]
        for index, value in enumerate(outputs[:-1]):
            wide = value.shape is not None and len(value.shape) == 3
            at = len(steps) - 1 - index if backward else index
            position = tape.constant(np.array([at] if wide else at, np.int64), "at")
            old, new = [*old, value], [*new, tape("Gather", flat, position, axis=0)]
        replace(tape, old, new, matched=[node for step in steps for node in step.cell.nodes])
        sweep(tape.nodes)


def _cell(node: ir.Node) -> Cell | Miss:
    if is_op(node, "Tanh"):
        found = lstm(node)
        if isinstance(found, Cell):
            return found
        found = gru(node)
        if isinstance(found, Cell):
            return found
    return rnn(node)


def _order(found: Chain) -> bool | Miss:
    """Whether the steps take their slices from the last to the first."""
    first = found.slices[0]
    for step in found.slices:
        for item, other in zip(step, first, strict=False):
            if len(step) != len(first) or (item.whole, item.moved, item.axis) != (other.whole, other.moved, other.axis):
                return Miss("sequence", item.whole.name or "", "slices of one sequence along one axis")
        if len({(item.axis, item.index) for item in step}) != 1:
            return Miss("sequence", step[0].whole.name or "", "the same slice of all parts of the input")
    at = [step[0].index for step in found.slices]
    if at == list(range(at[0], at[0] + len(at))):
        return False
    if at == list(range(at[0], at[0] - len(at), -1)):
        return True
    return Miss("order", str(at), "slices in order")


def _misfit(found: Chain) -> Miss | None:
    first, last = found.layers[0].cell, found.layers[-1].cell
    for item in found.slices[0]:
        batch = None if len(item.lead) != 2 else item.lead[1 - item.axis]
        if batch is None or rows(last.output) != ([] if batch == 1 else [batch]):
            return Miss(
                "shape", f"{item.whole.name}: {item.lead}", f"a sequence with the rows of {dimensions(last.output)}"
            )
    for value in (first.state, first.before, last.output):
        if value is not None and (value.shape is None or not 2 <= len(value.shape) <= 3):
            return Miss("shape", f"{value.name}: {dimensions(value)}", "[batch, features]")
    for step, after in zip(found.layers, found.layers[1:], strict=False):
        memory, inner = step.cell.after, step.cell.nodes | after.cell.nodes
        if memory is None:
            continue
        if memory.is_graph_output() or any(not (is_op(node, "Mul") or node in inner) for node in memory.consumers()):
            return Miss("memory", memory.name or "", "cell states that nothing reads on the way")
    return None


def _sequence(tape: Tape, found: Chain, *, backward: bool) -> ir.Value:
    """The slices that the steps read, in one tensor [sequence, batch, input]."""
    first, count = found.slices[0][0], len(found.slices)
    x = source(tape, [(item.whole, item.moved) for item in found.slices[0]])
    start = first.index - count + 1 if backward else first.index
    if (start, count) != (0, first.lead[first.axis]):
        ends = tape.constant([start], "starts"), tape.constant([start + count], "ends")
        x = tape("Slice", x, *ends, tape.constant([first.axis], "axes"))
    return x if first.axis == 0 else tape("Transpose", x, perm=[1, 0, 2])


def _stacks(outputs: Sequence[ir.Value]) -> list[tuple[ir.Value, int, bool]]:
    """Where all outputs are stacked: the result, along which axis, and whether the last step comes first."""
    found: dict[ir.Node, int] = {}
    for node in outputs[0].consumers():
        if is_op(node, "Unsqueeze"):
            axes = integers_of(node.inputs[1])
            joins = [reader for reader in node.outputs[0].consumers() if is_op(reader, "Concat")]
            found |= {join: axes[0] for join in joins if axes in ([0], [1]) and attribute(join, "axis", 0) == axes[0]}
        elif is_op(node, "Concat") and attribute(node, "axis", 0) == 0 and len(outputs[0].shape or ()) == 3:
            found[node] = 0
    made = []
    for join, axis in found.items():
        if join.graph is not outputs[0].graph:
            continue
        parts = [_alone(value, axis) for value in join.inputs]
        if parts in (list(outputs), list(reversed(outputs))):
            made.append((join.outputs[0], axis, parts != list(outputs)))
    return made


def _alone(value: ir.Value | None, axis: int) -> ir.Value | None:
    """What was given the new axis that it is joined along; the value itself where it has that axis already."""
    if value is None or (
        value.shape is not None and len(value.shape) == 3 and not is_op(value.producer(), "Unsqueeze")
    ):
        return value
    node = value.producer()
    return node.inputs[0] if is_op(node, "Unsqueeze") and integers_of(node.inputs[1]) == [axis] else None
