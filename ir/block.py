"""Repeated blocks and the residual stream, found from the dominator tree.

    ids -> Gather -> [ x0 -> {norm, attention, add} -> {norm, mlp, add} -> x1 ] -> [ x1 -> ... -> x2 ] -> head

A value through which every path from an input to an output flows is a *cut*: in a Transformer, the residual stream
between two sublayers. Cuts are the dominators of the output in the graph that starts at one input (which makes them
the post-dominators of that input too, so one tree suffices). What lies between two cuts is a segment; segments are
compared by structure (ops, attributes, wiring, shapes of constants), and the run of equal groups of segments that
covers most of the graph is a stack of blocks.

Constants, shape arithmetic and boolean masks carry no activation, and what comes in from the side (an attention mask, a
position table, a cache) is no path from the chosen input, so none of them hides a cut. Several inputs are tried, which
finds both stacks of an encoder-decoder. The cost is linear in the nodes for each of the at most four inputs tried.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
import onnx_ir as ir

#: How many graph inputs are tried as the start of the stream, those that reach most nodes first.
_SOURCES = 4

#: A block has at most this many segments.
_LONGEST = 256

_COMPARES = frozenset(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf"))
_CARRIES_NOTHING = _COMPARES | {"And", "Or", "Xor", "Not", "Shape", "Size", "NonZero"}
_COMMUTATIVE = frozenset(("Add", "Mul", "Max", "Min", "Sum"))


@dataclass(frozen=True)
class Block:
    """One repetition of a repeated part of the graph.

    `input` and `output` are values of the residual stream: `blocks[i].output is blocks[i + 1].input` within a `stack`.
    `nodes` are in graph order and include the shape arithmetic and constants that only this block reads. Blocks of
    one stack have the same `signature`.
    """

    index: int
    stack: int
    nodes: tuple[ir.Node, ...]
    input: ir.Value
    output: ir.Value
    signature: str


def blocks(model: ir.Model, *, attributes: bool = True) -> list[Block]:
    """The repeated blocks of the main graph, in graph order; empty where nothing repeats.

    attributes: whether blocks whose nodes have other attributes are others.

    A block holds at least one fork that meets again around a weight (a residual branch, a gated unit), so a plain
    chain of equal layers or of recurrent cells is no stack. The graph must be topologically sorted.
    """
    flow = _Flow(model, attributes)
    taken: set[ir.Node] = set()
    stacks: list[list[_Span]] = []
    found = [stack for source in flow.sources() for stack in _stacks(flow, source)]
    for stack in sorted(found, key=lambda spans: -sum(len(span.nodes) for span in spans)):
        members = {node for span in stack for node in span.nodes}
        if taken.isdisjoint(members):
            taken |= members
            stacks.append(stack)
    stacks.sort(key=lambda spans: flow.position[spans[0].nodes[0]])
    spans = [(number, span) for number, stack in enumerate(stacks) for span in stack]
    stream = {value for _, span in spans for value in (span.input, span.output)}
    owner = flow.adopt({node: index for index, (_, span) in enumerate(spans) for node in span.nodes}, stream)
    members_of: list[list[ir.Node]] = [[] for _ in spans]
    for node in flow.nodes:
        if node in owner:
            members_of[owner[node]].append(node)
    return [
        Block(index, number, tuple(members_of[index]), span.input, span.output, span.signature)
        for index, (number, span) in enumerate(spans)
    ]


def block_of(model: ir.Model) -> dict[ir.Node, int]:
    """The index of the block that holds each node, nodes of subgraphs included; nodes outside blocks are left out."""
    return {inner: block.index for block in blocks(model) for node in block.nodes for inner in (node, *_nested(node))}


def residual_streams(model: ir.Model) -> list[tuple[ir.Value, ...]]:
    """For each stack of blocks the values between them: the input of the first block, then the output of each."""
    streams: dict[int, list[ir.Value]] = {}
    for block in blocks(model):
        streams.setdefault(block.stack, [block.input]).append(block.output)
    return [tuple(stream) for stream in streams.values()]


@dataclass(frozen=True)
class _Span:
    """On-path nodes between two cuts."""

    nodes: tuple[ir.Node, ...]
    input: ir.Value
    output: ir.Value
    signature: str
    branches: bool  # forks and meets again around a weight


class _Flow:
    """Who feeds whom in the main graph; a value that a subgraph captures is an input of the node that holds it."""

    def __init__(self, model: ir.Model, attributes: bool) -> None:
        self.graph = model.graph
        self.attributes = attributes
        self.functions = {(function.domain, function.name) for function in model.functions.values()}
        self.nodes = list(model.graph)
        self.position = {node: index for index, node in enumerate(self.nodes)}
        self.inputs = {node: _captured_and_own(node) for node in self.nodes}
        self.readers: dict[ir.Value, list[ir.Node]] = {}
        for node in self.nodes:
            for value in dict.fromkeys(self.inputs[node]):
                self.readers.setdefault(value, []).append(node)
        inputs = (value for value in model.graph.inputs if value.const_value is None)
        self.bits = {value: 1 << index for index, value in enumerate(inputs)}
        self.reach = self._reach()

    def _reach(self) -> dict[ir.Node, int]:
        """For each node the set of graph inputs whose activation gets there, as bits."""
        reach: dict[ir.Node, int] = {}
        for node in self.nodes:
            mask = 0
            for value in self.inputs[node]:
                producer = value.producer()
                if producer is None:
                    mask |= self.bits.get(value, 0)
                elif producer in reach and _carries(producer):
                    mask |= reach[producer]
            reach[node] = mask
        return reach

    def sources(self) -> list[ir.Value]:
        """Graph inputs that reach most nodes."""
        tally = Counter(self.reach.values())
        counts = {value: sum(count for mask, count in tally.items() if mask & bit) for value, bit in self.bits.items()}
        return [value for value in sorted(counts, key=lambda value: -counts[value]) if counts[value]][:_SOURCES]

    def followers(self, node: ir.Node) -> Iterator[ir.Node]:
        """Nodes that read the activation that `node` makes."""
        if _carries(node):
            for value in node.outputs:
                yield from self.readers.get(value, ())

    def adopt(self, owner: dict[ir.Node, int], stream: set[ir.Value]) -> dict[ir.Node, int]:
        """Give a block the nodes off its path that feed it alone, or that only it feeds; `stream` is between blocks."""
        owner = dict(owner)
        for node in reversed(self.nodes):
            if node not in owner and not any(value in stream or value.is_graph_output() for value in node.outputs):
                readers = {owner.get(reader) for value in node.outputs for reader in self.readers.get(value, ())}
                _assign(node, readers, owner)
        for node in self.nodes:
            if node not in owner and stream.isdisjoint(self.inputs[node]):
                read = any(reader in owner for value in node.outputs for reader in self.readers.get(value, ()))
                producers = [value.producer() for value in self.inputs[node]]
                _assign(node, {-1} if read else {owner.get(node) for node in producers if node is not None}, owner)
        return owner


def _assign(node: ir.Node, owners: set[int | None], owner: dict[ir.Node, int]) -> None:
    only = owners.pop() if len(owners) == 1 else None
    if only is not None and only >= 0:
        owner[node] = only


def _stacks(flow: _Flow, source: ir.Value) -> list[list[_Span]]:
    """Stacks along the stream from one graph input, each a list of blocks in order."""
    segments = _segments(flow, source)
    return [
        [_merge(segments[at : at + period]) for at in range(start, start + period * times, period)]
        for start, period, times in _runs(segments)
    ]


def _segments(flow: _Flow, source: ir.Value) -> list[_Span]:
    """The graph between `source` and its deepest output, split at every cut."""
    bit = flow.bits[source]
    reached = [index for index, node in enumerate(flow.nodes) if flow.reach[node] & bit]
    tree = nx.DiGraph()  # of positions, the source is -1
    tree.add_edges_from((-1, flow.position[reader]) for reader in flow.readers.get(source, ()))
    tree.add_edges_from((at, flow.position[reader]) for at in reached for reader in flow.followers(flow.nodes[at]))
    above: dict[int, int] = nx.immediate_dominators(tree, -1)
    depth = {-1: 0}
    for at in reached:
        depth[at] = depth[above[at]] + 1
    made_at = [(flow.position.get(producer), value) for value in flow.graph.outputs if (producer := value.producer())]
    ends = [(depth[at], at, value) for at, value in made_at if at is not None and at in depth]
    if not ends:
        return []
    _, last, end = max(ends, key=lambda candidate: candidate[0])
    path = _path_to(flow, end, bit)
    chain = [last]
    while above[chain[-1]] != -1:
        chain.append(above[chain[-1]])
    values = [source]
    number = {-1: 0}
    for at in reversed(chain):
        outputs = flow.nodes[at].outputs
        live = [value for value in outputs if any(reader in path for reader in flow.readers.get(value, ()))]
        if len(live) == 1 or at == last:
            number[at] = len(values)
            values.append(end if at == last else live[0])
    groups: list[list[ir.Node]] = [[] for _ in values]
    cut = {-1: 0}
    for at in reached:
        if flow.nodes[at] in path:
            before = cut[above[at]]
            cut[at] = number.get(at, before)
            groups[number.get(at, before + 1)].append(flow.nodes[at])
    return [
        _span(flow, tuple(groups[index]), values[index - 1], values[index], path) for index in range(1, len(values))
    ]


def _path_to(flow: _Flow, end: ir.Value, bit: int) -> set[ir.Node]:
    """Nodes on some path from the source (`bit`) to `end`."""
    producer = end.producer()
    path: set[ir.Node] = set()
    stack = [] if producer is None else [producer]
    while stack:
        node = stack.pop()
        if node in path:
            continue
        path.add(node)
        for value in flow.inputs[node]:
            feeder = value.producer()
            if feeder is not None and _carries(feeder) and flow.reach.get(feeder, 0) & bit:
                stack.append(feeder)
    return path


def _span(flow: _Flow, nodes: tuple[ir.Node, ...], start: ir.Value, end: ir.Value, path: set[ir.Node]) -> _Span:
    """Hash the segment from its input to its output; commutative ops do not see the order of their inputs."""
    labels: dict[ir.Value, str] = {start: "in"}
    weighted = False
    for node in nodes:
        parts: list[str] = []
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if value is None:
                parts.append("none")
            elif value in labels:
                parts.append(labels[value])
            elif flow.reach.get(producer, 0) == 0 and producer not in path and not value.is_graph_input():  # type: ignore[arg-type]
                shape = _shape(value)
                weighted |= shape is not None and len(shape) >= 2
                parts.append(f"constant {shape}")
            else:
                parts.append("side")
        if node.op_type in _COMMUTATIVE:
            parts.sort()
        told = sorted(node.attributes.items()) if flow.attributes else ()
        kind = (node.domain, node.op_type, tuple(_attribute(attr) for _, attr in told))
        for index, value in enumerate(node.outputs):
            labels[value] = _digest(f"{kind} {index} {parts}")
    signature = f"{labels[end]}.{len(nodes)}"
    opaque = any((node.domain, node.op_type) in flow.functions for node in nodes)
    return _Span(nodes, start, end, signature, weighted and (len(nodes) > 1 or opaque))


def _merge(spans: Sequence[_Span]) -> _Span:
    nodes = tuple(node for span in spans for node in span.nodes)
    signature = "-".join(span.signature for span in spans)
    return _Span(nodes, spans[0].input, spans[-1].output, signature, any(span.branches for span in spans))


def _runs(segments: Sequence[_Span]) -> list[tuple[int, int, int]]:
    """Where groups of segments repeat: (start, segments a group, groups), the run that covers most nodes first."""
    names = {signature: index for index, signature in enumerate(dict.fromkeys(span.signature for span in segments))}
    ids = np.array([names[span.signature] for span in segments], dtype=np.int64)
    sizes = np.concatenate([[0], np.cumsum([len(span.nodes) for span in segments])])
    branches = np.concatenate([[0], np.cumsum([span.branches for span in segments])])
    runs: list[tuple[int, int, int]] = []
    todo = [(0, len(segments))]
    while todo:
        low, high = todo.pop()
        best = max(_candidates(ids, sizes, branches, low, high), default=None)
        if best is not None:
            _, _, negative_start, period, times = best
            start = -negative_start
            runs.append((start, period, times))
            todo += [(low, start), (start + period * times, high)]
    return sorted(runs)


def _candidates(
    ids: np.ndarray[tuple[int], np.dtype[np.int64]],
    sizes: np.ndarray[tuple[int], np.dtype[np.int64]],
    branches: np.ndarray[tuple[int], np.dtype[np.int64]],
    low: int,
    high: int,
) -> Iterator[tuple[int, int, int, int, int]]:
    """(nodes covered, -period, -start, period, times) of each maximal run in ids[low:high] that branches.

    A run may be cut into groups at any phase; a group best starts where the stream forks.
    """
    part = ids[low:high]
    for period in range(1, min(_LONGEST, len(part) // 2) + 1):
        same = np.concatenate([[False], part[:-period] == part[period:], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        for begin, stop in zip(edges[::2], edges[1::2], strict=True):
            length = int(stop - begin) + period
            times, slack = divmod(length, period)
            first = low + int(begin)
            if times < 2 or branches[first + period] == branches[first]:
                continue
            phases = range(first, first + min(slack, period - 1) + 1)
            start = next((at for at in phases if branches[at + 1] > branches[at]), first)
            yield int(sizes[start + period * times] - sizes[start]), -period, -start, period, times


def _carries(node: ir.Node) -> bool:
    """Whether an activation flows out of the node: not out of shapes and truth values."""
    return node.op_type not in _CARRIES_NOTHING and not any(value.dtype == ir.DataType.BOOL for value in node.outputs)


def _captured_and_own(node: ir.Node) -> list[ir.Value]:
    own = [value for value in node.inputs if value is not None]
    captured = [
        value
        for inner in _nested(node)
        for value in inner.inputs
        if value is not None and value.graph is node.graph and not value.is_initializer()
    ]
    return own + captured


def _nested(node: ir.Node) -> Iterator[ir.Node]:
    """Nodes of the subgraphs that `node` holds, at any depth."""
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            yield from ir.traversal.RecursiveGraphIterator(attr.as_graph())


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _shape(value: ir.Value) -> tuple[str, ...] | None:
    tensor = ir.convenience.get_const_tensor(value)
    shape = value.shape if tensor is None else tensor.shape
    return None if shape is None else tuple(str(dim) for dim in shape)


def _attribute(attr: ir.Attr) -> tuple[str, str]:
    if attr.is_ref() or attr.type == ir.AttributeType.GRAPH:
        inner = () if attr.is_ref() else tuple(node.op_type for node in attr.as_graph())
        return attr.name, str(inner or attr.ref_attr_name)
    if attr.type == ir.AttributeType.TENSOR:
        tensor = attr.as_tensor()
        return attr.name, f"{tensor.dtype}{list(tensor.shape)}"
    return attr.name, str(attr.value)
