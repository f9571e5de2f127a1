"""Put the branch that an If surely takes in the If's place.

    before   y = If(true, then: Relu(x), else: Neg(x))         after   y = Relu(x)

Exact. Left alone where only the data tell which branch runs. What the branch defines gets names that the graph around
does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.content import truth
from ...ir.level import Level
from ...ir.provenance import sources, stand_for
from ..base import Match, Miss, Rewrite
from ..edit import Ledger, Tape, is_op, replace


@dataclass(frozen=True, kw_only=True)
class Taken(Match):
    """The branch that runs."""

    branch: ir.Graph


@dataclass(frozen=True, kw_only=True)
class InlineBranches(Rewrite):
    """If(true, a, b) -> a"""

    name: ClassVar[str] = "inline-branches"
    level: ClassVar[Level] = Level.IMPORTED
    anchors: ClassVar[tuple[str, ...]] = ("If",)

    def match(self, node: ir.Node) -> Match | Miss:
        condition = node.inputs[0]
        if not is_op(node, "If") or condition is None:
            return Miss("op", node.name or "", "an If with a condition")
        chosen = truth(condition)
        if chosen is None:
            return Miss("condition", condition.name or "", "a condition that is known")
        return Taken(node=node, branch=node.attributes["then_branch" if chosen else "else_branch"].as_graph())

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Taken) and isinstance(found.node.graph, ir.Graph)
        node, branch, scope = found.node, found.branch, found.node.graph
        results = list(branch.outputs)
        branch.outputs.clear()
        tape = Tape()
        for value in list(branch.initializers.values()):
            del branch.initializers[value.name or ""]
            tape.constants.append(value)
        tape.nodes = list(branch)
        branch.remove(tape.nodes)
        ledger = Ledger.of(scope)
        own = {inner: sources(inner) for inner in tape.nodes}
        for inner in tape.nodes:
            inner.name = None
            for value in inner.outputs:
                value.name = ledger.unique(value.name) if value.name else None
        made = {value for inner in tape.nodes for value in inner.outputs}
        new: list[ir.Value] = []
        for old, value in zip(node.outputs, results, strict=True):
            # a name of a graph output has to be made by one node
            given = value in made and value not in new
            new.append(value if given or not old.is_graph_output() else tape("Identity", value))
        replace(tape, node.outputs, new, matched=[node])
        for inner, names in own.items():
            stand_for([inner], names)
