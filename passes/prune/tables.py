"""Tables that numbers which are fed look up: embeddings of tokens, whatever else their rows are tied to.

input_ids --> [Identity, Cast, Reshape, Squeeze, Unsqueeze] --> Gather(table, .)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ...ir.axes import Axis, Dependencies, Group, Why, dependencies
from ...ir.text import place
from ..base import Miss
from ..edit import attribute, is_op

_NUMBERS = (ir.DataType.INT32, ir.DataType.INT64)
#: Ops that hand ids on as they are.
_VIEWS = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


@dataclass(frozen=True, eq=False)
class Table:
    """A group of axes that numbers of inputs look up.

    axes: its own, and those of outputs over the same vocabulary that go with it. outputs: those of the model that have
    one of them, and where. held: why it may not be cut. elsewhere: what reads the ids beside lookups of this size.
    """

    found: Dependencies
    group: Group
    lookups: tuple[ir.Node, ...]
    inputs: tuple[str, ...]
    axes: tuple[Axis, ...]
    outputs: Mapping[str, int]
    held: Miss | None
    elsewhere: ir.Node | None

    @property
    def rows(self) -> int:
        return self.group.size

    @property
    def node(self) -> ir.Node:
        """The node that findings speak of."""
        return self.lookups[0]

    @property
    def name(self) -> str:
        table = self.node.inputs[0]
        return (table.name if table is not None else None) or ""


def tables(model: ir.Model, *, outputs: bool) -> list[Table]:
    """All of them, held ones too. outputs: let outputs over the vocabulary go along."""
    found = dependencies(model)
    read: dict[Axis, list[tuple[ir.Node, ir.Value]]] = {}
    computed: dict[Axis, ir.Node] = {}
    for node in model.graph:
        axis = _looked_up(found, node)
        for leaf in () if axis is None else axis.leaves():
            source = _source(node) if leaf is axis else None
            if source is not None:
                read.setdefault(leaf, []).append((node, source))
            else:
                computed.setdefault(leaf, node)
    made = []
    for group in found.groups:
        pairs = read.get(group.axis)
        if pairs:
            lookups, sources = zip(*pairs, strict=True)
            axes = (group.axis, *(_beside(found, group) if outputs else ()))
            same = {node for leaf, each in read.items() if leaf.count == group.size for node, _ in each}
            stray = next((node for value in dict.fromkeys(sources) for node in _strangers(value, same)), None)
            names = tuple(dict.fromkeys(value.name or "" for value in sources))
            places, held = _outputs(found, axes)
            held = _held(group, computed.get(group.axis), outputs=outputs) or held
            made.append(Table(found, group, lookups, names, axes, places, held, stray))
    return made


def _source(node: ir.Node) -> ir.Value | None:
    """The input of the model whose numbers a lookup reads, None where they are computed."""
    value = node.inputs[1]
    while value is not None and is_op(value.producer(), *_VIEWS):
        producer = value.producer()
        value = None if producer is None else producer.inputs[0]
    return value if value is not None and value.is_graph_input() else None


def _looked_up(found: Dependencies, node: ir.Node) -> Axis | None:
    table = node.inputs[0] if is_op(node, "Gather") else None
    if table is not None and table.shape is not None and len(table.shape) == 1 and table.dtype in _NUMBERS:
        # numbers for numbers: whatever they stand for is looked up by the ones that are found
        return None
    return None if table is None else found.axis(table, attribute(node, "axis", 0))


def _strangers(value: ir.Value, lookups: set[ir.Node]) -> Iterator[ir.Node]:
    """What reads numbers otherwise than to look them up, or to ask how many they are."""
    for use in value.uses():
        if use.node in lookups and use.idx == 1:
            continue
        if is_op(use.node, *_VIEWS) and use.idx == 0 and not use.node.outputs[0].is_graph_output():
            yield from _strangers(use.node.outputs[0], lookups)
        elif not is_op(use.node, "Shape", "Size"):
            yield use.node


def _held(group: Group, computed: ir.Node | None, *, outputs: bool) -> Miss | None:
    """Why the rows of a table may not be cut. computed: a lookup of rows whose numbers no input gives."""
    if computed is not None:
        return Miss("ids", f"computed for {place(computed)}", "numbers that inputs give", near=True)
    for hold in group.holds:
        if hold.why is Why.OUTPUT and not outputs:
            return Miss("outputs", str(hold), "outputs=true, which shortens the output", near=True)
        if hold.why not in (Why.ROWS, Why.OUTPUT):
            return Miss("held", str(hold), "rows that are looked up and nothing else", near=True)
    return None


def _beside(found: Dependencies, group: Group) -> Iterator[Axis]:
    """Groups of as many, held by nothing but outputs: what is read off for each token of the vocabulary."""
    for other in found.groups:
        whys = {hold.why for hold in other.holds}
        if other is not group and other.size == group.size and whys == {Why.OUTPUT}:
            yield other.axis


def _outputs(found: Dependencies, axes: tuple[Axis, ...]) -> tuple[dict[str, int], Miss | None]:
    """Which outputs have the axes, and where; a miss where one has them as a part of another, or twice."""
    places: dict[str, int] = {}
    for value in found.model.graph.outputs:
        for at, axis in enumerate(found.axes.get(value) or ()):
            if not any(leaf in axes for leaf in axis.leaves()):
                continue
            name = value.name or ""
            if axis.root() not in axes or name in places:
                return places, Miss("outputs", name, "an output with one axis over the vocabulary", near=True)
            places[name] = at
    return places, None
