"""Linear sites computed by a tensor network instead of a matrix, in the cheapest order of contractions.

    before   y = x @ W + b
    after    h = Reshape(x, [.., 16, 24]),  .. Transpose, MatMul with small tensors ..,  y = Reshape(.., [.., out]) + b

A product from the left and a convolution by one tap are turned, so that the features come last, and back. Rows that
are there to make a dimension a product of modes are zeros, columns of that kind are cut off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.feeds import Feeds, default_sizes
from ...ir.polynomial import Polynomial
from ...ir.shapes import Shapes, infer
from ...ir.site import Site
from ..base import Miss
from ..edit import Tape, replace
from ..lined import Dim, lined, typed, unlined
from ..lookups import mark
from .contraction import Contraction, Held, Operand, Plan, cheapest
from .methods.network import Network

#: Rows of an activation where nobody knows how many there are.
_ROWS = 128
#: Places along an axis of an image of unknown size.
_PLACES = 16


def plan(network: Network, rows: int) -> Plan | None:
    """The cheapest order for so many rows that makes no table of the weight's size; None where there is none."""
    operands = [Operand(network.ins, rows=True), *(Operand(factor.labels) for factor in network.factors)]
    largest = math.prod(network.shape) - 1
    return cheapest(operands, network.outs, network.sizes, rows=rows, largest=largest)


def unfit(site: Site) -> Miss | None:
    """Why a linear site cannot be computed in another way."""
    node, dims = site.node, site.activation.shape
    if dims is None:
        return Miss("rank", site.activation.name or "", "an activation whose axes are known; run infer-shapes first")
    if node.op_type != "Conv":
        return None
    if "pads" in node.attributes and any(node.attributes["pads"].as_ints()):
        return Miss("pads", str(list(node.attributes["pads"].as_ints())), "a convolution by one tap without padding")
    return None


def rowed(site: Site) -> bool:
    """Whether the site's activation has rows: a vector that a weight is multiplied with from the left has none."""
    dims = site.activation.shape
    return dims is None or len(dims) > 1


@dataclass(frozen=True)
class Around:
    """How many rows reach a site, and the sizes of the axes behind its channels, before and after it."""

    rows: int
    before: tuple[int, ...]
    behind: tuple[int, ...]


def places_of(model: ir.Model, chosen: Sequence[Site], feeds: Sequence[Feeds]) -> dict[ir.Node, Around]:
    """What is around each site on the first feeds, on small ones where there are none."""
    sizes = default_sizes(model)
    for value in model.graph.inputs if feeds else ():
        array = feeds[0].get(value.name or "")
        for axis, dim in enumerate(value.shape or ()):
            name = f"{value.name}_dim_{axis}" if isinstance(dim, int) else dim.value or f"{value.name}_dim_{axis}"
            if array is not None and name in sizes:
                sizes[name] = array.shape[axis]
    shapes = infer(model, sizes)
    return {site.node: _around(site, shapes) for site in chosen}


def _around(site: Site, shapes: Shapes) -> Around:
    before, behind = (_sizes(shapes.of(value)) for value in (site.activation, site.node.outputs[0]))
    features = site.axis % max(len(before), 1)
    others = [size for axis, size in enumerate(before) if axis != features]
    rows = _ROWS if None in others else math.prod(size or 0 for size in others)
    return Around(max(rows, 1), *(tuple(size or _PLACES for size in sizes[2:]) for sizes in (before, behind)))


def _sizes(dims: Sequence[Polynomial | None] | None) -> list[int | None]:
    return [None if dim is None else dim.constant for dim in dims or ()]


def put(site: Site, network: Network, order: Plan) -> None:
    """Let the site's node be computed by the network."""
    tape, output = Tape(), site.node.outputs[0]
    dtype = ir.DataType.from_numpy(site.view.array().dtype)
    x = lined(tape, site)
    assert x.shape is not None  # sites of unknown rank are left alone
    made = apply(tape, x, list(x.shape)[:-1], network, order, dtype, site.weight.name or "weight")
    made = unlined(tape, site, made)
    mark(tape.nodes)
    replace(tape, [output], [made], matched=[site.node])


def apply(
    tape: Tape, x: ir.Value, lead: Sequence[Dim], network: Network, order: Plan, dtype: ir.DataType, name: str
) -> ir.Value:
    """x [*lead, in] times what the network stands for, [*lead, out]."""
    (rows, columns), (every, wide) = network.shape, network.whole
    if every > rows:
        pads = [0] * len(lead) + [0] + [0] * len(lead) + [every - rows]
        zero = tape.constant(np.zeros((), dtype.numpy()), "zero")
        x = typed(tape("Pad", x, tape.constant(pads, "pads"), zero), dtype, [*lead, every])
    cores = (Held.of(factor, f"{name}_core{at}") for at, factor in enumerate(network.factors))
    held = [Held((network.ins,), True, x), *cores]
    made = Contraction(tape, lead, dtype, network.sizes).run(held, order.tree, network.outs)
    if wide > columns:
        bounds = (tape.constant([number], "bound") for number in (0, columns, -1))
        made = typed(tape("Slice", made, *bounds), dtype, [*lead, columns])
    return made
