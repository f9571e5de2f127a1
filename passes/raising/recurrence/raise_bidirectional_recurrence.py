"""Raise two recurrences over one sequence, one forward and one backward, to one that runs in both directions.

    before   Concat(Squeeze(LSTM{direction=forward}(x)), Squeeze(LSTM{direction=reverse}(x)))
    after    Reshape(Transpose(LSTM{direction=bidirectional}(x)))

Exact: the outputs of the two directions lie side by side on Y's second axis. Left alone where the two differ in size,
options or lengths, their weights are computed, their outputs are not joined, or the first state of one is computed
after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Match, Miss, Rewrite
from ...edit import Array, Attribute, Ledger, Tape, attribute, integers_of, is_op, replace, sweep
from .blocks import constant, reader
from .raise_reversed_recurrence import direction_of, has_lengths

#: W, R, B, then P: what holds numbers for each direction. The states lie between.
_WEIGHTS = (1, 2, 3, 7)
_STATES = (5, 6)
_REACH = 4


@dataclass(frozen=True, kw_only=True)
class Pair(Match):
    """The two directions, and where their outputs are joined: by feature, or as two rows of the second axis."""

    backward: ir.Node
    features: tuple[ir.Value, ...]
    stacked: tuple[ir.Value, ...]


@dataclass(frozen=True, kw_only=True)
class RaiseBidirectionalRecurrence(Rewrite):
    """A recurrence forward and one backward -> one in both directions"""

    name: ClassVar[str] = "raise-bidirectional-recurrence"
    anchors: ClassVar[tuple[str, ...]] = ("LSTM", "GRU", "RNN")

    def match(self, node: ir.Node) -> Match | Miss:
        if direction_of(node) != "forward" or attribute(node, "layout", 0) or has_lengths(node):
            return Miss("form", direction_of(node), "direction=forward, steps first, no lengths")
        joins = _joins(node.outputs[0])
        others = dict.fromkeys(other for join, value in joins if (other := _maker(join.inputs[-1], value)) is not None)
        backward = next((other for other in others if other is not node), None)
        if backward is None or len(others) != 1:
            return Miss("join", node.outputs[0].name or "", "to be joined with the outputs of the other direction")
        misfit = _misfit(node, backward)
        if misfit is not None:
            return misfit
        mine = [(join, kept) for join, kept in joins if _maker(join.inputs[-1], kept) is backward]
        features = [join.outputs[0] for join, kept in mine if not kept]
        stacked = [join.outputs[0] for join, kept in mine if kept]
        if sum(value.is_graph_output() for value in stacked) > 1 or sum(v.is_graph_output() for v in features) > 1:
            return Miss("join", node.outputs[0].name or "", "one output of the graph")
        return Pair(node=node, backward=backward, features=tuple(features), stacked=tuple(stacked))

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Pair)
        tape, pair = Tape(), (found.node, found.backward)
        inputs = list(found.node.inputs) + [None] * (8 - len(found.node.inputs))
        for index in _WEIGHTS:
            inputs[index] = _both(tape, *(_input(node, index) for node in pair))
        for index in _STATES:
            states = [moved for node in pair if (moved := _moved(tape, _input(node, index))) is not None]
            inputs[index] = tape("Concat", *states, axis=0) if states else None
        while inputs[-1] is None:
            inputs.pop()
        attributes: dict[str, Attribute] = {**found.node.attributes, **_activations(pair), "direction": "bidirectional"}
        outputs = max(len(node.outputs) for node in pair)
        every, *finals = tape.node(found.node.op_type, inputs, attributes, outputs=outputs).outputs
        old: list[ir.Value] = [*found.stacked]
        new = [every] * len(found.stacked)
        if found.features:
            hidden = found.node.attributes["hidden_size"].as_int()
            across = tape("Transpose", every, perm=[0, 2, 1, 3])
            flat = tape("Reshape", across, tape.constant([0, 0, 2 * hidden], "shape"))
            old, new = [*found.features, *old], [*[flat] * len(found.features), *new]
        for index, final in enumerate(finals, start=1):
            joined = _joined(*(node.outputs[index] for node in pair if len(node.outputs) > index))
            old, new = [*old, *joined], [*new, *[final] * len(joined)]
        for at, node in enumerate(pair):
            for value, whole, axis in zip(node.outputs, (every, *finals), (1, 0, 0), strict=False):
                if value.uses() or value.is_graph_output():
                    where = tape.constant([at], "at"), tape.constant([at + 1], "to"), tape.constant([axis], "axis")
                    old, new = [*old, value], [*new, tape("Slice", whole, *where)]
        replace(tape, old, new, matched=pair)
        sweep(tape.nodes)


def _joins(every: ir.Value) -> list[tuple[ir.Node, bool]]:
    """The Concats of two that have Y first, and whether Y's second axis is kept."""
    found = []
    for user in every.consumers():
        if is_op(user, "Squeeze") and integers_of(user.inputs[1]) == [1]:
            flat = user.outputs[0]
            for join in flat.consumers():
                if is_op(join, "Concat") and attribute(join, "axis", 0) in (-1, 2) and join.inputs[0] is flat:
                    found.append((join, False))
                elif is_op(join, "Unsqueeze") and integers_of(join.inputs[1]) == [1]:
                    wide = join.outputs[0]
                    found += [(item, True) for item in wide.consumers() if _stacks(item) and item.inputs[0] is wide]
        elif _stacks(user) and user.inputs[0] is every:
            found.append((user, True))
    return [(join, kept) for join, kept in dict.fromkeys(found) if len(join.inputs) == 2 and join.graph is every.graph]


