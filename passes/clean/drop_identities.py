"""Remove Identity nodes and casts to the type a value already has.

    before   x --> Identity --> Relu --> y         after   x --> Relu --> y

Exact. Left alone where the node gives an input, an initializer, an outer scope's value or a second output the name of a
graph output: that name has to be made somewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.level import Level
from ..base import Match, Miss, Rewrite
from ..edit import Tape, replace, stand_in


@dataclass(frozen=True, kw_only=True)
class DropIdentities(Rewrite):
    """Identity(x) -> x"""

    name: ClassVar[str] = "drop-identities"
    level: ClassVar[Level] = Level.IMPORTED
    anchors: ClassVar[tuple[str, ...]] = ("Identity", "Cast")

    def match(self, node: ir.Node) -> Match | Miss:
        value, result = node.inputs[0], node.outputs[0]
        if node.domain or value is None:
            return Miss("op", node.name or "", "an Identity or Cast of ai.onnx")
        if node.op_type == "Cast" and value.dtype != ir.DataType(node.attributes["to"].as_int()):
            return Miss("cast", value.name or "", "a value that has the type already")
        if result.is_graph_output():
            producer = value.producer()
            if producer is None or producer.graph is not node.graph or value.is_graph_output():
                return Miss("name", result.name or "", "a value of its own that can take the output's name")
        return Match(node=node)

    def rewrite(self, found: Match) -> None:
        value, result = found.node.inputs[0], found.node.outputs[0]
        assert value is not None
        if result.is_graph_output():
            stand_in(result, value)
        replace(Tape(), [result], [value])
