"""What calibration finds about the inputs of weight sites: the rows that each weight is multiplied by.

    x @ W                  rows of x                                    y = x @ W, the inputs of a recurrence
    h[t - 1] @ R           the states of each direction, one step late: initial state, y[0], .., y[last - 1]
    Conv(x, K)             windows of x, [batch, places, channels of a group * kernel], by group
    ConvTranspose(x, K)    channels of x at each place, where there is one group

Not seen are tables, whose inputs are ids, transposed convolutions in groups, and what is computed in subgraphs and
functions: not at every run, or many times. A GRU that resets its state before the product is seen by the state before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..ir.content import dimensions
from ..ir.site import Kind, Site, sites
from .accumulators import Gram
from .base import Context
from .edit import Array, Ledger, attribute, constant_of
from .numerics.arrays import times
from .statistics import Statistics, Want
from .views import State, Steps, View, Windows
from .weights import Quantized


@dataclass(frozen=True)
class Seen:
    """What is known of a site's inputs, before they are divided by `scales`, [in].

    parts: the Gram matrix [in, in] behind each of so many equal runs of the weight's columns: the directions of a
    recurrence, the groups of a convolution; one for all in most.
    """

    parts: tuple[Gram, ...]
    scales: Array | None = None
    clipped: bool = True

    @property
    def gram(self) -> NDArray[np.float64]:
        """The mean over the parts, [in, in]."""
        total: NDArray[np.float64] = sum((part.matrix for part in self.parts[1:]), self.parts[0].matrix)
        return total if len(self.parts) == 1 else total / len(self.parts)

    @property
    def magnitude(self) -> NDArray[np.float64]:
        """The root mean square of each input."""
        count = sum(part.count for part in self.parts) / len(self.parts)
        squares: NDArray[np.float64] = np.diagonal(self.gram) / max(count, 1)
        return np.sqrt(np.maximum(squares, 0.0))

    def apart(self, weight: Array) -> list[tuple[Array, Seen]]:
        """The columns of a weight [in, out] with what is known of the inputs of each run."""
        columns = np.split(weight, len(self.parts), axis=1)
        return [(each, replace(self, parts=(part,))) for each, part in zip(columns, self.parts, strict=True)]

    def scaled(self, weight: Array) -> tuple[Array, NDArray[np.float64]]:
        """The weight times the scales, and the Gram matrix of the inputs over them."""
        if self.scales is None:
            return weight, self.gram
        wide = self.scales.astype(np.float64)
        return times(self.scales, weight).astype(weight.dtype), self.gram / np.outer(wide, wide)


def joined(parts: Sequence[Quantized]) -> Quantized:
    """Weights [in, out] of one spelling side by side."""
    first = parts[0]
    if len(parts) == 1:
        return first
    zeros = [part.zero for part in parts if part.zero is not None]
    return replace(
        first,
        values=np.concatenate([part.values for part in parts], 1),
        scale=np.concatenate([part.scale for part in parts], -1),
        zero=np.concatenate(zeros, -1) if zeros else None,
    )


def inputs(model: ir.Model, part: Sequence[Site], context: Context) -> dict[ir.Value, Seen]:
    """By weight, what calibration finds about the inputs of those sites whose inputs it sees: of a weight that several
    sites read, about the inputs of all of them.
    """
    every = _reading(model, part)
    with _all_states(model, every):
        wants = {site: _wants(site) for site in every if site.node.graph is model.graph}
        asked = [want for parts in wants.values() for each in parts for want in each]
        if not asked:
            return {}
        found = context.statistics(model, asked)
        runs = len(context.calibration.batches) if context.calibration is not None else 0
        grams: dict[ir.Value, list[list[Gram]]] = {}
        for site, parts in wants.items():
            each = [_sum(site, number, want, found, runs) for number, want in enumerate(parts)]
            grams.setdefault(site.weight, []).append(each)
        return {
            weight: Seen(tuple(_merged(*part) for part in zip(*each, strict=True)))
            for weight, each in grams.items()
            if each[0]
        }


def _reading(model: ir.Model, part: Sequence[Site]) -> list[Site]:
    """These sites, and those that read the same weights."""
    if not any(site.tied for site in part):
        return list(part)
    weights = {site.weight for site in part}
    return list({(site.node, site.weight): site for site in sites(model) if site.weight in weights}.values())


def _merged(first: Gram, *others: Gram) -> Gram:
    """What is known of the rows of all."""
    if not others:
        return first
    total = Gram(len(first.matrix))
    for each in (first, *others):
        total.merge(each)
    return total


@contextmanager
def _all_states(model: ir.Model, part: Sequence[Site]) -> Iterator[None]:
    """Within, recurrences that give their last state alone have names for all of their states."""
    unread = [site.node.outputs[0] for site in part if site.kind is Kind.RECURRENT_HIDDEN and site.node.outputs]
    renamed = {value: value.name for value in unread if not value.name}
    for value in renamed:
        value.name = Ledger.of(model.graph).unique("states")
    try:
        yield
    finally:
        for value, name in renamed.items():
            value.name = name


def _wants(site: Site) -> list[list[Want]]:
    """For each part of the columns, the statistics whose sum is that of its inputs; none for what is not seen."""
    if site.kind in (Kind.LINEAR, Kind.RECURRENT_INPUT):
        return [[Want(site.activation, Gram, site.in_features, axis=site.axis)]]
    if site.kind is Kind.RECURRENT_HIDDEN:
        return [_states(site, direction) for direction in range(site.view.shape[0])]
    if site.kind is not Kind.CONV:
        return []
    group = attribute(site.node, "group", 1)
    if site.node.op_type == "ConvTranspose":
        return [[Want(site.activation, Gram, site.in_features, axis=1)]] if group == 1 else []
    dims, kernel = dimensions(site.node.outputs[0]), site.view.shape[2:]
    places = None if dims is None else tuple(dims[2:])
    views = (Windows.of(site.node, index, group, kernel, places) for index in range(group))
    return [[_seen(site.activation, site.in_features, view)] for view in views]


def _states(site: Site, direction: int) -> list[Want]:
    """The state that each step of a direction starts from: that of the step before, and the first."""
    node, size, late = site.node, site.in_features, attribute(site.node, "layout", 0)
    backward = direction == 1 or (
        "direction" in node.attributes and node.attributes["direction"].as_string() == "reverse"
    )
    found = [_seen(node.outputs[0], size, Steps(direction, backward, bool(late)))]
    first = _first(node)
    if first is not None and constant_of(first) is None:
        found.append(_seen(first, size, State(direction, bool(late))))
    return found


def _first(node: ir.Node) -> ir.Value | None:
    return node.inputs[5] if len(node.inputs) > 5 else None


def _seen(value: ir.Value, size: int, view: View) -> Want:
    return Want(value, Gram, size, view=view)


def _sum(site: Site, direction: int, wants: Sequence[Want], found: Statistics, runs: int) -> Gram:
    seen = [found.of(want.value, Gram, want.axis, want.view) for want in wants]
    stored = constant_of(_first(site.node)) if site.kind is Kind.RECURRENT_HIDDEN else None
    rest = stored is None or not stored.any()
    if rest and len(seen) == 1:
        return seen[0]
    total = _merged(Gram(site.in_features), *seen)
    if stored is not None and not rest:
        rows, _ = State(direction, bool(attribute(site.node, "layout", 0)))(stored, None)
        for _ in range(runs):
            total.add(rows)
    return total
