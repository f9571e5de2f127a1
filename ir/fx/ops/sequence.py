"""Sequences are Python lists of tensors; an optional is its element, or None where it has none.

Both pass through `If`, `Loop` and calls like any value, and in and out of the `Interpreter`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TypeVar

import onnx_ir as oir
import torch

from ...text import place
from ..flow.control import EmitNodes, Form, body_of, expect
from ..flow.iterate import Module, run
from ..host import Nested, flat
from ..lowering import Key, Lowering, Table, standard
from ..scope import Body, Held, OnDevice, Scope

Element = TypeVar("Element")


def construct(*tensors: Element) -> list[Element]:
    return list(tensors)


def empty(*, dtype: int = 1) -> list[torch.Tensor]:
    return []


def insert(sequence: list[Element], tensor: Element, position: Nested | None = None) -> list[Element]:
    """A new sequence with the tensor before `position`, or at the end."""
    at = len(sequence) if position is None else _position(position, len(sequence), len(sequence))
    return [*sequence[:at], tensor, *sequence[at:]]


def erase(sequence: list[Element], position: Nested = -1) -> list[Element]:
    at = _position(position, len(sequence), len(sequence) - 1)
    return [*sequence[:at], *sequence[at + 1 :]]


def element_at(sequence: list[Element], position: Nested) -> Element:
    return sequence[_position(position, len(sequence), len(sequence) - 1)]


def _position(position: Nested, length: int, last: int) -> int:
    (at,) = (int(leaf) for leaf in flat(position))
    if not -length <= at <= last:
        raise IndexError(f"position {at} is not in -{length} to {last}, of a sequence of {length}")
    return at + length if at < 0 else at


def length(sequence: list[Element]) -> int:
    return len(sequence)


def split_to_sequence(
    x: torch.Tensor, split: int | list[int] | None = None, *, axis: int = 0, keepdims: int = 1
) -> list[torch.Tensor]:
    """Pieces of one size (the last may be smaller), of the sizes listed, or single slices, which may drop the axis."""
    if split is None and not keepdims:
        return list(x.unbind(axis))
    return list(torch.split(x, 1 if split is None else split, axis))


def concat_from_sequence(sequence: list[torch.Tensor], *, axis: int, new_axis: int = 0) -> torch.Tensor:
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


def has_element(value: object = None) -> bool:
    return value is not None


def get_element(value: Element | None) -> Element:
    if value is None:
        raise ValueError("the optional is empty; ask OptionalHasElement first")
    return value


def optional(value: Element | None = None) -> Element | None:
    return value


def sequence_map(
    body: Module, inputs: Sequence[object], captured: Sequence[object], outputs: int
) -> tuple[list[object], ...]:
    """SequenceMap: the body's outputs for each element of the first input; other sequences go along with it."""
    first = inputs[0]
    assert isinstance(first, list)
    for other in inputs:
        if isinstance(other, list) and len(other) != len(first):
            raise ValueError(f"sequences of {len(first)} and {len(other)} elements; expected as many")
    rows: list[tuple[object, ...]] = []
    for i in range(len(first)):
        found = run(body, *(value[i] if isinstance(value, list) else value for value in inputs), *captured)
        rows.append(found if isinstance(found, tuple) else (found,))
    return tuple([row[i] for row in rows] for i in range(outputs))


def emit_sequence_map(node: oir.Node, scope: Scope, emit: EmitNodes) -> Sequence[Held]:
    graph = body_of(node, "body")
    expect(node, "inputs of the body", len(graph.inputs), len(node.inputs))
    expect(node, "outputs of the body", len(graph.outputs), len(node.outputs), more=True)
    inner = scope.inside(Body(outer=scope.body, copy=scope.body.copy))
    for value in graph.inputs:
        inner.values[value] = OnDevice(inner.body.placeholder(value.name or "", place(node)))
    emit(graph, inner)
    results = tuple(inner.body.tensor(inner.get(value)) for value in graph.outputs)
    inner.body.graph.output(results[0] if len(results) == 1 else results)
    names = [scope.name(value) for value in node.outputs]
    name, source = f"({', '.join(names)})", place(node)
    entry = scope.body.submodule(inner.body.module(), "map", name, source)
    inputs = tuple(scope.body.tensor(scope.get(value)) for value in node.inputs if value is not None)
    args = (entry, inputs, tuple(inner.body.captured), len(results))
    call = scope.body.call(sequence_map, args, name, source, tap=False)
    return [OnDevice(scope.body.call(operator.getitem, (call, i), name, source)) for i, name in enumerate(names)]


def emit_optional(node: oir.Node, scope: Scope, _: EmitNodes) -> Sequence[Held]:
    """Optional; what type an empty one would have does not matter here."""
    given = [held for value in node.inputs if (held := scope.optional(value)) is not None]
    args = tuple(scope.body.tensor(held) for held in given)
    return [OnDevice(scope.body.call(optional, args, scope.name(node.outputs[0]), place(node)))]


SEQUENCE: Table = standard(
    {
        "SequenceConstruct": construct,
        "SequenceEmpty": empty,
        "SequenceInsert": Lowering(function=insert, ints=(2,)),
        "SequenceErase": Lowering(function=erase, ints=(1,)),
        "SequenceAt": Lowering(function=element_at, ints=(1,)),
        "SequenceLength": Lowering(function=length, host=oir.DataType.INT64),
        "SplitToSequence": Lowering(function=split_to_sequence, ints=(1,)),
        "ConcatFromSequence": concat_from_sequence,
        "OptionalHasElement": Lowering(function=has_element, host=oir.DataType.BOOL),
        "OptionalGetElement": get_element,
    },
    since=11,
)
SEQUENCE_FORMS: dict[Key, Form] = {
    ("", "SequenceMap", 17): emit_sequence_map,
    ("", "Optional", 15): emit_optional,
}
