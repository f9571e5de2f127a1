"""Move a transpose through elementwise ops to where it meets another one.

    before   x --> Transpose --> Relu --> Mul --> inverse Transpose --> y        after   x --> Relu --> Mul --> y
    before   Transpose(a) + Transpose(b)                                         after   Transpose(a + b)

Exact: f(x) transposed is f(x transposed) for what is done to each element by itself, and for softmax, normalizations
and linear layers whose axis is followed; constant vectors are turned as well. Done where it leaves fewer nodes than
there were, counting each transpose that stays for other readers or is put before inputs that have none. Left alone
where nothing is saved, and what is read or made in another graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ..base import Match, Miss, Rewrite
from ..edit import Attribute, Tape, constant_of, replace
from .pointwise import Input, Perm, axis_of, composed, inputs_of, inverse, perm_of

#: Nodes that a transpose is moved through at most, and how far down it looks for where it is met.
_REGION, _REACH = 16, 8


@dataclass(frozen=True)
class Region:
    """Nodes that are done in another order of axes, inputs first; the last one's output is what others read.

    perm: what the new output is transposed by, relative to the old. met: transposes behind it that go.
    """

    nodes: tuple[ir.Node, ...]
    perm: Perm
    met: tuple[ir.Node, ...]
    stays: bool
    saved: int


@dataclass(frozen=True, kw_only=True)
class Sunk(Match):
    """Where a transpose is saved."""

    region: Region


@dataclass(frozen=True, kw_only=True)
class SinkTransposes(Rewrite):
    """Transpose, elementwise ops, inverse Transpose -> elementwise ops"""

    name: ClassVar[str] = "sink-transposes"
    anchors: ClassVar[tuple[str, ...]] = ("Transpose",)

    def match(self, node: ir.Node) -> Match | Miss:
        perm = perm_of(node)
        if perm is None or node.inputs[0] is None:
            return Miss("rank", node.inputs[0].name or "" if node.inputs[0] else "", "a value of known rank")
        best: Region | None = None
        for last, turned in _candidates(node, perm):
            found = _region(last, turned)
            if found is not None and found.saved > (0 if best is None else best.saved):
                best = found
        if best is None:
            return Miss(
                "meets", node.outputs[0].name or "", "another transpose, elementwise ops between the two", far=True
            )
        return Sunk(node=node, region=best)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Sunk)
        region, tape = found.region, Tape()
        made: dict[ir.Value, ir.Value] = {}
        for node in region.nodes:
            read = inputs_of(node, region.perm)
            assert read is not None
            inputs = [None if item is None else _turned(tape, item, region.perm, made) for item in read]
            axis = axis_of(node, region.perm)
            attributes: dict[str, Attribute] = {**node.attributes} | ({} if axis is None else {"axis": axis})
            made[node.outputs[0]] = _typed(
                tape.node(node.op_type, inputs, attributes).outputs[0], node.outputs[0], region.perm
            )
        last = region.nodes[-1]
        value = last.outputs[0]
        pairs = [(other.outputs[0], made[value]) for other in region.met]
        # the last of several to hand its name over is the one that keeps it
        pairs.sort(key=lambda pair: pair[0].is_graph_output())
        if region.stays:
            pairs.append((value, tape("Transpose", made[value], perm=inverse(region.perm))))
        replace(tape, [old for old, _ in pairs], [new for _, new in pairs], matched=region.nodes)


def _candidates(node: ir.Node, perm: Perm) -> Iterator[tuple[ir.Node, Perm]]:
    """The last node of a region and how it is turned: what the transpose reads, then what reads it and so on down."""
    above = node.inputs[0].producer() if node.inputs[0] is not None else None
    if above is not None and above.graph is node.graph:
        yield above, perm
    value, back = node.outputs[0], inverse(perm)
    for _ in range(_REACH):
        if len(value.uses()) > _REGION:
            return
        readers = [reader for reader in value.consumers() if reader.graph is node.graph]
        for reader in readers:
            if inputs_of(reader, back) is not None:
                yield reader, back
        if len(readers) != 1 or len(readers[0].outputs) != 1:
            return
        value = readers[0].outputs[0]


def _region(last: ir.Node, perm: Perm) -> Region | None:
    """The nodes up from `last` that are best turned with it, and how many nodes that saves."""
    if inputs_of(last, perm) is None:
        return None
    value = last.outputs[0]
    met = tuple(reader for reader in value.consumers() if perm_of(reader) == perm and reader.graph is last.graph)
    stays = value.is_graph_output() or len(met) < len(value.consumers())
    named = sum(reader.outputs[0].is_graph_output() for reader in met)
    dead = any(not reader.outputs[0].uses() and not reader.outputs[0].is_graph_output() for reader in met)
    if named > 1 or dead or not (met or stays):
        return None
    nodes = _grown(last, perm)
    if len(met) - stays + _saved(nodes, perm, at_most=True) <= 0:
        return None
    # a node most of whose inputs would have to be transposed is better left as it is
    while True:
        fewer = [[*nodes[:at], *nodes[at + 1 :]] for at, node in enumerate(nodes[:-1]) if _is_first(node, nodes)]
        better = max(fewer, key=lambda kept: _saved(kept, perm), default=None)
        if better is None or _saved(better, perm) < _saved(nodes, perm):
            break
        nodes = better
    return Region(tuple(nodes), perm, met, stays, len(met) - stays + _saved(nodes, perm))


def _grown(last: ir.Node, perm: Perm) -> list[ir.Node]:
    """Nodes up from `last` that nothing else reads, inputs first."""
    region = {last: None}
    waiting = [last]
    while waiting and len(region) < _REGION:
        node = waiting.pop(0)
        for item in inputs_of(node, perm) or ():
            above = item.value.producer() if item is not None and item.turned else None
            if above is None or above in region or above.graph is not last.graph or inputs_of(above, perm) is None:
                continue
            if _only_for(above.outputs[0], region):
                region[above] = None
                waiting.append(above)
    return _in_order(region)


def _in_order(region: dict[ir.Node, None]) -> list[ir.Node]:
    ordered: dict[ir.Node, None] = {}

    def visit(node: ir.Node) -> None:
        for value in node.inputs:
            above = None if value is None else value.producer()
            if above is not None and above in region and above not in ordered:
                visit(above)
        ordered[node] = None

    visit(next(iter(region)))
    return list(ordered)


def _is_first(node: ir.Node, nodes: list[ir.Node]) -> bool:
    """Whether no other node of a region feeds this one."""
    return not any(value is not None and value.producer() in nodes for value in node.inputs)


def _saved(nodes: Sequence[ir.Node], perm: Perm, *, at_most: bool = False) -> int:
    """Nodes that go above a region less those that come; `at_most` counts the former alone."""
    leaves = dict.fromkeys(
        item.value
        for node in nodes
        for item in inputs_of(node, perm) or ()
        if item is not None and item.turned and item.value.producer() not in nodes
    )
    saved = 0
    for value in leaves:
        own = perm_of(value.producer())
        saved += own is not None and _only_for(value, nodes)
        if not at_most:
            saved -= own is None or composed(own, perm) != tuple(range(len(perm)))
    return saved


def _only_for(value: ir.Value, nodes: Collection[ir.Node]) -> bool:
    """Whether nothing but these nodes reads a value."""
    if value.is_graph_output() or len(value.uses()) > 2 * _REGION:
        return False
    return all(reader in nodes for reader in value.consumers())


def _turned(tape: Tape, item: Input, perm: Perm, made: dict[ir.Value, ir.Value]) -> ir.Value:
    """What a turned node reads."""
    value = item.value
    if item.dims is not None:
        array = constant_of(value)
        assert array is not None
        return tape.constant(array.reshape(item.dims), value.name or "constant")
    if not item.turned:
        return value
    if value not in made:
        producer = value.producer()
        own = perm_of(producer)
        if producer is None or own is None or producer.inputs[0] is None:
            made[value] = _typed(tape("Transpose", value, perm=perm), value, perm)
        elif composed(own, perm) == tuple(range(len(perm))):
            made[value] = producer.inputs[0]
        else:
            merged = tape("Transpose", producer.inputs[0], perm=composed(own, perm))
            made[value] = _typed(merged, value, perm)
    return made[value]


def _typed(made: ir.Value, value: ir.Value, perm: Perm) -> ir.Value:
    made.type = value.type
    if value.shape is not None:
        made.shape = ir.Shape([value.shape[index] for index in perm])
    return made
