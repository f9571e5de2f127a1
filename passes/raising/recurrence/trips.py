"""A Scan or Loop as what it does trip by trip: what it carries, what it reads in order, what it stacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ....ir.constants import tensor_of
from ....ir.content import Element, content, dimensions
from ...base import Miss
from ...edit import attribute, is_op, scalar_of
from .affine import Step


@dataclass(frozen=True)
class Carried:
    """A state: what the body gets and gives, where it starts, and what the node gives in the end."""

    before: ir.Value
    after: ir.Value
    first: ir.Value
    last: ir.Value


@dataclass(frozen=True)
class Stacked:
    """What each trip adds to an output: along which axis, and whether the last trip comes first."""

    each: ir.Value
    all: ir.Value
    axis: int
    backward: bool


@dataclass(frozen=True)
class Scanned:
    """A tensor of which each trip reads the next slice along an axis, or the one before."""

    whole: ir.Value
    axis: int
    backward: bool


@dataclass(frozen=True)
class Trips:
    """The trips of a Scan or Loop. `scanned` is by input of the body; a Loop picks its slices itself, by `counter`."""

    node: ir.Node
    body: ir.Graph
    carried: tuple[Carried, ...]
    stacked: tuple[Stacked, ...]
    scanned: dict[ir.Value, Scanned]
    counter: ir.Value | None = None
    times: Element = None

    def slice_of(self, value: ir.Value, via: tuple[Step, ...]) -> tuple[Scanned, tuple[Step, ...]] | None:
        """(s, rest) where via(value) in the body is the trip's slice of rest(s)."""
        if not via and value in self.scanned:
            return self.scanned[value], ()
        node, rest = (via[-1][0], via[:-1]) if via else (value.producer(), ())
        if self.counter is None or not is_op(node, "Gather") or node.graph is not self.body:
            return None
        whole, index = node.inputs
        dims = dimensions(whole)
        if whole is None or index is None or dims is None or any(step.graph is self.body for step, _ in rest):
            return None
        axis = attribute(node, "axis", 0) % max(len(dims), 1)
        backward = self._counts(index, dims[axis])
        if backward is None or dims[axis] is None or self.times != dims[axis]:
            return None
        return Scanned(value if via else whole, axis, backward), rest

    def _counts(self, index: ir.Value, size: Element) -> bool | None:
        """Whether an index runs down from size - 1; False where it runs up from zero, None where it does neither."""
        counted = plain(index)
        if counted is self.counter:
            return False
        node = None if counted is None else counted.producer()
        if not is_op(node, "Sub") or node.inputs[0] is None or plain(node.inputs[1]) is not self.counter:
            return None
        return True if _less_one(node.inputs[0], size) else None


def trips(node: ir.Node) -> Trips | Miss:
    """What a Scan or Loop does, or what keeps it from being read so."""
    return _scan(node) if node.op_type == "Scan" else _loop(node)


def plain(value: ir.Value | None) -> ir.Value | None:
    """The value before any Identity."""
    while value is not None and is_op(node := value.producer(), "Identity"):
        value = node.inputs[0]
    return value


def _scan(node: ir.Node) -> Trips | Miss:
    body, scanned = node.attributes["body"].as_graph(), attribute(node, "num_scan_inputs", 0)
    states = len(node.inputs) - scanned
    outputs = len(node.outputs) - states
    if states < 0 or len(body.inputs) != len(node.inputs) or len(body.outputs) != len(node.outputs):
        return Miss("body", f"{len(body.inputs)} inputs, {len(body.outputs)} outputs", "those of the node")
    axes, directions = _ints(node, "scan_input_axes", scanned), _ints(node, "scan_input_directions", scanned)
    out_axes, out_directions = _ints(node, "scan_output_axes", outputs), _ints(node, "scan_output_directions", outputs)
    found: dict[ir.Value, Scanned] = {}
    for inner, whole, axis, direction in zip(body.inputs[states:], node.inputs[states:], axes, directions, strict=True):
        dims = dimensions(whole)
        if whole is None or dims is None:
            return Miss("scanned", inner.name or "", "a tensor of known rank")
        found[inner] = Scanned(whole, axis % max(len(dims), 1), direction == 1)
    carried = _carried(body.inputs[:states], body.outputs[:states], node.inputs[:states], node.outputs[:states])
    if isinstance(carried, Miss):
        return carried
    stacked = tuple(
        Stacked(each, whole, axis, direction == 1)
        for each, whole, axis, direction in zip(
            body.outputs[states:], node.outputs[states:], out_axes, out_directions, strict=True
        )
    )
    return Trips(node, body, carried, stacked, found)


def _loop(node: ir.Node) -> Trips | Miss:
    body = node.attributes["body"].as_graph()
    states = len(node.inputs) - 2
    if states < 1 or len(body.inputs) != states + 2 or len(body.outputs) != len(node.outputs) + 1:
        return Miss("body", f"{len(body.inputs)} inputs, {len(body.outputs)} outputs", "those of the node")
    times, going = content(node.inputs[0]), node.inputs[1]
    if times is None or len(times) != 1 or times[0] is None:
        return Miss("trips", _name(node.inputs[0]), "a number of trips that is known, or is the size of a dimension")
    again = plain(body.outputs[0])
    if not (going is None or _is_true(going)) or not (_is_true(again) or again is body.inputs[1]):
        return Miss("condition", _name(again), "one that is always true")
    carried = _carried(body.inputs[2:], body.outputs[1 : states + 1], node.inputs[2:], node.outputs[:states])
    if isinstance(carried, Miss):
        return carried
    rest = zip(body.outputs[states + 1 :], node.outputs[states:], strict=True)
    stacked = tuple(Stacked(each, whole, 0, False) for each, whole in rest)
    return Trips(node, body, carried, stacked, {}, body.inputs[0], times[0])


def _carried(
    before: Sequence[ir.Value], after: Sequence[ir.Value], first: Sequence[ir.Value | None], last: Sequence[ir.Value]
) -> tuple[Carried, ...] | Miss:
    found = []
    for inner, made, start, end in zip(before, after, first, last, strict=True):
        result = plain(made)
        if start is None or result is None:
            return Miss("carried", inner.name or "", "a state with a start")
        found.append(Carried(inner, result, start, end))
    return tuple(found)


def _less_one(value: ir.Value, size: Element) -> bool:
    """Whether a value is size - 1."""
    found = content(value)
    if found is not None and isinstance(found[0], int):
        return found == [size - 1] if isinstance(size, int) else False
    node = value.producer()
    if not is_op(node, "Sub", "Add") or content(node.inputs[0]) != [size]:
        return False
    return scalar_of(node.inputs[1]) == (1.0 if node.op_type == "Sub" else -1.0)


def _is_true(value: ir.Value | None) -> bool:
    tensor = tensor_of(value)
    return tensor is not None and tensor.size == 1 and bool(tensor.numpy().reshape(-1)[0])


def _ints(node: ir.Node, name: str, count: int) -> list[int]:
    found = node.attributes.get(name)
    given = [] if found is None else list(found.as_ints())
    return given if len(given) == count else [0] * count


def _name(value: ir.Value | None) -> str:
    return (value.name or "") if value is not None else ""
