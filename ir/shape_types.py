"""Element types of values that a model does not annotate."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .shape_scope import Scope

_BOOL = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf")
_INT64 = ("Shape", "Size", "ArgMax", "ArgMin", "NonZero")
_FIXED: Mapping[str, ir.DataType] = {
    **dict.fromkeys(_BOOL, ir.DataType.BOOL),
    **dict.fromkeys(_INT64, ir.DataType.INT64),
    "MatMulInteger": ir.DataType.INT32,
    "ConvInteger": ir.DataType.INT32,
    "MatMulIntegerToFloat": ir.DataType.FLOAT,
}
#: Ops whose output has the type of an input other than the first.
_LIKE: Mapping[str, int] = {
    "Where": 1,
    "CastLike": 1,
    "DequantizeLinear": 1,
    "QuantizeLinear": 2,
    "OneHot": 2,
    "GatherBlockQuantized": 2,
    "QLinearMatMul": 7,
    "QLinearConv": 7,
}


def output_type(node: ir.Node, index: int, scope: Scope) -> ir.DataType | None:
    """The type of output `index`: as annotated, else by the op, else that of the first input."""
    value = node.outputs[index]
    if value.dtype is not None:
        return value.dtype
    op = node.op_type
    if op == "DynamicQuantizeLinear":
        return ir.DataType.FLOAT if index == 1 else ir.DataType.UINT8
    if op == "TopK" and index == 1:
        return ir.DataType.INT64
    if op in _FIXED:
        return _FIXED[op]
    if op == "Cast":
        return ir.DataType(scope.integer(node, "to", 1))
    if op == "ConstantOfShape":
        attr = node.attributes.get("value")
        return ir.DataType.FLOAT if attr is None else attr.as_tensor().dtype
    if op == "If":
        return scope.type_of(node.attributes[scope.branches(node)[0]].as_graph().outputs[index])
    if op == "Constant":
        tensor = ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.dtype
    at = _LIKE.get(op, 0)
    source = node.inputs[at] if at < len(node.inputs) else None
    return ir.DataType.UINT8 if source is None and op == "QuantizeLinear" else _type(source, scope)


def _type(value: ir.Value | None, scope: Scope) -> ir.DataType | None:
    return None if value is None else scope.type_of(value)
