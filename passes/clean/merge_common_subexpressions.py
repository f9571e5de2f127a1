"""Compute once what several nodes compute alike.

    before   a = Shape(x)   b = Shape(x)                after   a = Shape(x)   (b reads a)

Exact. Left alone: ops that draw random numbers, nodes that hold subgraphs, and ops of domains that may do anything.
Each graph and subgraph is merged by itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.level import DOMAIN, Level
from ...ir.provenance import sources, stand_for
from ...ir.text import place
from ...ir.walk import every_graph
from ..base import Context, Finding, Outcome, Pass
from ..edit import Tape, replace, stand_in

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
_KNOWN = frozenset({"", "com.microsoft", DOMAIN})
#: Tensors in attributes with more elements than this are told apart by identity.
_SMALL = 64


@dataclass(frozen=True, kw_only=True)
class MergeCommonSubexpressions(Pass):
    """Merge nodes of equal op, attributes and inputs."""

    name: ClassVar[str] = "merge-common-subexpressions"
    level: ClassVar[Level] = Level.IMPORTED

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        scopes = list(every_graph(model.graph))
        return Outcome(tuple(finding for scope in scopes for finding in _merge(scope)))


def _merge(scope: ir.Graph) -> Iterator[Finding]:
    first: dict[Hashable, ir.Node] = {}
    merged: dict[ir.Node, dict[str, None]] = {}
    for node in scope:
        key = _key(node)
        twin = node if key is None else first.setdefault(key, node)
        if twin is not node:
            yield Finding(place(node), sources(node))
            merged.setdefault(twin, dict.fromkeys(sources(twin))).update(dict.fromkeys(sources(node)))
            _let_stand_for(twin, node)
    for twin, names in merged.items():
        stand_for([twin], names)


def _let_stand_for(twin: ir.Node, node: ir.Node) -> None:
    """Let the readers of `node` read its earlier twin."""
    tape = Tape()
    results = []
    for old, new in zip(node.outputs, twin.outputs, strict=True):
        if old.is_graph_output() and new.is_graph_output():
            new = tape("Identity", new)
        elif old.is_graph_output() or (old.name and not new.name):
            stand_in(old, new)
        results.append(new)
    replace(tape, node.outputs, results)


def _key(node: ir.Node) -> Hashable | None:
    """What two nodes that compute the same have in common; None for a node that has no twin."""
    if node.domain not in _KNOWN or node.op_type in _RANDOM or (node.op_type == "Dropout" and len(node.inputs) > 2):
        return None
    attributes = []
    for name in sorted(node.attributes):
        attr = node.attributes[name]
        if attr.is_ref() or attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            return None
        attributes.append((name, attr.type, _content(attr)))
    return node.op_identifier(), len(node.outputs), tuple(node.inputs), tuple(attributes)


def _content(attr: ir.Attr) -> Hashable:
    if attr.type != ir.AttributeType.TENSOR:
        return repr(attr.value)
    tensor = attr.as_tensor()
    return (tensor.dtype, tuple(tensor.shape), tensor.tobytes()) if tensor.size <= _SMALL else id(tensor)
