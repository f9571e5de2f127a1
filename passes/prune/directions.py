"""Which directions the segments of a stream keep: those of most energy, of its rows or of the weights that write it.

A norm divides rows by their length, so each row counts as much as any other: rows are of length one here, without
their mean where a segment is centred.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import networkx as nx
import numpy as np
import onnx_ir as ir

from ...ir.site import Kind
from ..accumulator import extent
from ..accumulators import Gram
from ..base import Context, Miss
from ..edit import Array, constant_of
from ..numerics.arrays import Floats, matmul
from ..statistics import Want
from .rotation import Basis
from .segments import Made, Segment, Stream, operands, scaling

#: A method that gives a basis of so many directions for a Gram matrix: `methods.pca`.
Method = Callable[..., Floats]


class Normalized(Gram):
    """The Gram matrix of rows of length one each, in float64: a direction that rows never take has none of them."""

    def add(self, array: Array) -> None:
        self._check(array)
        if array.size:
            extent(array)
        rows = self._rows(np.asarray(array, np.float64))
        length = np.linalg.norm(rows, axis=-1, keepdims=True)
        rows = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
        self.matrix += matmul(rows.T, rows)
        self.total += rows.sum(0)
        self.count += len(rows)

    def _rows(self, rows: Floats) -> Floats:
        return rows


class Centred(Normalized):
    """The same without the mean of each row over its features."""

    def _rows(self, rows: Floats) -> Floats:
        centred: Floats = rows - rows.mean(-1, keepdims=True)
        return centred


def bases(
    model: ir.Model, stream: Stream, kept: int, method: Method, context: Context | None = None
) -> dict[Segment, Basis]:
    """A basis of `kept` directions for each segment, by what calibration sees, or without a context by the weights."""
    grams = {} if context is None else _observed(model, stream, context)
    found: dict[Segment, Basis] = {}
    for segment in stream.segments if grams else nx.topological_sort(_flow(stream)):
        seen = [grams[value] for value in segment.ends if value in grams]
        total = sum(seen, np.zeros((stream.size, stream.size))) if seen else _written(stream, segment, found)
        basis = method(total, kept, centred=segment.centred)
        shares = {norm.value: _share(basis, grams[norm.source]) for norm in segment.norms if norm.source in grams}
        found[segment] = Basis(basis, segment.centred, shares)
    return found


def _flow(stream: Stream) -> nx.DiGraph[Segment]:
    """Which segments the norms of each are added to: what is written there depends on the directions here."""
    flow: nx.DiGraph[Segment] = nx.DiGraph()
    flow.add_nodes_from(stream.segments)
    for total, operand in stream.crossings():
        norm = stream.norms[stream.origin(operand)]
        flow.add_edge(stream.of[norm.source], stream.of[total], norm=norm.value.name)
    return flow


def circular(stream: Stream) -> Miss | None:
    """Why directions cannot be told from weights: a norm's output is added to what the norm reads."""
    flow = _flow(stream)
    if nx.is_directed_acyclic_graph(flow):
        return None
    edge, *_ = nx.find_cycle(flow)
    return Miss(
        "circular",
        f"{flow.edges[edge]['norm']}, added to what its norm reads",
        "calibration data, which tell the directions that are taken there",
        near=True,
    )


def _observed(model: ir.Model, stream: Stream, context: Context) -> dict[ir.Value, Floats]:
    """The Gram matrix of the rows of each value that something beside its segment's own sums reads."""
    wants = {
        value: Want(value, Centred if segment.centred else Normalized, stream.size)
        for segment in stream.segments
        for value in segment.ends
    }
    found = context.statistics(model, wants.values())
    return {value: found.of(value, Centred if stream.of[value].centred else Normalized).matrix for value in wants}


def _share(basis: Floats, gram: Floats) -> float:
    """What of the energy of rows lies in the directions."""
    whole = float(np.trace(gram))
    return float(np.sum(basis * (gram @ basis))) / whole if whole > 0 else 1.0


def _written(stream: Stream, segment: Segment, known: Mapping[Segment, Basis]) -> Floats:
    """What is written into a segment by inputs that are all alike: the sum of W.T W and b b.T of what writes it."""
    size = stream.size
    total = np.zeros((size, size))
    for value in segment.values:
        made = stream.made[value]
        if made is Made.SITE:
            site = stream.writers[value]
            weight, bias, gain = np.asarray(site.dense(), np.float64), site.bias_array(), _gain(stream, value)
            total += gain**2 * (weight.T @ weight) / (1 if site.kind is Kind.LINEAR else len(weight))
            if bias is not None:
                total += gain**2 * np.outer(bias.astype(np.float64), bias.astype(np.float64))
        elif made is Made.WHOLE:
            total += np.eye(size)
        elif made is Made.SUM:
            for held in (array for each in operands(value) if (array := constant_of(each)) is not None):
                rows = np.broadcast_to(held, (*held.shape[:-1], size)).reshape(-1, size).astype(np.float64)
                total += rows.T @ rows / len(rows)
    for into, operand in stream.crossings():
        if stream.of[into] is segment:
            norm, factor = stream.norms[stream.origin(operand)], stream.factor(operand)
            turned = known[stream.of[norm.source]].directions.T * norm.scale
            total += factor**2 * (turned.T @ turned + np.outer(norm.bias, norm.bias))
    return total


def _gain(stream: Stream, value: ir.Value) -> float:
    """The number by which a value is multiplied before anything else reads it."""
    found = 1.0
    while not value.is_graph_output() and len(uses := list(value.uses())) == 1:
        value = uses[0].node.outputs[0]
        if stream.made.get(value) is not Made.PASSED:
            break
        found *= scaling(value)
    return found