def _stacks(node: ir.Node) -> bool:
    return is_op(node, "Concat") and attribute(node, "axis", 0) == 1


def _maker(value: ir.Value | None, kept: bool) -> ir.Node | None:
    """The recurrence whose Y a value is, its second axis kept or not."""
    node = None if value is None else value.producer()
    if kept and is_op(node, "Unsqueeze") and integers_of(node.inputs[1]) == [1]:
        return _maker(node.inputs[0], kept=False)
    if not kept:
        if not is_op(node, "Squeeze") or integers_of(node.inputs[1]) != [1] or node.inputs[0] is None:
            return None
        value, node = node.inputs[0], node.inputs[0].producer()
    return node if is_op(node, "LSTM", "GRU", "RNN") and node.outputs[0] is value else None


def _misfit(node: ir.Node, other: ir.Node) -> Miss | None:
    name = other.name or other.op_type
    if other.op_type != node.op_type or direction_of(other) != "reverse" or has_lengths(other):
        return Miss("direction", f"{other.op_type} {direction_of(other)}", f"{node.op_type} reverse, no lengths")
    if other.inputs[0] is not node.inputs[0] or other.graph is not node.graph:
        return Miss("input", name, "the same sequence")
    aside = {"direction", "activations", "activation_alpha", "activation_beta"}
    mine, its = ({k: v.value for k, v in item.attributes.items() if k not in aside} for item in (node, other))
    shaped = {"activation_alpha", "activation_beta"} & {*node.attributes, *other.attributes}
    named = {"activations" in item.attributes for item in (node, other)}
    if mine != its or "hidden_size" not in mine or shaped or len(named) != 1:
        return Miss("options", name, "the same options")
    for index in _WEIGHTS:
        first, second = _input(node, index), _input(other, index)
        if (first is None) != (second is None) or dimensions(first) != dimensions(second):
            return Miss("weights", name, "weights of the same shape")
        if first is not None and (constant(first) is None or constant(second) is None):
            return Miss("weights", name, "constant weights")
    for index in _STATES:
        states = _input(node, index), _input(other, index)
        if (states[0] is None) != (states[1] is None):
            return Miss("state", name, "first states in both directions, or in none")
        for state in states:
            if state is not None and not _is_before(_home(state), (node, other)):
                return Miss("state", state.name or "", "first states that are there before either direction runs")
    return None


def _is_before(value: ir.Value | None, nodes: Sequence[ir.Node]) -> bool:
    """Whether a value is made before any of these nodes of one graph."""
    made, graph = None if value is None else value.producer(), nodes[0].graph
    if made is None or made.graph is not graph or not isinstance(graph, ir.Graph):
        return True
    return made not in nodes and Ledger.of(graph).earliest([made, *nodes]) is made


def _activations(pair: Sequence[ir.Node]) -> dict[str, Attribute]:
    named = [list(node.attributes["activations"].as_strings()) for node in pair if "activations" in node.attributes]
    return {"activations": ir.AttrStrings("activations", [*named[0], *named[1]])} if named else {}


def _joined(*finals: ir.Value) -> list[ir.Value]:
    """Where the last states of both directions are joined."""
    found = [
        node.outputs[0]
        for node in (finals[0].consumers() if len(finals) == 2 else ())
        if is_op(node, "Concat")
        and attribute(node, "axis", 0) == 0
        and tuple(node.inputs) == finals
        and node.graph is finals[0].graph
    ]
    ports = [value for value in found if value.is_graph_output()][:1]
    return [*(value for value in found if not value.is_graph_output()), *ports]


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _path(value: ir.Value) -> list[ir.Node]:
    """What a first state goes through on its way, from the last step to the first."""
    found: list[ir.Node] = []
    for _ in range(_REACH):
        node = value.producer()
        fixed = node is not None and all(_fixed(item) for item in node.inputs[1:])
        if not is_op(node, "Gather", "Slice", "Unsqueeze", "Squeeze") or not fixed or node.inputs[0] is None:
            break
        found.append(node)
        value = node.inputs[0]
    return found


def _fixed(value: ir.Value | None) -> bool:
    """Whether an argument is a constant, or left out."""
    return value is None or integers_of(value) is not None


def _home(value: ir.Value | None) -> ir.Value | None:
    if value is None:
        return None
    path = _path(value)
    return path[-1].inputs[0] if path else value


def _moved(tape: Tape, value: ir.Value | None) -> ir.Value | None:
    """A first state, made again where the new node will be."""
    if value is None:
        return None
    path = _path(value)
    made = _home(value)
    for node in reversed(path):
        made = tape.node(node.op_type, [made, *node.inputs[1:]], dict(node.attributes)).outputs[0]
    return made


def _both(tape: Tape, first: ir.Value | None, second: ir.Value | None) -> ir.Value | None:
    """The numbers of both directions in one tensor, joined when they are read."""
    if first is None or second is None:
        return None
    views = [view for value in (first, second) if (view := constant(value)) is not None]
    arrays = [reader(view) for view in views]
    shape = [2, *views[0].shape[1:]]

    def both() -> Array:
        return np.concatenate([read() for read in arrays])

    return tape.derived(first.name or "weight", shape, views[0].dtype, both, weight=True)
