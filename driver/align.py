"""Which node of one graph is which of another.

In this order: the same computation (op, attributes, everything upstream, weights by content); the same op on the same
weights; the same op on values that correspond; the same output name, node name or source nodes; and for what is left,
the same op in the same order.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ..ir.provenance import sources

#: Left-over nodes beyond which they are not aligned by order: that step is quadratic.
_ORDERED = 4000

#: Elements from which on a constant tells nodes apart.
_WEIGHT = 16

Key = Callable[["Fingerprints", onnx_ir.Node], Hashable | None]


@dataclass(frozen=True)
class Alignment:
    """Nodes that correspond, and those that are in one graph only; all in graph order."""

    pairs: tuple[tuple[onnx_ir.Node, onnx_ir.Node], ...]
    removed: tuple[onnx_ir.Node, ...]
    added: tuple[onnx_ir.Node, ...]


class Fingerprints:
    """Digests of a model's values: of the computation behind each, not of its name."""

    def __init__(self, model: onnx_ir.Model) -> None:
        self.nodes = list(model.graph.all_nodes())
        self._inputs = {value: f"input {value.name}" for value in model.graph.inputs}
        self._tensors: dict[int, str] = {}
        self._nodes: dict[onnx_ir.Node, str] = {}
        for node in self.nodes:
            parts = [f"{node.domain}.{node.op_type}", *(attribute(attr, self) for attr in _attributes(node))]
            self._nodes[node] = _digest([*parts, *("" if v is None else self.value(v) for v in node.inputs)])

    def node(self, node: onnx_ir.Node) -> str:
        return self._nodes[node]

    def value(self, value: onnx_ir.Value) -> str:
        """Equal for values that are computed alike from the same inputs and weights."""
        producer = value.producer()
        if producer is not None:
            return f"{self._nodes.get(producer, 'later')}.{list(producer.outputs).index(value)}"
        if value in self._inputs:
            return self._inputs[value]
        return "inner" if value.const_value is None else self.tensor(value.const_value)

    def tensor(self, tensor: onnx_ir.TensorProtocol) -> str:
        """Equal for tensors of one dtype, shape and content."""
        if id(tensor) not in self._tensors:
            held = hashlib.blake2b(digest_size=12)
            if tensor.dtype == onnx_ir.DataType.STRING:
                held.update(repr(tensor.numpy().tolist()).encode())
            else:
                held.update(np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8).data)
            self._tensors[id(tensor)] = f"{tensor.dtype.name} {list(tensor.shape)} {held.hexdigest()}"
        return self._tensors[id(tensor)]


def align(a: Fingerprints, b: Fingerprints) -> Alignment:
    """Pair the nodes of two graphs. Linear in the nodes, but for the leftovers that are aligned by order."""
    matching = _Matching(a, b)
    for key in _BY_CONTENT:
        matching.by_key(key)
    matching.by_inputs()
    for key in _BY_NAME:
        matching.by_key(key)
    matching.by_inputs()
    matching.in_order()
    return Alignment(
        tuple((node, matching.partner[node]) for node in a.nodes if node in matching.partner),
        tuple(matching.left),
        tuple(matching.right),
    )


