"""Raise ONNX Runtime's own ops to the standard ops that they stand for.

    before   y = com.microsoft.SkipLayerNormalization(x, skip, gamma, beta)
    after    s = Add(x, skip);  y = LayerNormalization{axis=-1}(s, gamma, beta)

Exact, so that a model that ONNX Runtime optimized can be compressed like the one it was made from. What each op stands
for is in `contrib.TABLE`, with weights cut or unpacked only when they are read. Left alone, with what lacks: ops that
ONNX has no form for (`contrib.KEPT`: layouts of one CPU, packed sequences, searches), caches of fixed length, and
inputs whose number of axes decides what they mean, where it is not known. Every op of a domain that is not ONNX's is
spoken of, whoever's it is, but for calls of the model's own functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ....ir.shape_annotate import annotate
from ....ir.walk import every_node
from ...base import Context, Finding, Match, Miss, Outcome, Rewrite
from ...edit import Tape, replace
from . import TABLE, why_kept
from .call import AbsentError, Build, Call


@dataclass(frozen=True, kw_only=True)
class Standing(Match):
    """A node and what records the nodes that it stands for."""

    build: Build


@dataclass(frozen=True, kw_only=True)
class RaiseContrib(Rewrite):
    """ops of ONNX Runtime -> standard ops"""

    name: ClassVar[str] = "raise-contrib"
    anchors: ClassVar[tuple[str, ...]] = tuple(f"{domain}.{op}" if domain else op for domain, op in TABLE)

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        if any(self._candidates(model.graph.all_nodes())):
            annotate(model)
        outcome = super().apply(model, context)
        return Outcome((*outcome.findings, *_kept(model)))

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """The verdict at every candidate, once the shapes around it are known."""
        copy = model.clone()
        if any(self._candidates(copy.graph.all_nodes())):
            annotate(copy)
        outcome = super().explain(copy, context)
        return Outcome((*outcome.findings, *_kept(copy)))

    def match(self, node: ir.Node) -> Match | Miss:
        if any(attr.is_ref() for attr in node.attributes.values()):
            return Miss("attributes", node.name or "", "attributes with values, not those of a function")
        call = Call(node)
        if not any(call.reads(index) for index in range(len(node.outputs))):
            return Miss("outputs", node.name or "", "an output that somebody reads")
        try:
            found = TABLE[node.domain, node.op_type](call)
        except AbsentError as absent:
            return Miss("inputs", node.name or "", str(absent))
        return found if isinstance(found, Miss) else Standing(node=node, build=found)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Standing)
        call, tape = Call(found.node), Tape()
        made = found.build(tape)
        old = [value for index, value in enumerate(found.node.outputs) if call.reads(index)]
        new = [made[index] for index in range(len(found.node.outputs)) if call.reads(index)]
        assert all(value is not None for value in new)
        replace(tape, old, [value for value in new if value is not None], matched=[found.node])


def _kept(model: ir.Model) -> Iterator[Finding]:
    """The ops that nothing raises, with the reason; calls of functions that the model holds are none of them."""
    for node in every_node(model.graph):
        if (node.domain, node.op_type) in TABLE or node.op_identifier() in model.functions:
            continue
        miss = why_kept(node.domain, node.op_type)
        if miss is not None:
            yield Finding.at(node, miss)
