"""Let a recurrence run backward by itself instead of over a sequence that was turned around.

    before   LSTM{direction=forward}(Slice(x, step -1)) --> [Squeeze] --> Slice(step -1) --> y
    after    LSTM{direction=reverse}(x) --> [Squeeze] --> y

Exact: direction=reverse is defined by the two turns. The final states are those of the last step taken either way. Left
alone where anything reads the outputs in the order in which they were made, or lengths are given for each sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeGuard

import numpy as np
import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Attribute, Tape, attribute, integers_of, is_op, replace

_TURNED = {"forward": "reverse", "reverse": "forward"}


@dataclass(frozen=True, kw_only=True)
class Turned(Match):
    """The sequence as it was, and where outputs are turned back: Y itself, or Y without its axis of directions."""

    x: ir.Value
    direction: str
    whole: tuple[ir.Value, ...]
    flat: tuple[ir.Value, ...]


@dataclass(frozen=True, kw_only=True)
class RaiseReversedRecurrence(Rewrite):
    """A recurrence between two turns -> the recurrence in the other direction"""

    name: ClassVar[str] = "raise-reversed-recurrence"
    anchors: ClassVar[tuple[str, ...]] = ("LSTM", "GRU", "RNN")

    def match(self, node: ir.Node) -> Match | Miss:
        direction = direction_of(node)
        turn = node.inputs[0].producer() if node.inputs[0] is not None else None
        if direction not in _TURNED or attribute(node, "layout", 0) or has_lengths(node):
            return Miss("form", direction, "one direction, steps first, no lengths")
        if not _turns(turn) or turn.inputs[0] is None:
            return Miss(
                "input", node.inputs[0].name or "" if node.inputs[0] else "", "a sequence that was turned around"
            )
        whole, flat = [], []
        for reader in node.outputs[0].consumers():
            if reader.graph is not node.graph:
                return Miss("output", node.outputs[0].name or "", "to be read in its own graph alone")
            if _turns(reader):
                whole.append(reader.outputs[0])
            elif is_op(reader, "Squeeze") and integers_of(reader.inputs[1]) == [1] and _all_turn(reader.outputs[0]):
                flat += [item.outputs[0] for item in reader.outputs[0].consumers()]
            else:
                return Miss("output", node.outputs[0].name or "", "to be turned back wherever it is read")
        ports = sum(value.is_graph_output() for value in (*whole, *flat))
        if node.outputs[0].is_graph_output() or ports > 1 or not (whole or flat or len(node.outputs) > 1):
            return Miss("output", node.outputs[0].name or "", "to be turned back wherever it is read")
        return Turned(node=node, x=turn.inputs[0], direction=_TURNED[direction], whole=tuple(whole), flat=tuple(flat))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Turned)
        tape, node = Tape(), found.node
        attributes: dict[str, Attribute] = {**node.attributes, "direction": found.direction}
        made = tape.node(node.op_type, [found.x, *node.inputs[1:]], attributes, outputs=len(node.outputs))
        every, finals = made.outputs[0], made.outputs[1:]
        old, new = list(node.outputs[1:]), list(finals)
        if found.flat:
            flat = tape("Squeeze", every, tape.constant([1], "axes"))
            old, new = [*found.flat, *old], [*[flat] * len(found.flat), *new]
        replace(tape, [*found.whole, *old], [*[every] * len(found.whole), *new], matched=[node])


def direction_of(node: ir.Node) -> str:
    """The attribute `direction`."""
    given = node.attributes.get("direction")
    return "forward" if given is None else given.as_string()


def has_lengths(node: ir.Node) -> bool:
    """Whether the sequences of a batch have lengths of their own."""
    return len(node.inputs) > 4 and node.inputs[4] is not None


def _all_turn(value: ir.Value) -> bool:
    return not value.is_graph_output() and all(_turns(node) and node.graph is value.graph for node in value.consumers())


def _turns(node: ir.Node | None) -> TypeGuard[ir.Node]:
    """Whether a node gives the slices along the first axis from the last to the first."""
    if not is_op(node, "Slice") or len(node.inputs) < 5:
        return False
    starts, ends, axes, steps = (integers_of(value) for value in node.inputs[1:5])
    dims = dimensions(node.inputs[0])
    if starts is None or ends is None or axes != [0] or steps != [-1] or not dims:
        return False
    size = dims[0]
    from_last = starts[0] == -1 or (isinstance(size, int) and starts[0] >= size - 1)
    to_first = ends[0] <= np.iinfo(np.int32).min or (isinstance(size, int) and ends[0] < -size)
    return from_last and to_first
