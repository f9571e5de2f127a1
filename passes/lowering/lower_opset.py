"""State the lowest opset and IR version that carry the graph, so that older runtimes load it too.

    before   opset 23, IR 10, newest op in use: Gelu (20)       after   opset 20, IR 9

Exact. An op goes down to an older version when that version takes the same inputs, attributes and types, and none of
the versions between changed what it computes (`_CHANGED`). Never below `floor`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_ir as ir

from ...ir.level import Level
from ..base import Context, Finding, Outcome, Pass

#: Versions since which an op computes something else though its signature stayed: (op, since).
_CHANGED = frozenset(
    {
        ("AveragePool", 19),
        ("DFT", 20),
        ("GridSample", 20),
        ("GroupNormalization", 21),
        ("Hardmax", 13),
        ("LogSoftmax", 13),
        ("Resize", 19),
        ("RoiAlign", 16),
        ("Softmax", 13),
    }
)
#: Attribute values that only came with a version: (op, since) -> values.
_ADDED: Mapping[tuple[str, int], frozenset[str]] = {
    ("Pad", 19): frozenset({"wrap"}),
    ("ScatterElements", 18): frozenset({"max", "min"}),
    ("ScatterND", 18): frozenset({"max", "min"}),
}


@dataclass(frozen=True, kw_only=True)
class LowerOpset(Pass):
    """The lowest opset and IR version that carry the graph.

    floor: the lowest opset considered.
    """

    name: ClassVar[str] = "lower-opset"
    level: ClassVar[Level] = Level.LOWERED
    floor: int = 18

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        have = model.opset_imports.get("", self.floor)
        bodies: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
        standard = [node for body in bodies for node in ir.traversal.RecursiveGraphIterator(body) if not node.domain]
        need = max([_oldest(node, have, self.floor) for node in standard], default=self.floor)
        if need >= have:
            return Outcome()
        for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
            if "" in imports:
                imports[""] = need
        for node in standard:
            node.version = None
        model.ir_version = _ir_version(model.opset_imports)
        return Outcome((Finding(f"opset {have} to {need}, IR version {model.ir_version}"),))


def _oldest(node: ir.Node, opset: int, floor: int) -> int:
    """The oldest opset, at least `floor`, at which the node means what it means at `opset`."""
    try:
        newest = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return opset
    at = newest
    while at.since_version > floor:
        version = (node.op_type, at.since_version)
        if version in _CHANGED or _texts(node) & _ADDED.get(version, frozenset()):
            return int(at.since_version)
        try:
            older = onnx.defs.get_schema(node.op_type, at.since_version - 1, "")
        except onnx.defs.SchemaError:
            return int(at.since_version)
        if not _fits(node, older):
            return int(at.since_version)
        at = older
    return floor


def _texts(node: ir.Node) -> set[str]:
    return {attr.as_string() for attr in node.attributes.values() if attr.type == ir.AttributeType.STRING}


def _fits(node: ir.Node, schema: onnx.defs.OpSchema) -> bool:
    if not set(node.attributes) <= set(schema.attributes):
        return False
    if len(node.inputs) > schema.max_input or len(node.outputs) > schema.max_output:
        return False
    reads = zip(node.inputs, _formals(schema.inputs, len(node.inputs)), strict=True)
    writes = zip(node.outputs, _formals(schema.outputs, len(node.outputs)), strict=True)
    return all(value is None or _allows(formal, value) for value, formal in (*reads, *writes))


def _formals(
    declared: Sequence[onnx.defs.OpSchema.FormalParameter], count: int
) -> list[onnx.defs.OpSchema.FormalParameter]:
    """The declared parameters, a variadic last one repeated."""
    return [declared[min(index, len(declared) - 1)] for index in range(count)]


def _allows(formal: onnx.defs.OpSchema.FormalParameter, value: ir.Value) -> bool:
    if value.dtype is None:
        return True
    wanted = f"tensor({_SPELLING.get(value.dtype, value.dtype.name.lower())})"
    return wanted in formal.types


_SPELLING: Mapping[ir.DataType, str] = {ir.DataType.FLOAT: "float", ir.DataType.DOUBLE: "double"}


def _ir_version(opsets: Mapping[str, int]) -> int:
    known = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items() if domain == ""]
    return int(onnx.helper.find_min_ir_version_for(known))
