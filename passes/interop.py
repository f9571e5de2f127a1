"""Rules of `onnxscript.rewriter` and passes of `onnx_ir`, used as passes of ours in one line.

class DropDoubleNegation(RuleSet):
    '''-(-x) -> x'''
    name = "drop-double-negation"
    rules = (my_rule,)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from ..ir.walk import every_graph, every_node
from .base import Context, Finding, Outcome, Pass
from .edit import drop, sweep


@dataclass(frozen=True, kw_only=True)
class RuleSet(Pass):
    """A pass made of `onnxscript.rewriter` rules, applied together until none fires."""

    rules: ClassVar[Sequence[RewriteRule]]

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        fired = RewriteRuleSet(list(self.rules)).apply_to_model(model)
        return counted(fired, "rule fired")


@dataclass(frozen=True, kw_only=True)
class IrPass(Pass):
    """A pass made of `onnx_ir` passes, run in order."""

    def passes(self) -> Sequence[ir.passes.PassBase]:
        """The `onnx_ir` passes, made anew for each application."""
        raise TypeError(f"{type(self).__name__} names no onnx_ir passes")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        nodes, outputs = _extent(model)
        modified = False
        for each in self.passes():
            modified |= each(model).modified
        left, named = _extent(model)
        return counted(max(nodes - left, int(modified or named != outputs)), "place rewritten")


class RemoveUnread(ir.passes.InPlacePass):
    """Remove nodes and initializers that nobody reads, in subgraphs too, and what only dead subgraphs read.

    onnx-ir's RemoveUnusedNodesPass leaves the initializers of subgraphs, and what a removed If or Loop captured.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        removed = len(sweep(model.graph))
        for scope in list(every_graph(model.graph))[1:]:
            removed += len(sweep(scope))
        values = [value for scope in _scopes(model) for value in scope.initializers.values()]
        dropped = sum(drop(value) for value in values)
        return ir.passes.PassResult(model, modified=bool(removed or dropped))


def _extent(model: ir.Model) -> tuple[int, int]:
    """How many nodes there are, and how many outputs they give: some passes do not say that they trim those."""
    nodes = list(every_node(model.graph))
    return len(nodes), sum(bool(value.name) for node in nodes for value in node.outputs)


def _scopes(model: ir.Model) -> Sequence[ir.Graph]:
    return tuple(every_graph(model.graph))


def counted(times: int, what: str) -> Outcome:
    """An outcome that knows how often, not where."""
    return Outcome(tuple(Finding(f"{what} {index + 1}") for index in range(times)))
