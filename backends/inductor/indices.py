"""Indices from the inputs are checked before they are used.

    before   x[i]          after   assert all(-n <= i < n)
                                   x[clamp(i, -n, n - 1)]

Inductor's kernels check each index where they read it; several threads at it, what they then throw ends the process.
The one check stands outside of the loops, and with clamped indices there is nothing left to throw in them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

import torch
from torch import fx

_ATEN = torch.ops.aten

#: Where an op has the axis and the index; such indices count from 0.
_ALONG: dict[Callable[..., object], tuple[int, int]] = {
    **dict.fromkeys((_ATEN.index_select.default, _ATEN.gather.default), (1, 2)),
    **dict.fromkeys((_ATEN.scatter.src, _ATEN.scatter.value, _ATEN.scatter_add.default), (1, 2)),
    _ATEN.scatter_reduce.two: (1, 2),
}

#: Ops with an index for each of the first axes, from -n on.
_LISTED = (_ATEN.index.Tensor, _ATEN.index_put.default)

#: What these return is no longer what the inputs hold: sizes, and places that were looked up.
_SAFE = (
    *(_ATEN.sym_size.int, _ATEN.argmax.default, _ATEN.argmin.default, _ATEN.nonzero.default, _ATEN.argsort.default),
    *(_ATEN.topk.default, _ATEN.sort.default, _ATEN.sort.stable),
)


def check_indices(module: fx.GraphModule) -> None:
    """Check and clamp every index that depends on an input's numbers, in place."""
    graph = module.graph
    read = _read(graph)
    for node in list(graph.nodes):
        for data, axis, index, low in _uses(node):
            if index not in read or index.meta["val"].dtype in (torch.bool, torch.uint8):
                continue
            with graph.inserting_before(node):
                least, most, text = _bounds(graph, data, axis, low)
                above = graph.call_function(_ATEN.ge.Scalar, (index, least))
                below = graph.call_function(_ATEN.le.Scalar, (index, most))
                both = graph.call_function(_ATEN.logical_and.default, (above, below))
                every = graph.call_function(_ATEN.all.default, (both,))
                graph.call_function(_ATEN._assert_async.msg, (every, f"an index is outside of {text}"))
                inside = graph.call_function(_ATEN.clamp.default, (index, least, most))
            node.replace_input_with(index, inside)


def _bounds(graph: fx.Graph, data: fx.Node, axis: int, low: int) -> tuple[int | fx.Node, int | fx.Node, str]:
    """The least and the greatest index into an axis, and both as text; nodes where the size varies."""
    size = data.meta["val"].shape[axis]
    if isinstance(size, int):
        return low * size, size - 1, f"{low * size}..{size - 1}"
    varying = graph.call_function(_ATEN.sym_size.int, (data, axis))
    least = graph.call_function(operator.mul, (varying, low)) if low else 0
    return least, graph.call_function(operator.sub, (varying, 1)), "the axis it is for"


def _read(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose numbers depend on the inputs' numbers."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or (node.target not in _SAFE and not found.isdisjoint(node.all_input_nodes)):
            found.add(node)
    return found


def _uses(node: fx.Node) -> Iterator[tuple[fx.Node, int, fx.Node, int]]:
    """What is indexed on which axis by what, and whether from 0 or from -1 back."""
    if node.target in _ALONG:
        data, axis, index = node.args[0], *(node.args[place] for place in _ALONG[node.target])
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
