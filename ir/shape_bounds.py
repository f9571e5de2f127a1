"""What a model takes for granted of its sizes by running at all.

    Slice(table [1, 512], end=sequence)     [1, Min(512, sequence)]
    Add(words [batch, sequence, 384], it)   runs only where the two are equal: sequence <= 512

Of two dimensions that meet in a broadcast, either may be 1. Min(512, sequence) is 1 only where sequence is 1, so that
the two are equal wherever the model runs. What is joined along another axis is equal in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import pairwise

import onnx_ir as ir

from .polynomial import Polynomial, smaller
from .shape_compute import ELEMENTWISE, limits
from .shape_scope import Dims
from .walk import held_graphs

Dim = Polynomial | None
_TEACHING = frozenset({*ELEMENTWISE, "Concat"})


class Bounds:
    """Formulas that are at least zero wherever the model runs."""

    def __init__(self, graph: ir.Graph) -> None:
        self.known: list[Polynomial] = []
        self._graph = graph
        self._alive: set[ir.Node] | None = None

    def teaches(self, node: ir.Node) -> bool:
        """Whether a node is of the kind that takes something for granted, and runs whenever the model does."""
        return node.op_type in _TEACHING and not node.domain and node.graph is self._graph

    def learn(self, node: ir.Node, shapes: Sequence[Dims]) -> bool:
        """Take down what `node`, reading values of these shapes, takes for granted; whether that is news."""
        known = [dims for dims in shapes if dims is not None]
        if not any(dim is not None and dim.open for dims in known for dim in dims):
            return False
        before = len(self.known)
        joined = node.attributes["axis"].as_int() % len(known[0]) if node.op_type == "Concat" else None
        for place, dims in _columns(known):
            if node.op_type != "Concat":
                for table in dims:
                    for size in dims:
                        self._take(node, [other - size for other in limits(table, size) if size is not None])
            elif len(known[0]) - place != joined:
                for one, other in pairwise(dims):
                    if one is not None and other is not None and (one.open or other.open):
                        self._take(node, [one - other, other - one])
        return len(self.known) > before

    def settle(self, dims: Dims) -> Dims:
        """The dimensions as they are wherever the model runs."""
        if dims is None or not self.known or not any(dim is not None and dim.open for dim in dims):
            return dims
        return tuple(dim if dim is None else dim.at_smallest(self._least) for dim in dims)

    def _take(self, node: ir.Node, formulas: Sequence[Polynomial]) -> None:
        news = [formula for formula in formulas if not formula.nonnegative and formula not in self.known]
        if news and self._runs(node):
            self.known += news

    def _runs(self, node: ir.Node) -> bool:
        """Whether an output depends on the node: what is dead is taken out before it can fail."""
        if self._alive is None:
            self._alive = _alive(self._graph)
        return node in self._alive

    def _least(self, parts: Sequence[Polynomial]) -> Polynomial:
        kept = list(parts)
        for part in parts:
            if len(kept) > 1 and any(self._above(part, other) for other in kept if other is not part):
                kept.remove(part)
        return reduce(smaller, kept)

    def _above(self, large: Polynomial, small: Polynomial) -> bool:
        apart = large - small
        return apart.nonnegative or any((apart - known).nonnegative for known in self.known)


def _columns(shapes: Sequence[Sequence[Dim]]) -> Iterable[tuple[int, tuple[Dim, ...]]]:
    """Dimensions that meet, each row with its place, counted from 1 at the right."""
    for place in range(1, max(map(len, shapes), default=0) + 1):
        yield place, tuple(dims[-place] for dims in shapes if len(dims) >= place)


def _alive(graph: ir.Graph) -> set[ir.Node]:
    """The nodes of the graph, subgraphs included, on which an output depends."""
    alive: set[ir.Node] = set()
    left = [value.producer() for value in graph.outputs]
    while left:
        node = left.pop()
        if node is None or node in alive:
            continue
        alive.add(node)
        left += [value.producer() for value in node.inputs if value is not None]
        left += [inner for held in held_graphs(node) for inner in held]
    return alive
