"""Surgery: the few moves that every rewrite is made of, keeping names, types, provenance and order intact."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeGuard

import numpy as np
import onnx_ir as ir

from ..ir.constants import Array as Array
from ..ir.constants import constant_of as constant_of
from ..ir.constants import integers_of as integers_of
from ..ir.constants import is_constant as is_constant
from ..ir.constants import scalar_of as scalar_of
from ..ir.provenance import inherit
from ..ir.walk import every_graph, every_node, held_graphs, may_hold_graphs

Attribute = int | float | str | Sequence[int] | Sequence[float] | ir.TensorProtocol | ir.Attr | None


class Declaration(Protocol):
    """What a model must declare before nodes can call it (`passes/functions.py`)."""

    def declare(self, model: ir.Model) -> None:
        """Add it to a model that does not have it yet."""


@dataclass
class Ledger:
    """What surgery remembers about one graph: the names its values bear or bore, and the nodes placed since last asked
    with what they call.

    It lives in the graph's `meta`, which is never saved; a clone gets one of its own.
    """

    graph: ir.Graph
    names: set[str]
    placed: list[ir.Node] = field(default_factory=list)
    functions: list[Declaration] = field(default_factory=list)
    _order: dict[ir.Node, tuple[int, ...]] = field(default_factory=dict, repr=False)
    _counts: dict[str, int] = field(default_factory=dict, repr=False)
    _spared: dict[ir.Value, int] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, graph: ir.Graph) -> Ledger:
        found = graph.meta.get(_LEDGER)
        if isinstance(found, cls) and found.graph is graph:
            return found
        values = (*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs))
        made = graph.meta[_LEDGER] = cls(graph, {value.name for value in values if value.name})
        return made

    def unique(self, name: str) -> str:
        """`name`, or the first of `name_1`, `name_2`, ... that is free; it is taken from now on."""
        found, count = name, self._counts.get(name, 0)
        while found in self.names:
            count += 1
            found = f"{name}_{count}"
        self.names.add(found)
        self._counts[name] = count
        return found

    def earliest(self, nodes: Sequence[ir.Node]) -> ir.Node:
        """The first of these nodes in the graph. Positions are counted once and kept as nodes are placed."""
        if any(node not in self._order for node in nodes):
            self._order = {node: (index, _LAST) for index, node in enumerate(self.graph)}
        return min(nodes, key=self._order.__getitem__)

    def place(self, nodes: Sequence[ir.Node], before: ir.Node) -> None:
        """Put nodes into the graph, and remember where."""
        self.graph.insert_before(before, nodes)
        self.placed += nodes
        at = self._order.get(before)
        if at is not None:
            # behind what was put there earlier, and before the node itself
            start = len(self._order)
            self._order |= {node: (*at[:-1], start + index, _LAST) for index, node in enumerate(nodes)}

    def forget_order(self) -> None:
        """Count positions and readers anew when next asked: others may have moved nodes."""
        self._order, self._spared = {}, {}

    def release(self, value: ir.Value) -> None:
        """Drop an initializer of this graph that one reader let go, if it was the last.

        Who reads it is a copy of all readers: what many read is asked again when few can be left.
        """
        left = self._spared.get(value, 0) - 1
        if left > 0:
            self._spared[value] = left
        elif not drop(value):
            self._spared[value] = len(value.uses()) - _FEW

    def take_placed(self) -> list[ir.Node]:
        """The nodes placed since the last call that are still in the graph."""
        taken, self.placed = self.placed, []
        return [node for node in taken if node.graph is self.graph]

    def take_functions(self) -> list[Declaration]:
        """What the nodes placed since the last call call."""
        taken, self.functions = self.functions, []
        return taken


_LEDGER = "tersor.ledger"
#: Larger than any position.
_LAST = 1 << 62
#: A value that so many read is asked for its readers whenever one lets it go.
_FEW = 64


class Tape:
    """New nodes, recorded in the order they are made, waiting to be put in place by `replace`.

    >>> tape = Tape()
    >>> x = ir.Value(name="x")
    >>> tape("Relu", x).producer().op_type
    'Relu'
    """

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.weights: list[ir.Value] = []
        self.functions: list[Declaration] = []

    def __call__(self, op_type: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute) -> ir.Value:
        """Record a node of one output and give that output."""
        return self.node(op_type, inputs, attributes, domain=domain).outputs[0]

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        domain: str = "",
        outputs: int = 1,
    ) -> ir.Node:
        """Record a node. Attributes that are None are left out, and so are inputs behind the last that is given."""
        given = {name: value for name, value in (attributes or {}).items() if value is not None}
        last = max((index for index, value in enumerate(inputs, 1) if value is not None), default=0)
        node = ir.node(op_type, inputs[:last], given, domain=domain, num_outputs=outputs)
        self.nodes.append(node)
        return node

    def constant(self, array: Array | Sequence[int] | int | float, name: str = "constant") -> ir.Value:
        """An initializer that holds `array`; integers become int64 and Python floats float32."""
        value = _initializer(_typed(array), name)
        self.constants.append(value)
        return value

    def weight(self, array: Array, name: str) -> ir.Value:
        """An initializer that keeps the name it is given: weights are spoken of by name."""
        value = _initializer(array, name)
        self.weights.append(value)
        return value

    def lazy(self, tensor: ir.TensorProtocol) -> ir.Value:
        """An initializer whose bytes are computed when they are read."""
        value = _stored(tensor)
        self.constants.append(value)
        return value

    def derived(
        self, name: str, shape: Sequence[int], dtype: ir.DataType, compute: Callable[[], Array], *, weight: bool = False
    ) -> ir.Value:
        """An initializer of numbers that are computed when they are read; a weight keeps the name it is given."""
        value = _stored(derived(name, shape, dtype, compute))
        (self.weights if weight else self.constants).append(value)
        return value


def derived(name: str, shape: Sequence[int], dtype: ir.DataType, compute: Callable[[], Array]) -> ir.LazyTensor:
    """A tensor of numbers that are computed when its bytes are read, anew each time: nobody has to hold them.

    What `compute` gives is laid out in order, and becomes `dtype` where it is another. It may give the numbers of a
    type of four bits as any integers.

    >>> derived("w", [2], ir.DataType.FLOAT16, lambda: np.arange(2)).numpy()
    array([0., 1.], dtype=float16)
    """

    def evaluate() -> ir.TensorProtocol:
        array = np.asarray(compute(), dtype=dtype.numpy(), order="C")
        assert array.shape == tuple(shape), f"{name} has become {array.shape}, not {tuple(shape)}"
        return ir.Tensor(array, dtype=dtype, name=name)

    return ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(shape), name=name)


def replace(tape: Tape, old: Sequence[ir.Value], new: Sequence[ir.Value], *, matched: Iterable[ir.Node] = ()) -> None:
    """Put the tape's nodes where `old` was produced, let them stand for it, and sweep what became dead.

    The readers of each old value, graph outputs included, read the new value instead, which takes over its name, type
    and shape. What lies between is named after the first old value. `matched` names every node the new ones stand for;
    without it, the producers of `old`.
    """
    producers = [node for node in (value.producer() for value in old) if node is not None]
    stood_for = [*dict.fromkeys([*matched, *producers])]
    graph = producers[0].graph
    assert graph is not None
    made = _place(tape, graph, new, _earliest(producers), old[0].name)
    for before, after in zip(old, new, strict=True):
        _hand_over(before, after, made)
    inherit(tape.nodes, [*stood_for, *sweep(stood_for)], at=stood_for)


def reroute(tape: Tape, node: ir.Node, old: ir.Value, new: ir.Value) -> None:
    """Put the tape's nodes before `node`, which reads `new` where it read `old`; `old` goes when nobody else reads it.

    The node stays itself; what feeds it stands for it.
    """
    reroute_all(tape, [node], old, new)


def reroute_all(tape: Tape, nodes: Sequence[ir.Node], old: ir.Value, new: ir.Value) -> None:
    """The same for several nodes of one graph: the tape's go before the first."""
    first = _earliest(nodes)
    assert first.graph is not None
    _place(tape, first.graph, [], first, next((value.name for value in first.outputs if value.name), first.name))
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is old:
                node.replace_input_with(index, new)
    inherit(tape.nodes, nodes)
    drop(old)


