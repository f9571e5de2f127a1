"""What differs between two graphs, structure first: interface, opsets, ops, nodes, weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir

from ..ir.level import Port, Signature
from ..ir.provenance import KEY, sources
from ..ir.text import format_node, place
from ..passes.report import Size
from .align import Alignment, Fingerprints, align, attribute


@dataclass(frozen=True)
class NodeNote:
    """A node that is in one graph only; `stands_for` are the source nodes it was made from, where that is recorded."""

    line: str
    stands_for: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeChange:
    """Two nodes that correspond and differ: what differs, and both lines."""

    place: str
    what: tuple[str, ...]
    before: str
    after: str


@dataclass(frozen=True)
class WeightChange:
    """An initializer that is in one model only, or differs. error: relative L2, for equal dtype and shape."""

    name: str
    before: str | None
    after: str | None
    bytes: tuple[int, int]
    error: float | None = None


@dataclass(frozen=True)
class Difference:
    """Everything that differs, empty where nothing does; names of inner values and nodes are no difference.

    ops: count of each op in both, where it differs. equal: pairs of nodes without a difference.
    """

    sizes: tuple[Size, Size]
    interface: tuple[str, ...]
    opsets: tuple[str, ...]
    ops: Mapping[str, tuple[int, int]]
    equal: int
    changed: tuple[NodeChange, ...]
    removed: tuple[NodeNote, ...]
    added: tuple[NodeNote, ...]
    weights: tuple[WeightChange, ...]

    @property
    def same(self) -> bool:
        parts = (self.interface, self.opsets, self.ops, self.changed, self.removed, self.added, self.weights)
        return not any(parts)


def diff(a: onnx_ir.Model, b: onnx_ir.Model) -> Difference:
    """Compare two models as graphs; both are only read."""
    prints = Fingerprints(a), Fingerprints(b)
    found = align(*prints)
    partners = _Partners(found, prints, (a, b))
    changed = [change for pair in found.pairs if (change := _changed(*pair, prints, partners)) is not None]
    return Difference(
        sizes=(Size.of(a), Size.of(b)),
        interface=tuple(_interface(Signature.of(a), Signature.of(b))),
        opsets=tuple(_opsets(a.opset_imports, b.opset_imports)),
        ops=_ops(prints[0].nodes, prints[1].nodes),
        equal=len(found.pairs) - len(changed),
        changed=tuple(changed),
        removed=tuple(map(_note, found.removed)),
        added=tuple(map(_note, found.added)),
        weights=tuple(_weights(partners)),
    )


class _Partners:
    """Which value of `b` each value of `a` corresponds to, given the nodes that do."""

    def __init__(
        self,
        found: Alignment,
        prints: tuple[Fingerprints, Fingerprints],
        models: tuple[onnx_ir.Model, onnx_ir.Model],
    ) -> None:
        self._prints = prints
        self._value = {
            x: y for first, second in found.pairs for x, y in zip(first.outputs, second.outputs, strict=False)
        }
        self.weights = tuple({value.name or "": value for value in _initializers(model)} for model in models)
        self.pairs: dict[str, str] = {}
        self._by_content()
        self._by_reader(found)
        before, after = self._free()
        self.pairs.update({name: name for name in before if name in after})

    def same(self, x: onnx_ir.Value | None, y: onnx_ir.Value | None) -> bool:
        """Whether two inputs are one value: made by nodes that correspond, the same graph input, or paired weights."""
        if x is None or y is None:
            return x is y
        if x in self._value:
            return self._value[x] is y
        if x.is_initializer() and y.is_initializer():
            return self.pairs.get(x.name or "") == y.name
        return self._prints[0].value(x) == self._prints[1].value(y)

    def equal(self, x: onnx_ir.Value, y: onnx_ir.Value) -> bool:
        """Whether two weights hold the same numbers."""
        return self._prints[0].value(x) == self._prints[1].value(y)

    def _free(self) -> tuple[dict[str, onnx_ir.Value], dict[str, onnx_ir.Value]]:
        before, after = self.weights
        taken = set(self.pairs.values())
        return (
            {name: value for name, value in before.items() if name not in self.pairs},
            {name: value for name, value in after.items() if name not in taken},
        )

    def _by_content(self) -> None:
        before, after = self.weights
        prints = [{name: self._prints[i].value(value) for name, value in self.weights[i].items()} for i in (0, 1)]
        self.pairs.update({name: name for name in before if name in after and prints[0][name] == prints[1][name]})
        before, after = self._free()
        free = {prints[1][name]: name for name in after}
        for name in before:
            if (partner := free.pop(prints[0][name], None)) is not None:
                self.pairs[name] = partner

    def _by_reader(self, found: Alignment) -> None:
        before, after = self._free()
        for first, second in found.pairs:
            for x, y in zip(first.inputs, second.inputs, strict=False):
                names = (x.name or "" if x is not None else ""), (y.name or "" if y is not None else "")
                if names[0] in before and names[1] in after:
                    self.pairs[names[0]] = names[1]
                    del before[names[0]], after[names[1]]


def _initializers(model: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    for graph in (model.graph, *model.graph.subgraphs()):
        yield from (value for value in graph.initializers.values() if value.const_value is not None)


def _changed(
    a: onnx_ir.Node, b: onnx_ir.Node, prints: tuple[Fingerprints, Fingerprints], partners: _Partners
) -> NodeChange | None:
    what = [*_attributes(a, b, prints), *_inputs(a, b, partners)]
    if len(a.outputs) != len(b.outputs):
        what.append(f"outputs: {len(a.outputs)} -> {len(b.outputs)}")
    return NodeChange(place(a), tuple(what), format_node(a), format_node(b)) if what else None


def _attributes(a: onnx_ir.Node, b: onnx_ir.Node, prints: tuple[Fingerprints, Fingerprints]) -> Iterator[str]:
    for name in sorted({*a.attributes, *b.attributes}):
        before = attribute(a.attributes[name], prints[0]) if name in a.attributes else None
        after = attribute(b.attributes[name], prints[1]) if name in b.attributes else None
        if before != after:
            yield f"{_short(before, name)} -> {_short(after, name)}"


def _short(text: str | None, name: str) -> str:
    if text is None:
        return f"no {name}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _inputs(a: onnx_ir.Node, b: onnx_ir.Node, partners: _Partners) -> Iterator[str]:
    for index in range(max(len(a.inputs), len(b.inputs))):
        x = a.inputs[index] if index < len(a.inputs) else None
        y = b.inputs[index] if index < len(b.inputs) else None
        if not partners.same(x, y):
            yield f"input {index}: {_origin(x)} -> {_origin(y)}"


def _weights(partners: _Partners) -> Iterator[WeightChange]:
    before, after = partners.weights
    for name, value in before.items():
        partner = partners.pairs.get(name)
        if partner is None:
            yield WeightChange(name, _type(value), None, (_bytes(value), 0))
        elif not partners.equal(value, after[partner]):
            other = after[partner]
            label = name if name == partner else f"{name} -> {partner}"
            yield WeightChange(
                label, _type(value), _type(other), (_bytes(value), _bytes(other)), _relative_l2(value, other)
            )
    paired = set(partners.pairs.values())
    for name, value in after.items():
        if name not in paired:
            yield WeightChange(name, None, _type(value), (0, _bytes(value)))


def _relative_l2(a: onnx_ir.Value, b: onnx_ir.Value) -> float | None:
    first, second = a.const_value, b.const_value
    if first is None or second is None or first.dtype != second.dtype or list(first.shape) != list(second.shape):
        return None
    if not first.dtype.is_floating_point():
        return None
    x = first.numpy().astype(np.float64)
    norm = float(np.linalg.norm(x))
    error = float(np.linalg.norm(second.numpy().astype(np.float64) - x))
    return error / norm if norm else (0.0 if error == 0.0 else float("inf"))


def _interface(a: Signature, b: Signature) -> Iterator[str]:
    for kind, before, after in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        yield from _ports(kind, {port.name: port for port in before}, {port.name: port for port in after})
        names = [[port.name for port in side] for side in (before, after)]
        if names[0] != names[1] and sorted(names[0]) == sorted(names[1]):
            yield f"{kind}s in another order: {', '.join(names[0])} -> {', '.join(names[1])}"


def _ports(kind: str, before: Mapping[str, Port], after: Mapping[str, Port]) -> Iterator[str]:
    for name in {**before, **after}:
        if name not in after:
            yield f"{kind} removed: {before[name]}"
        elif name not in before:
            yield f"{kind} added: {after[name]}"
        elif before[name] != after[name]:
            yield f"{kind} changed: {before[name]} -> {after[name]}"


def _opsets(a: Mapping[str, int], b: Mapping[str, int]) -> Iterator[str]:
    for domain in sorted({*a, *b}):
        if a.get(domain) != b.get(domain):
            yield f"{domain or 'ai.onnx'}: {a.get(domain, 'not imported')} -> {b.get(domain, 'not imported')}"


def _ops(a: Sequence[onnx_ir.Node], b: Sequence[onnx_ir.Node]) -> dict[str, tuple[int, int]]:
    before, after = (Counter(f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in side) for side in (a, b))
    return {op: (before[op], after[op]) for op in sorted({*before, *after}) if before[op] != after[op]}


def _note(node: onnx_ir.Node) -> NodeNote:
    return NodeNote(format_node(node), sources(node) if KEY in node.metadata_props else ())


def _origin(value: onnx_ir.Value | None) -> str:
    if value is None:
        return "none"
    producer = value.producer()
    return f"{value.name or '?'} ({_type(value) if producer is None else f'of {producer.op_type}'})"


def _type(value: onnx_ir.Value) -> str:
    tensor = value.const_value
    return "an input" if tensor is None else f"{tensor.dtype.name.lower()}[{', '.join(map(str, tensor.shape))}]"


def _bytes(value: onnx_ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.nbytes
