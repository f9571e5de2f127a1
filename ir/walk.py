"""Every node and every graph of a model, those of subgraphs included, in a pass that costs little a node.

Of the ops of ai.onnx only a few hold graphs; the attributes of the others are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

_HOLDERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})


def every_node(graph: ir.Graph | ir.Function) -> Iterator[ir.Node]:
    """The nodes of a graph in order, each followed by those of the subgraphs that it holds."""
    for node in graph:
        yield node
        # as `may_hold_graphs` says; a call for each node would take as long as the walk
        if node.op_type in _HOLDERS or node.domain:
            for held in held_graphs(node):
                yield from every_node(held)


def every_graph(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph and all graphs inside of it, outer ones first."""
    yield graph
    for node in graph:
        if may_hold_graphs(node):
            for held in held_graphs(node):
                yield from every_graph(held)


def may_hold_graphs(node: ir.Node) -> bool:
    """Whether a node is of an op that may hold graphs; asked of every node, where `held_graphs` would look longer."""
    return node.op_type in _HOLDERS or bool(node.domain)


def held_graphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that a node holds itself."""
    for attr in node.attributes.values():
        if attr.is_ref():
            continue
        if attr.type == ir.AttributeType.GRAPH:
            yield attr.as_graph()
        elif attr.type == ir.AttributeType.GRAPHS:
            yield from attr.as_graphs()