class _Matching:
    """The pairs so far, and what is left on both sides in graph order."""

    def __init__(self, a: Fingerprints, b: Fingerprints) -> None:
        self.prints = a, b
        self.partner: dict[onnx_ir.Node, onnx_ir.Node] = {}
        self.left, self.right = a.nodes, b.nodes

    def by_key(self, key: Key) -> None:
        """Pair left-over nodes of equal key, in graph order."""
        waiting: dict[Hashable, deque[onnx_ir.Node]] = defaultdict(deque)
        for node in self.right:
            waiting[key(self.prints[1], node)].append(node)
        keyed = ((node, key(self.prints[0], node)) for node in self.left)
        self._take({node: waiting[mark].popleft() for node, mark in keyed if mark is not None and waiting.get(mark)})

    def by_inputs(self) -> None:
        """Pair left-over nodes of one op whose inputs correspond; a pair makes the inputs of its readers correspond."""
        values = {x: y for pair in self.partner.items() for x, y in _outputs(*pair)}
        waiting: dict[Hashable, deque[onnx_ir.Node]] = defaultdict(deque)
        for node in self.right:
            waiting[self._reads(node, 1, {})].append(node)
        found: dict[onnx_ir.Node, onnx_ir.Node] = {}
        for node in self.left:
            known = any(value in values for value in node.inputs)
            if known and (candidates := waiting.get(self._reads(node, 0, values))):
                found[node] = candidates.popleft()
                values.update(_outputs(node, found[node]))
        self._take(found)

    def in_order(self) -> None:
        """Pair what is left where the same ops stand in the same order."""
        if max(len(self.left), len(self.right)) > _ORDERED:
            return
        ops = [[(node.domain, node.op_type) for node in side] for side in (self.left, self.right)]
        runs = difflib.SequenceMatcher(None, ops[0], ops[1], autojunk=False).get_matching_blocks()
        self._take({self.left[run.a + i]: self.right[run.b + i] for run in runs for i in range(run.size)})

    def _reads(
        self, node: onnx_ir.Node, side: int, values: Mapping[onnx_ir.Value, onnx_ir.Value]
    ) -> tuple[Hashable, ...]:
        """The op and what it reads: computed values as the second graph knows them, constants and inputs by content."""
        read = (
            None if value is None else values.get(value, value) if value.producer() else self.prints[side].value(value)
            for value in node.inputs
        )
        return node.domain, node.op_type, *read

    def _take(self, found: Mapping[onnx_ir.Node, onnx_ir.Node]) -> None:
        taken = set(found.values())
        self.partner.update(found)
        self.left = [node for node in self.left if node not in found]
        self.right = [node for node in self.right if node not in taken]


def attribute(attr: onnx_ir.Attr, prints: Fingerprints) -> str:
    """An attribute as text that is equal for equal attributes."""
    if attr.is_ref():
        return f"{attr.name}=@{attr.ref_attr_name}"
    if attr.type == onnx_ir.AttributeType.TENSOR:
        return f"{attr.name}={prints.tensor(attr.as_tensor())}"
    if attr.type == onnx_ir.AttributeType.GRAPH:
        return f"{attr.name}=<{', '.join(node.op_type for node in attr.as_graph())}>"
    return f"{attr.name}={attr.value}"


def _attributes(node: onnx_ir.Node) -> Iterable[onnx_ir.Attr]:
    return (node.attributes[name] for name in sorted(node.attributes))


def _output(node: onnx_ir.Node) -> str | None:
    return next((value.name for value in node.outputs if value.name), None)


def _same_and_named(prints: Fingerprints, node: onnx_ir.Node) -> Hashable | None:
    return prints.node(node), _output(node)


def _same(prints: Fingerprints, node: onnx_ir.Node) -> Hashable | None:
    return prints.node(node)


def _same_output(_: Fingerprints, node: onnx_ir.Node) -> Hashable | None:
    name = _output(node)
    return None if name is None else (node.domain, node.op_type, name)


def _same_name(_: Fingerprints, node: onnx_ir.Node) -> Hashable | None:
    return (node.domain, node.op_type, node.name) if node.name else None


def _same_sources(_: Fingerprints, node: onnx_ir.Node) -> Hashable | None:
    found = frozenset(sources(node))
    return (node.domain, node.op_type, found) if found else None


def _same_weights(prints: Fingerprints, node: onnx_ir.Node) -> Hashable | None:
    tensors = [None if value is None or value.producer() is not None else value.const_value for value in node.inputs]
    if not any(tensor is not None and tensor.size >= _WEIGHT for tensor in tensors):
        return None
    return node.domain, node.op_type, tuple("" if tensor is None else prints.tensor(tensor) for tensor in tensors)


_BY_CONTENT: tuple[Key, ...] = (_same_and_named, _same, _same_weights)
_BY_NAME: tuple[Key, ...] = (_same_output, _same_name, _same_sources)


def _outputs(a: onnx_ir.Node, b: onnx_ir.Node) -> Iterable[tuple[onnx_ir.Value, onnx_ir.Value]]:
    return zip(a.outputs, b.outputs, strict=False)


def _digest(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()
