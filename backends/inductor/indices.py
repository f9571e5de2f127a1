"""Indices that depend on the inputs are checked before they are used.

    before   x[i]          after   assert all(-n <= i < n)
                                   x[clamp(i, -n, n - 1)]

Inductor's kernels check each index where they read it; several threads at it, what they then throw ends the process.
The one check stands outside of the loops, and with clamped indices there is nothing left to throw in them.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

from .hazards import demand, graphs

_ATEN = torch.ops.aten

#: op(data, axis, index, ...), indices from 0 on.
_ALONG = (
    *(_ATEN.index_select.default, _ATEN.gather.default, _ATEN.index_fill.int_Scalar),
    *(_ATEN.index_copy.default, _ATEN.index_copy_.default, _ATEN.index_add.default, _ATEN.index_add_.default),
    *(_ATEN.scatter.src, _ATEN.scatter.value, _ATEN.scatter.reduce, _ATEN.scatter.value_reduce),
    *(_ATEN.scatter_.src, _ATEN.scatter_.value, _ATEN.scatter_add.default, _ATEN.scatter_add_.default),
    _ATEN.scatter_reduce.two,
)

#: op(data, [index, ...], ...), an index for each of the first axes, from -n on.
_LISTED = (_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default)


def check_indices(module: fx.GraphModule) -> None:
    """Check and clamp every index that depends on an input, be it only on its size, in place."""
    for graph in graphs(module):
        _check(graph)


def _check(graph: fx.Graph) -> None:
    read = _read(graph)
    for node in list(graph.nodes):
        inside: dict[fx.Node, fx.Node] = {}
        for data, axis, index, low in _uses(node):
            if index not in read or index.meta["val"].dtype in (torch.bool, torch.uint8):
                continue
            with graph.inserting_before(node):
                least, most, text = _bounds(graph, data, axis, low)
                above = graph.call_function(_ATEN.ge.Scalar, (index, least))
                below = graph.call_function(_ATEN.le.Scalar, (index, most))
                both = graph.call_function(_ATEN.logical_and.default, (above, below))
                demand(graph, both, f"an index is outside of {text}")
                # one index for two axes has to be inside of both
                given = inside.get(index, index)
                inside[index] = graph.call_function(_ATEN.clamp.default, (given, least, most))
            node.replace_input_with(given, inside[index])


def _bounds(graph: fx.Graph, data: fx.Node, axis: int, low: int) -> tuple[int | fx.Node, int | fx.Node, str]:
    """The least and the greatest index into an axis, and both as text; nodes where the size varies."""
    size = data.meta["val"].shape[axis]
    if isinstance(size, int):
        return low * size, size - 1, f"{low * size}..{size - 1}"
    varying = graph.call_function(_ATEN.sym_size.int, (data, axis))
    least = graph.call_function(operator.mul, (varying, low)) if low else 0
    return least, graph.call_function(operator.sub, (varying, 1)), "the axis it is for"


def _read(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that depend on the inputs, on their numbers or their sizes."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _uses(node: fx.Node) -> Iterator[tuple[fx.Node, int, fx.Node, int]]:
    """What is indexed on which axis by what, and whether from 0 or from -1 back."""
    if node.target in _ALONG:
        data, axis, index = node.args[:3]
        if isinstance(data, fx.Node) and isinstance(index, fx.Node) and data.meta["val"].dim():
            assert isinstance(axis, int)
            yield data, axis, index, 0
    elif node.target is _ATEN.embedding.default:
        table, index = node.args[:2]
        assert isinstance(table, fx.Node)
        assert isinstance(index, fx.Node)
        yield table, 0, index, 0
    elif node.target in _LISTED:
        data, indices = node.args[:2]
        assert isinstance(data, fx.Node)
        assert isinstance(indices, list | tuple)
        if not any(isinstance(index, fx.Node) and index.meta["val"].dtype is torch.bool for index in indices):
            yield from ((data, axis, index, -1) for axis, index in enumerate(indices) if isinstance(index, fx.Node))
