"""A model that computes in float32 where another computes in 16-bit floats, on the same numbers.

Rounding to 16 bits at every node hides what a rewrite did: a sum in another order is another number in its last bit, of
eight or eleven. What two graphs are in float32 tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from .feeds import Feeds
from .walk import every_graph, every_node

#: 16-bit float types, and the distance from 1 to the next number of each.
_EPS = {ir.DataType.FLOAT16: 2.0**-10, ir.DataType.BFLOAT16: 2.0**-7}
HALVES = frozenset(_EPS)
#: Attributes that name the type of a result.
_NAMING = ("to", "dtype", "output_dtype")


def coarsest(model: ir.Model) -> float:
    """The distance from 1 to the next number of the coarsest 16-bit float type that the model computes in; 0 for none.

    Constants that a rewrite makes are rounded to the type that their readers compute in, so no rewrite of such a model
    can be held to less.
    """
    found = {value.dtype for graph in every_graph(model.graph) for value in _values(graph)} & set(HALVES)
    return max((_EPS[dtype] for dtype in found if dtype is not None), default=0.0)


def widened(model: ir.Model) -> ir.Model:
    """A copy in which 16-bit floats are float32: types, constants with their numbers, what attributes name."""
    wide = model.clone()
    for graph in every_graph(wide.graph):
        for value in _values(graph):
            if value.dtype in HALVES:
                value.type = ir.TensorType(ir.DataType.FLOAT)
            if value.const_value is not None:
                value.const_value = _wide(value.const_value)
    bodies: list[ir.Graph | ir.Function] = [wide.graph, *wide.functions.values()]
    for body in bodies:
        for node in every_node(body):
            for attr in [*node.attributes.values()]:
                _widen(node, attr)
    return wide


def widened_feeds(feeds: Feeds) -> Feeds:
    """Feeds of the same numbers for it."""
    halves = {dtype.numpy() for dtype in HALVES}
    return {name: array.astype(np.float32) if array.dtype in halves else array for name, array in feeds.items()}


def _widen(node: ir.Node, attr: ir.Attr) -> None:
    if attr.is_ref():
        return
    if attr.type == ir.AttributeType.TENSOR:
        node.attributes[attr.name] = ir.AttrTensor(attr.name, _wide(attr.as_tensor()))
    elif attr.name in _NAMING and attr.type == ir.AttributeType.INT and attr.as_int() in HALVES:
        node.attributes[attr.name] = ir.AttrInt64(attr.name, ir.DataType.FLOAT)


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype not in HALVES:
        return tensor
    return ir.LazyTensor(
        lambda: ir.Tensor(tensor.numpy().astype(np.float32), name=tensor.name),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
