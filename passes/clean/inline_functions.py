"""Put the bodies of the user's model-local functions where they are called.

    before   y = pkg.Block(x)      Block: ...           after   the body's nodes, x to y

Exact. Left alone: functions of tersor's own domain, which backends match as calls.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir
from onnx_ir.passes import common

from ...ir.level import DOMAIN, Level
from ...ir.walk import every_graph
from ..interop import IrPass


@dataclass(frozen=True, kw_only=True)
class InlineFunctions(IrPass):
    """Inline model-local functions, tersor's own with `own=true` too.

    own: inline the functions of domain `tersor` as well, for a runtime that knows none of them.
    """

    name: ClassVar[str] = "inline-functions"
    level: ClassVar[Level] = Level.IMPORTED
    own: bool = False

    def passes(self) -> Sequence[ir.passes.PassBase]:
        return (
            common.InlinePass(lambda function: self.own or function.domain != DOMAIN),
            _NameInputsApart(),
            common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]  # onnx-ir leaves it untyped
            common.RemoveUnusedOpsetsPass(),
        )


class _NameInputsApart(ir.passes.InPlacePass):
    """Give the inputs of subgraphs names of their own: a body that is put in two places brings them twice."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        inner = [value for graph in every_graph(model.graph) if graph is not model.graph for value in graph.inputs]
        if not inner:
            return ir.passes.PassResult(model, modified=False)
        often = Counter(value.name for graph in every_graph(model.graph) for value in _named(graph))
        shared = [value for value in inner if often[value.name] > 1]
        for value in shared:
            if often[value.name] > 1:
                often[value.name] -= 1
                value.name = next(name for count in itertools.count(1) if not often[name := f"{value.name}_{count}"])
                often[value.name] = 1
        return ir.passes.PassResult(model, modified=bool(shared))


def _named(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from (*graph.inputs, *graph.initializers.values())
    yield from (value for node in graph for value in node.outputs)
