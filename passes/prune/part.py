"""The part of a model that units lie in, as a model: from what their makers read to what their readers give."""

from __future__ import annotations

import onnx_ir as ir

from ...ir.constants import is_constant
from ...ir.feeds import Array, Feeds
from ...ir.runner import values
from ..trail import cut_out
from .units import Units


def part_of(model: ir.Model, each: Units) -> ir.Model:
    """A model of the nodes between the sites that make units and those that read them, both included.

    Its inputs are what these nodes read else, its outputs what the readers give.
    """
    makers, readers = ({site.node for site in ends} for ends in (each.makers, each.readers))
    behind: set[ir.Node] = set(makers)
    for node in model.graph:
        if any(value is not None and value.producer() in behind for value in node.inputs):
            behind.add(node)
    inside, stack = set[ir.Node](), list(readers)
    while stack:
        node = stack.pop()
        if node not in inside and node in behind:
            inside.add(node)
            stack += [maker for value in node.inputs if value is not None and (maker := value.producer()) is not None]
    fed: dict[ir.Value, None] = {}
    for node in model.graph:
        for value in node.inputs if node in inside else ():
            if value is not None and value.producer() not in inside and not is_constant(value):
                fed.setdefault(value)
    outputs = [node.outputs[0] for node in model.graph if node in readers]
    return cut_out(model, list(fed), outputs)


def seen_by(model: ir.Model, parts: list[ir.Model], feeds: Feeds) -> dict[str, Array]:
    """What the inputs of parts are on one batch, by name."""
    return values(model, feeds, {value.name or "" for part in parts for value in part.graph.inputs})
