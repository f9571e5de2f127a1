"""What ONNX's own shape inference knows about the results of ops that have no rule here."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from .shapes import RULES
from .walk import every_node

#: Values that ONNX was asked about, by name; a second answer would be the first.
_ASKED = "tersor.asked"


def take_answers(model: ir.Model) -> None:
    """Take over what ONNX knows, asked on a clone without weights, once about each value."""
    unknown = {
        value.name
        for node in every_node(model.graph)
        if not node.domain and ("", node.op_type) not in RULES
        for value in node.outputs
        if value.name and (value.type is None or value.shape is None)
    }
    asked = model.graph.meta.setdefault(_ASKED, set())
    if unknown <= asked:
        return
    asked |= unknown
    clone = model.clone()
    ShapeInferencePass(check_type=False, strict_mode=False)(clone)
    for mine, theirs in zip(results(model), results(clone), strict=True):
        if mine.name in unknown:
            mine.type = mine.type or theirs.type
            mine.shape = theirs.shape if mine.shape is None else mine.shape


def results(model: ir.Model) -> Iterator[ir.Value]:
    """The named results of all nodes, those of subgraphs included."""
    for node in every_node(model.graph):
        yield from (value for value in node.outputs if value.name)
