"""What models compute on each batch, kept so that the next run of a model starts there and not at its inputs.

    x --> f --> [a] --> g --> b          a was seen; b is asked for: only g runs

Methods that go through a model layer by layer change what lies behind, and ask again and again for what lies a little
further on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import count

import onnx_ir as ir

from ..ir.feeds import Array, Feeds
from ..ir.identity import Same
from ..ir.walk import held_graphs, may_hold_graphs


@dataclass(eq=False)
class Pasts:
    """Numbers for what values are computed from: the same number where nothing before a value has changed since the
    last model that was asked about. What that one does not hold is forgotten.
    """

    _numbers: dict[tuple[object, ...], int] = field(default_factory=dict)
    _fresh: count[int] = field(default_factory=lambda: count(1))

    def of(self, model: ir.Model) -> dict[ir.Value, int]:
        """The number of each value that nodes compute and of each input."""
        before, self._numbers = self._numbers, {}
        found: dict[ir.Value, int] = {}
        for node in model.graph:
            self._learn(node, found, before)
        return {**found, **{value: self._source(value, before) for value in model.graph.inputs}}

    def _learn(self, node: ir.Node, found: dict[ir.Value, int], before: _Numbers) -> int:
        """The number of what a node computes; what it does in graphs that it holds is part of that."""
        read = [None if value is None else found.get(value) or self._source(value, before) for value in node.inputs]
        inside = held_graphs(node) if may_hold_graphs(node) else ()
        held = [self._learn(each, found, before) for graph in inside for each in graph]
        made = self._number(before, Same(node), *map(Same, node.attributes.values()), *read, *held)
        found |= dict.fromkeys(node.outputs, made)
        return made

    def _source(self, value: ir.Value, before: _Numbers) -> int:
        return self._number(before, Same(value), Same(value.const_value))

    def _number(self, before: _Numbers, *parts: object) -> int:
        if parts not in self._numbers:
            self._numbers[parts] = before[parts] if parts in before else next(self._fresh)
        return self._numbers[parts]


_Numbers = Mapping[tuple[object, ...], int]


@dataclass(frozen=True, eq=False)
class Tail:
    """What of a model is left to run. known: what it starts at beside the data, by name, one array a batch."""

    model: ir.Model
    known: Mapping[str, Sequence[Array]]

    def feeds(self, feeds: Feeds, number: int) -> Feeds:
        """What it reads on the batch of that number, the first being 0."""
        names = [value.name or "" for value in self.model.graph.inputs]
        # an input that has a default may be left out
        given = {name: feeds[name] for name in names if name in feeds}
        return given | {name: self.known[name][number] for name in names if name in self.known}


@dataclass(eq=False)
class Trail:
    """Values seen in the last run over the data, of each model; true as long as nothing before them has changed."""

    _pasts: dict[Same, Pasts] = field(default_factory=dict)
    _kept: dict[Same, dict[str, tuple[int, Sequence[Array]]]] = field(default_factory=dict)

    def tail(self, model: ir.Model, names: Collection[str]) -> Tail:
        """What has to run for the values of these names; the model itself where nothing that was seen helps."""
        numbers = self._past(model)
        values = {value.name or "": value for value in numbers}
        kept = self._kept.get(Same(model), {})
        known = {
            name: arrays
            for name, (number, arrays) in kept.items()
            if name in values and numbers[values[name]] == number
        }
        if not known or not values.keys() >= set(names):
            return Tail(model, {})
        return tail_of(model, [values[name] for name in names if name not in known], known)

    def ahead(self, model: ir.Model, names: Collection[str]) -> set[str]:
        """What to keep of a run for the values of these names, by name: the next then starts where this ends."""
        return {value.name or "" for value in _alive(model, names, self._kept.get(Same(model), {}).keys())}

    def keep(self, model: ir.Model, seen: Mapping[str, Sequence[Array]]) -> None:
        """Remember arrays of values by name, one a batch, in the place of what was kept of that model."""
        numbers = {value.name or "": past for value, past in self._past(model).items()}
        self._kept[Same(model)] = {name: (numbers[name], arrays) for name, arrays in seen.items()}

    def _past(self, model: ir.Model) -> dict[ir.Value, int]:
        return self._pasts.setdefault(Same(model), Pasts()).of(model)


def tail_of(model: ir.Model, outputs: Sequence[ir.Value], known: Mapping[str, Sequence[Array]]) -> Tail:
    """What has to run for some values of a model of which others are known, by name; the model itself where graphs that
    nodes hold lie between.
    """
    starts = _starts(outputs, known.keys())
    if starts is None:
        return Tail(model, {})
    return Tail(cut_out(model, starts, outputs) if outputs else model, known)


def unchanged(model: ir.Model, changing: Set[ir.Node]) -> list[ir.Value]:
    """What nodes of the main graph, and all that follows from them, read beside that: whatever becomes of these nodes,
    these values stay what they are. What follows from no input of the model is left out, and so are the inputs.

    Raises ValueError for nodes that are none of the model's.
    """
    behind: set[ir.Node] = set()
    met: set[ir.Node] = set()
    moving: set[ir.Value] = set(model.graph.inputs)
    found: dict[ir.Value, None] = {}
    for node in model.graph:
        inside = [each for graph in held_graphs(node) for each in graph.all_nodes()] if may_hold_graphs(node) else []
        read = [value for each in (node, *inside) for value in each.inputs if value is not None]
        makers = [value.producer() for value in read]
        if not moving.isdisjoint(read):
            moving.update(node.outputs)
        here = changing & {node, *inside}
        met |= here
        if here or not behind.isdisjoint(maker for maker in makers if maker is not None):
            behind.add(node)
            found |= {value: None for value, maker in zip(read, makers, strict=True) if maker is not None}
    if met != changing:
        raise ValueError(f"expected nodes of the model, found {next(iter(changing - met)).name!r} of another")
    return [value for value in found if value.producer() not in behind and value in moving]


def _alive(model: ir.Model, wanted: Collection[str], known: Collection[str]) -> list[ir.Value]:
    """Where the nodes that ran for `wanted` end and those that did not begin, and what is known beyond.

        x --> f --> [a] --> g --> wanted --> h
                     `--> Shape -------------> k        [a]: h and k start at it and at what was wanted

    Floats alone: what nodes give otherwise, as Shape does, is computed again from those. What follows from no input of
    the model is left out, and so are the inputs.
    """
    holding = (node for node in model.graph if may_hold_graphs(node))
    holders = {inner: node for node in holding for graph in held_graphs(node) for inner in graph.all_nodes()}

    def readers(value: ir.Value) -> set[ir.Node]:
        return {holders.get(node, node) for node in value.consumers()}

    run, again = set[ir.Node](), set[ir.Node]()
    for node in reversed(model.graph):
        after = set[ir.Node]().union(*map(readers, node.outputs))
        if any(value.name in wanted for value in node.outputs) or after & (run | again):
            floats = any(value.dtype is None or value.dtype.is_floating_point() for value in node.outputs)
            (run if floats or after <= run else again).add(node)
    moving, found = set(model.graph.inputs), list[ir.Value]()
    for node in model.graph:
        if not moving.isdisjoint(node.inputs):
            moving.update(node.outputs)
            there = node.outputs if node in run else [value for value in node.outputs if value.name in known]
            found += [value for value in there if not readers(value) <= run]
    return found


def _starts(wanted: Iterable[ir.Value], known: Collection[str]) -> list[ir.Value] | None:
    """Known values and inputs of the model that others follow from; None where graphs that nodes hold lie between."""
    found: dict[ir.Value, None] = {}
    stack, seen = list(wanted), set[ir.Value]()
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if value.name in known or value.is_graph_input():
            found.setdefault(value)
        elif node is not None:
            if may_hold_graphs(node) and any(held_graphs(node)):
                return None
            stack += [each for each in node.inputs if each is not None]
    return list(found)


def cut_out(model: ir.Model, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
    """A copy of what computes some values of the main graph from others, with the weights of the model."""
    graph = ir.convenience.extract(model.graph, list(inputs), list(outputs))
    functions = [function.clone() for function in model.functions.values()]
    return ir.Model(graph, ir_version=model.ir_version, functions=functions)
