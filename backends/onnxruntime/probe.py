"""Which ops of a model ONNX Runtime cannot run: each kind of node is loaded as a model of its own."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ...ir.errors import MissingOp
from ...ir.text import spelled

#: Values larger than this are only declared, never stored, in a probe.
_SMALL = 1024


def missing_ops(model: ir.Model, provider: str) -> list[MissingOp]:
    """Every op without a kernel, one entry for each place, in graph order; functions are looked into."""
    if model.functions:
        model = model.clone()
        InlinePass()(model)
    verdicts: dict[tuple[object, ...], bool] = {}
    found: list[MissingOp] = []
    for node in model.graph.all_nodes():
        if any(_holds_graph(attr) for attr in node.attributes.values()):
            continue
        kind = _kind(node)
        if kind not in verdicts:
            verdicts[kind] = _loads(node, model, provider)
        if not verdicts[kind]:
            readers = tuple(reader.name or reader.op_type for value in node.outputs for reader in value.consumers())
            opset = model.opset_imports.get(node.domain, 1)
            found.append(MissingOp(spelled(node), opset, node.name or "", readers))
    return found


def _kind(node: ir.Node) -> tuple[object, ...]:
    types = tuple(None if value is None else value.dtype for value in node.inputs)
    return node.domain, node.op_type, types, tuple(sorted(map(str, node.attributes.values())))


def _holds_graph(attr: ir.Attr) -> bool:
    return attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _loads(node: ir.Node, model: ir.Model, provider: str) -> bool:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        onnxruntime.InferenceSession(_alone(node, model).SerializeToString(), options, providers=[provider])
    except Exception as error:
        return not _says_missing(str(error))
    return True


def _says_missing(text: str) -> bool:
    return any(phrase in text for phrase in ("NOT_IMPLEMENTED", "not a registered function/op", "No Op registered"))


def _alone(node: ir.Node, model: ir.Model) -> onnx.ModelProto:
    proto = ir.to_proto(node)
    inputs = {value.name: value for value in node.inputs if value is not None and value.name}
    small = [value.const_value for value in inputs.values() if _is_small(value)]
    stored = {tensor.name for tensor in small if tensor is not None}
    declared = [_declare(value) for name, value in inputs.items() if name not in stored]
    outputs = [onnx.ValueInfoProto(name=value.name) for value in node.outputs if value.name]
    graph = onnx.helper.make_graph(
        [proto], "probe", declared, outputs, [ir.to_proto(tensor) for tensor in small if tensor is not None]
    )
    opsets = [onnx.helper.make_opsetid(domain, number) for domain, number in model.opset_imports.items()]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)


def _is_small(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.size <= _SMALL


def _declare(value: ir.Value) -> onnx.ValueInfoProto:
    dtype = value.dtype or ir.DataType.FLOAT
    dims = None if value.shape is None else list(_dims(value.shape))
    return onnx.helper.make_tensor_value_info(value.name or "", int(dtype), dims)


def _dims(shape: ir.ShapeProtocol) -> Iterator[int | str | None]:
    return (dim if isinstance(dim, int) else dim.value for dim in shape)