def rewrite_constant(node: ir.Node, value: ir.Value, array: Array) -> ir.Value:
    """Let a node read `array` where it reads the constant `value`, by the same name where nobody else reads that."""
    if len(value.uses()) == 1 and not value.is_graph_output():
        value.const_value, value.shape = ir.Tensor(array, name=value.name), ir.Shape(array.shape)
        return value
    tape = Tape()
    made = tape.weight(array, value.name or "constant")
    reroute(tape, node, value, made)
    return made


def declare_functions(model: ir.Model) -> None:
    """Declare in the model what the nodes placed in its graphs since last time call."""
    for graph in every_graph(model.graph):
        for function in Ledger.of(graph).take_functions():
            function.declare(model)


def sweep(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """Remove those of `nodes` whose outputs nobody reads, then what fed only them; give what was removed."""
    removed = detach(nodes)
    remove(removed)
    return removed


def detach(nodes: Iterable[ir.Node]) -> list[ir.Node]:
    """What `sweep` removes, reading nothing any more but still in its place: it is for `remove`."""
    stack = list(nodes)
    dead: dict[ir.Node, None] = {}
    while stack:
        node = stack.pop()
        if node.graph is None or node in dead:
            continue
        if any(value.uses() or value.is_graph_output() for value in node.outputs):
            continue
        inside = [node, *_inside(node)]
        feeding = [value for inner in inside for value in inner.inputs if value is not None]
        for inner in inside:
            _let_go(inner)
        dead[node] = None
        for value in feeding:
            producer = value.producer()
            if producer is not None:
                stack.append(producer)
            elif isinstance(value.graph, ir.Graph):
                Ledger.of(value.graph).release(value)
    return list(dead)


def remove(nodes: Iterable[ir.Node]) -> None:
    """Take nodes that read nothing out of their graphs: all of a graph at once, for each time goes over its outputs."""
    of: dict[ir.Graph | ir.Function, list[ir.Node]] = {}
    for node in nodes:
        if node.graph is not None:
            of.setdefault(node.graph, []).append(node)
    for graph, members in of.items():
        graph.remove(members)


def drop(value: ir.Value) -> bool:
    """Remove an initializer that nobody reads any more; whether it was one."""
    unread = not value.uses() and not value.is_graph_output() and not value.is_graph_input()
    if not unread or not value.is_initializer() or value.graph is None or value.name is None:
        return False
    del value.graph.initializers[value.name]
    return True


def stand_in(before: ir.Value, after: ir.Value) -> None:
    """Let `after`, which was there already, bear the name of `before` and the type and shape stated for it."""
    after.type, after.shape = before.type or after.type, before.shape if before.shape is not None else after.shape
    take_name(before, after)


def take_name(before: ir.Value, after: ir.Value) -> None:
    """Let `after` bear the name of `before`, which is about to go."""
    name, before.name = before.name, None
    after.name = name


def is_op(node: ir.Node | None, *op_types: str) -> TypeGuard[ir.Node]:
    """Whether a node is one of these ops of ai.onnx."""
    return node is not None and not node.domain and node.op_type in op_types


def only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`, or None when there are several or it is a graph output."""
    readers = value.consumers()
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None


def attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute or its default."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes of the subgraphs that a node holds, however deep."""
    for held in held_graphs(node) if may_hold_graphs(node) else ():
        yield from every_node(held)


def _let_go(node: ir.Node) -> None:
    """Stop reading: a node of a dead subgraph must not keep alive what it read from outside."""
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)


def _initializer(array: Array, name: str) -> ir.Value:
    return _stored(ir.Tensor(array, name=name))


def _stored(tensor: ir.TensorProtocol) -> ir.Value:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)


def _typed(array: Array | Sequence[int] | int | float) -> Array:
    if isinstance(array, np.ndarray):
        return array
    given = np.asarray(array)
    return given.astype(np.float32 if given.dtype.kind == "f" and given.size else np.int64)


def _earliest(nodes: Sequence[ir.Node]) -> ir.Node:
    if len(nodes) == 1:
        return nodes[0]
    graph = nodes[0].graph
    assert isinstance(graph, ir.Graph)
    return Ledger.of(graph).earliest(nodes)


def _place(tape: Tape, graph: ir.Graph, new: Sequence[ir.Value], before: ir.Node, owner: str | None) -> set[ir.Value]:
    """Put nodes and constants into the graph, named after their owner except for the `new` values; give the outputs."""
    ledger = Ledger.of(graph)
    for value in tape.weights:
        value.name = ledger.unique(value.name or "weight")
        graph.register_initializer(value)
    for value in tape.constants:
        value.name = ledger.unique(f"{owner}/{value.name}")
        graph.register_initializer(value)
    for node in tape.nodes:
        for value in node.outputs:
            if value not in new and value.name is None:
                value.name = ledger.unique(f"{owner}/{node.op_type}")
    ledger.place(tape.nodes, before)
    ledger.functions += tape.functions
    return {value for node in tape.nodes for value in node.outputs}


def _hand_over(before: ir.Value, after: ir.Value, made: set[ir.Value]) -> None:
    if after in made:
        after.type = after.type or before.type
        after.shape = before.shape if before.shape is not None else after.shape
    before.replace_all_uses_with(after, replace_graph_outputs=True)
    if after in made:
        take_name(before, after)
