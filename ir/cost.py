"""Parameters, bytes, FLOPs and activation traffic of a model, symbolic in its dynamic dimensions.

`cost(model)` gives polynomials such as `9216*batch*sequence*sequence + 21233664*batch*sequence`; with sizes they are
numbers. What a node costs is in `flops.py`; a node that has no rule there, or whose shapes nobody knows, is listed in
`unknown` and left out of the sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from .flops import FLOPS, traffic
from .polynomial import Polynomial, total
from .shapes import Shapes, Visit, infer
from .text import place

_ZERO = Polynomial.of(0)

#: Where the branches of an If are weighed against each other while dimensions are open.
_PROBE = 64


@dataclass(frozen=True)
class NodeCost:
    """One node, within `top` of the main graph (itself, the call of a function, an If), over all its runs.

    parameters, bytes: of the constants it reads that no node before it read. flops: two for a multiply-add. read,
    written: bytes of activations. unknown: why the node could not be counted, empty where it could.
    """

    node: ir.Node
    top: ir.Node
    parameters: int
    bytes: int
    flops: Polynomial
    read: Polynomial
    written: Polynomial
    unknown: str = ""


@dataclass(frozen=True)
class Cost:
    """The sums over `nodes`.

    parameters: elements of the constants of floating-point or at most 8-bit integer type, each stored one counted once;
    shapes, indices and masks are no parameters. bytes: all constants as stored, sub-byte types packed.
    """

    nodes: tuple[NodeCost, ...]
    parameters: int
    bytes: int
    flops: Polynomial
    read: Polynomial
    written: Polynomial
    unknown: tuple[str, ...]

    @property
    def activation_bytes(self) -> Polynomial:
        """Read and written."""
        return self.read + self.written

    def at(self, dimensions: Mapping[str, int]) -> Cost:
        """The same with sizes put in for dimensions."""
        nodes = tuple(
            replace(
                node,
                flops=node.flops.at(dimensions),
                read=node.read.at(dimensions),
                written=node.written.at(dimensions),
            )
            for node in self.nodes
        )
        return _summed(nodes, self.parameters, self.bytes)

    def of(self, nodes: Iterable[ir.Node]) -> Cost:
        """The part that nodes of the main graph cost: a block's, say. Constants count where they are read first."""
        chosen = set(nodes)
        part = tuple(node for node in self.nodes if node.top in chosen)
        return _summed(part, sum(node.parameters for node in part), sum(node.bytes for node in part))

    def __str__(self) -> str:
        rows = [
            f"parameters   {self.parameters:,}",
            f"bytes        {self.bytes:,}",
            f"FLOPs        {self.flops:,}",
            f"activations  {self.read:,} bytes read, {self.written:,} written",
        ]
        if self.unknown:
            rows.append(f"unknown      {len(self.unknown)} nodes not counted: {'; '.join(self.unknown[:3])}")
        return "\n".join(rows)


def cost(model: ir.Model, dimensions: Mapping[str, int] | None = None) -> Cost:
    """What the model costs to store and to run once.

    Dynamic dimensions not in `dimensions` stay symbolic. Of the branches of an If the dearer one counts; a Loop or Scan
    counts its body once for each trip and is unknown where only the data tell how many. Raises OptionError for a
    dimension that no input has.
    """
    counter = _Counter()
    infer(model, dimensions, counter.add)
    nodes = tuple(entry.cost for entry in _taken(counter.entries, 0))
    tensors = list(_constants(model))
    return _summed(nodes, sum(map(_parameters, tensors)), sum(tensor.nbytes for tensor in tensors))


@dataclass(frozen=True)
class _Entry:
    cost: NodeCost
    branch: tuple[tuple[ir.Node, str], ...]


class _Counter:
    """Collects the cost of each node that the walk over the shapes meets."""

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self._read: set[ir.Value] = set()

    def add(self, shapes: Shapes, visit: Visit) -> None:
        flops, read, written, unknown = _ZERO, _ZERO, _ZERO, ""
        rule = FLOPS.get((visit.node.domain, visit.node.op_type))
        if rule is None:
            unknown = "no rule"
        elif visit.times is None:
            unknown = "the number of trips depends on the data"
        else:
            try:
                flops = rule(visit.node, shapes) * visit.times
                read, written = (amount * visit.times for amount in traffic(visit.node, shapes))
            except (IndexError, KeyError, TypeError, ValueError) as error:
                unknown = str(error)
        tensors = [tensor for value in visit.node.inputs if (tensor := self._first_read(value)) is not None]
        parameters, stored = sum(map(_parameters, tensors)), sum(tensor.nbytes for tensor in tensors)
        told = f"{place(visit.node)}: {unknown}" if unknown else ""
        spent = NodeCost(visit.node, visit.top, parameters, stored, flops, read, written, told)
        self.entries.append(_Entry(spent, visit.branch))

    def _first_read(self, value: ir.Value | None) -> ir.TensorProtocol | None:
        tensor = None if value is None or value in self._read else ir.convenience.get_const_tensor(value)
        if value is not None and tensor is not None:
            self._read.add(value)
        return tensor


def _taken(entries: list[_Entry], depth: int) -> Iterator[_Entry]:
    """The entries outside of branches, and of each If those of its dearer branch."""
    branches: dict[ir.Node, dict[str, list[_Entry]]] = {}
    for entry in entries:
        if len(entry.branch) <= depth:
            yield entry
        else:
            holder, name = entry.branch[depth]
            branches.setdefault(holder, {}).setdefault(name, []).append(entry)
    for choices in branches.values():
        yield from max((list(_taken(inside, depth + 1)) for inside in choices.values()), key=_weight)


def _weight(entries: list[_Entry]) -> int:
    flops = total(entry.cost.flops for entry in entries)
    return int(flops.at(dict.fromkeys(flops.names, _PROBE)))


def _summed(nodes: tuple[NodeCost, ...], parameters: int, stored: int) -> Cost:
    return Cost(
        nodes,
        parameters,
        stored,
        total(node.flops for node in nodes),
        total(node.read for node in nodes),
        total(node.written for node in nodes),
        tuple(node.unknown for node in nodes if node.unknown),
    )


def _constants(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """Every stored tensor: initializers of all graphs, values of Constant nodes, in functions too."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    scopes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for scope in scopes:
        for node in ir.traversal.RecursiveGraphIterator(scope):
            if node.op_type == "Constant" and node.domain == "":
                tensor = ir.convenience.get_const_tensor(node.outputs[0])
                if tensor is not None:
                    yield tensor


def _parameters(tensor: ir.TensorProtocol) -> int:
    dtype = tensor.dtype
    counted = dtype.is_floating_point() or (dtype.is_integer() and dtype.bitwidth <= 8)
    return tensor.size if counted else 0
