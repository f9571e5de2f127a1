"""Which source nodes a rewritten node stands for.

A node that no pass touched stands for itself. A node made by a rewrite carries the names of the nodes it
replaced in its metadata, so that reports, diffs and healing speak of the layers of the model that was loaded.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

KEY = "tersor.sources"


def sources(node: ir.Node) -> tuple[str, ...]:
    """Names of the source nodes that `node` stands for, in the order they were merged."""
    recorded = node.metadata_props.get(KEY)
    if recorded is not None:
        return tuple(recorded.split("\n")) if recorded else ()
    return (node.name,) if node.name else ()


def inherit(new_nodes: Iterable[ir.Node], old_nodes: Iterable[ir.Node]) -> None:
    """Record on each new node that it stands for everything that the old nodes stood for."""
    stand_for(new_nodes, dict.fromkeys(name for node in old_nodes for name in sources(node)))


def stand_for(nodes: Iterable[ir.Node], names: Iterable[str]) -> None:
    """Record on each node that it stands for the source nodes of these names."""
    text = "\n".join(names)
    for node in nodes:
        node.metadata_props[KEY] = text
