"""From a lowered model to OpenVINO's own form, through its ONNX frontend, and what the frontend cannot express."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from ...ir.errors import MissingOp
from ...ir.save import save
from ...ir.text import place, spelled
from ...ir.walk import held_graphs
from ...passes.edit import is_op

if TYPE_CHECKING:
    import openvino

#: The placeholders that partial conversion leaves: of an op without a rule, and of one whose rule refused.
_PLACEHOLDERS = ("ONNXFrameworkNode", "NotSupportedONNXNode")


def write_ir(model: ir.Model, target: Path, options: Mapping[str, str]) -> None:
    """Write `model` as OpenVINO IR: `target`, an .xml, and the .bin beside it, weights as they are.

    `options` go where OpenVINO looks for them when nobody says otherwise (rt_info, runtime_options). Raises what the
    frontend raises, a RuntimeError, where it cannot convert.
    """
    import openvino

    with tempfile.TemporaryDirectory(prefix="tersor-") as folder:
        path = Path(folder) / "model.onnx"
        save(model, path)
        converted = openvino.Core().read_model(path)
        for name, value in options.items():
            converted.set_rt_info(value, ["runtime_options", name])
        openvino.save_model(converted, target, compress_to_fp16=False)
        # It maps the temporary file, which some systems refuse to remove before it is let go.
        del converted


def missing_ops(model: ir.Model) -> list[MissingOp]:
    """Every op of `model` that the frontend has no rule for, or whose rule refuses it; subgraphs included."""
    refused = _refused(model)
    opsets = model.opset_imports
    return [
        MissingOp(_called(node), opsets.get(node.domain, 1), place(node).partition(" at ")[2], _readers(node))
        for node in model.graph.all_nodes()
        if not refused.get((node.domain, node.op_type), set()).isdisjoint(value.name for value in node.outputs)
    ]


def _refused(model: ir.Model) -> dict[tuple[str, str], set[str | None]]:
    """(domain, op) -> the names of the values it should have computed, for what partial conversion leaves undone."""
    from openvino.frontend import FrontEndManager

    with tempfile.TemporaryDirectory(prefix="tersor-") as folder:
        path = Path(folder) / "model.onnx"
        save(model, path)
        manager = FrontEndManager()
        frontend = manager.load_by_framework("onnx")
        # The converted nodes live in memory that these objects own: they stay referenced until everything is read.
        source = frontend.load(str(path))
        converted = frontend.convert_partially(source)
        found: dict[tuple[str, str], set[str | None]] = {}
        for node in _nodes(converted):
            if node.get_type_name() in _PLACEHOLDERS:
                attributes = node.get_attributes()
                key = attributes["ONNX_META_domain"], attributes["ONNX_META_type"]
                found.setdefault(key, set()).update(name for port in node.outputs() for name in port.get_names())
                found[key].add(node.get_friendly_name())
        del converted, source
    return found


def _nodes(model: openvino.Model) -> Iterator[openvino.Node]:
    for node in model.get_ordered_ops():
        yield node
        kind = node.get_type_name()
        if kind == "If":
            for branch in range(2):
                yield from _nodes(node.get_function(branch))
        elif kind in ("Loop", "TensorIterator"):
            yield from _nodes(node.get_function())


def _called(node: ir.Node) -> str:
    """The op, and where it comes from when it is a recurrent layer that rounds its state: an option chose that."""
    steps = [step for graph in held_graphs(node) for step in graph] if is_op(node, "Scan") else []
    rounds = any(is_op(step, "DynamicQuantizeLinear") for step in steps)
    return f"{spelled(node)} of quantize-dynamic{{recurrent=computed}}" if rounds else spelled(node)


def _readers(node: ir.Node) -> tuple[str, ...]:
    readers = dict.fromkeys(place(reader) for reader in node.successors())
    return tuple(readers)[:3]
