"""Which node of one graph is which of another.

In this order: the same computation (op, attributes, everything upstream, weights by content); the same output name; the
same node name; the same source nodes; and for what is left, the same op in the same order.
"""

from __future__ import annotations

import difflib
import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ..ir.provenance import sources

#: Left-over nodes beyond which they are not aligned by order: that step is quadratic.
_ORDERED = 4000

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
    partner: dict[onnx_ir.Node, onnx_ir.Node] = {}
    left, right = a.nodes, b.nodes
    for key in _KEYS:
        found = _paired(((node, key(a, node)) for node in left), ((node, key(b, node)) for node in right))
        partner.update(found)
        taken = set(found.values())
        left = [node for node in left if node not in found]
        right = [node for node in right if node not in taken]
    found = _in_order(left, right)
    partner.update(found)
    taken = set(found.values())
    return Alignment(
        tuple((node, partner[node]) for node in a.nodes if node in partner),
        tuple(node for node in left if node not in found),
        tuple(node for node in right if node not in taken),
    )


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


_KEYS: tuple[Key, ...] = (_same_and_named, _same, _same_output, _same_name, _same_sources)


def _paired(
    left: Iterable[tuple[onnx_ir.Node, Hashable | None]], right: Iterable[tuple[onnx_ir.Node, Hashable | None]]
) -> dict[onnx_ir.Node, onnx_ir.Node]:
    waiting: dict[Hashable, deque[onnx_ir.Node]] = defaultdict(deque)
    for node, key in right:
        waiting[key].append(node)
    return {node: waiting[key].popleft() for node, key in left if key is not None and waiting.get(key)}


def _in_order(left: list[onnx_ir.Node], right: list[onnx_ir.Node]) -> dict[onnx_ir.Node, onnx_ir.Node]:
    if max(len(left), len(right)) > _ORDERED:
        return {}
    ops = [[(node.domain, node.op_type) for node in side] for side in (left, right)]
    blocks = difflib.SequenceMatcher(None, ops[0], ops[1], autojunk=False).get_matching_blocks()
    return {left[block.a + i]: right[block.b + i] for block in blocks for i in range(block.size)}


def _digest(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=12).hexdigest()
