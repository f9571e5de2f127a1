"""Which sites of a model its passes rewrote, and at which values of both graphs each can be told from the others.

Both graphs have the outputs of sites in common: from one to the next the rewritten graph does as the original does, but
for what was rewritten there. Where several weights of one node were, as in a recurrence, graphs in which the others are
put back tell them apart.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..ir.provenance import division, scope
from ..ir.site import Site, sites
from ..passes.edit import Tape, reroute


@dataclass(frozen=True, eq=False)
class Part:
    """One weight that was rewritten, and the sites that read it: one, or both directions of a recurrence.

    bytes: what its constants take before and after.
    """

    sites: tuple[Site, ...]
    bytes: tuple[int, int]

    @property
    def names(self) -> tuple[str, ...]:
        """As `only` and `ignore` take them."""
        return tuple(site.name for site in self.sites)

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def module(self) -> str:
        """The user's own module around the site; empty where nothing tells."""
        return scope(self.sites[0].node)


@dataclass(frozen=True, eq=False)
class Stop:
    """A value that both graphs have, made by a node whose weights were rewritten.

    scale: what the rewritten graph divided it by, shaped as it broadcasts; None for one.
    """

    value: str
    parts: tuple[Part, ...]
    scale: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Rewritten:
    """Two graphs, and what of the first was rewritten in the second, in the order of execution.

    unseen: sites whose output the second graph does not have, with the reason.
    """

    before: ir.Model
    after: ir.Model
    stops: tuple[Stop, ...]
    unseen: tuple[tuple[Site, str], ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(part for stop in self.stops for part in stop.parts)

    def with_only(self, slot: int) -> ir.Model:
        """The rewritten graph; of nodes with several weights that were, all but the one at `slot` are as they came."""
        model = self.after.clone()
        made_by = {value.name: node for node in model.graph for value in node.outputs}
        for stop in self.stops:
            for index, part in enumerate(stop.parts):
                if len(stop.parts) > 1 and index != slot:
                    _put_back(made_by[stop.value], part.sites[0])
        return model


def rewritten(before: ir.Model, after: ir.Model) -> Rewritten:
    """Compare two graphs, the second a clone of the first that passes went over."""
    values = {value.name: value for node in after.graph for value in node.outputs if value.name}
    order = {value: index for index, node in enumerate(before.graph) for value in node.outputs}
    found: dict[ir.Value, list[Part]] = {}
    unseen: list[tuple[Site, str]] = []
    every = sites(before)
    ends = {site.output.name or "" for site in every} | {site.activation.name or "" for site in every}
    groups: dict[tuple[ir.Node, ir.Value], list[Site]] = {}
    for site in every:
        groups.setdefault((site.node, site.weight), []).append(site)
    for members in groups.values():
        site = members[0]
        output, partner = site.output, values.get(site.output.name or "")
        reason = _unseen(site, partner, before)
        if partner is None or reason:
            unseen += [(member, reason) for member in members]
            continue
        old, new = _region(site, output, ends), _region(site, partner, ends)
        if old != new:
            part = Part(tuple(members), (sum(old.bytes.values()), sum(new.bytes.values())))
            found.setdefault(output, []).append(part)
    stops = [
        Stop(value.name or "", _apart(parts, values[value.name or ""]), _scale(values[value.name or ""]))
        for value, parts in sorted(found.items(), key=lambda item: order[item[0]])
    ]
    return Rewritten(before, after, tuple(stops), tuple(unseen))


def _unseen(site: Site, partner: ir.Value | None, before: ir.Model) -> str:
    """Why a site's output cannot be compared; empty where it can."""
    if site.output.graph is not before.graph:
        return "in a subgraph"
    if partner is None:
        return "its output is not there any more"
    shape, other = site.output.shape, partner.shape
    if shape is not None and other is not None:
        fixed = [(a, b) for a, b in zip(shape, other, strict=False) if isinstance(a, int) and isinstance(b, int)]
        if len(shape) != len(other) or any(a != b for a, b in fixed):
            return f"its output has another shape, {other} for {shape}"
    return ""


@dataclass(frozen=True)
class _Region:
    """What computes a site's output from its activation: ops and constants, and how many bytes those take."""

    ops: tuple[str, ...]
    bytes: Mapping[int, int]


def _region(site: Site, output: ir.Value, ends: Collection[str]) -> _Region:
    """The part of a graph that makes a site's output; of a node with several weights, this one's."""
    node = output.producer()
    start = [output]
    index = _slot(site)
    if node is not None and _several(site) and node.op_type == site.node.op_type and index < len(node.inputs):
        start = [value for value in (node.inputs[index],) if value is not None]
    ops: list[str] = []
    held: dict[int, int] = {}
    met = set(start)
    while start:
        value = start.pop()
        made = value.producer()
        for tensor in _constants(value, made):
            held[id(tensor)] = tensor.nbytes
        if made is None or (value is not output and value.name in ends):
            continue
        ops.append(f"{made.domain}.{made.op_type}")
        fresh = [each for each in made.inputs if each is not None and each not in met]
        met.update(fresh)
        start += fresh
    return _Region(tuple(sorted(ops)), held)


def _constants(value: ir.Value, made: ir.Node | None) -> Iterator[ir.TensorProtocol]:
    """The tensor that a value is, as an initializer or out of a Constant node."""
    if made is None and value.const_value is not None:
        yield value.const_value
    elif made is not None and made.op_type == "Constant" and "value" in made.attributes:
        yield made.attributes["value"].as_tensor()


def _several(site: Site) -> bool:
    """Whether the site's node has other weights beside this one."""
    return site.node.op_type in ("LSTM", "GRU", "RNN")


def _slot(site: Site) -> int:
    """The input of its node that the site's weight comes in by."""
    return list(site.node.inputs).index(site.read)


def _apart(parts: list[Part], partner: ir.Value) -> tuple[Part, ...]:
    """The weights of one node, as one where the rewritten node is another."""
    node = partner.producer()
    if len(parts) == 1 or (node is not None and node.op_type == parts[0].sites[0].node.op_type):
        return tuple(parts)
    # each counted all of the new node
    sizes = sum(part.bytes[0] for part in parts), max(part.bytes[1] for part in parts)
    return (Part(tuple(site for part in parts for site in part.sites), sizes),)


def _scale(value: ir.Value) -> NDArray[np.float64] | None:
    """What the passes divided the value by, as it broadcasts against it."""
    found = division(value)
    if found is None:
        return None
    scales, axis = found
    return np.asarray(scales, np.float64).reshape([-1] + [1] * (-axis - 1))


def _put_back(node: ir.Node, site: Site) -> None:
    """Let the node read the weight as it came."""
    tape, old = Tape(), node.inputs[_slot(site)]
    assert old is not None
    reroute(tape, node, old, tape.weight(np.ascontiguousarray(site.view.array()), site.weight.name or "weight"))
