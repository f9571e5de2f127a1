"""Element types of values that a model does not annotate."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from .shape_compute import COMPUTE
from .shape_layout import LAYOUT
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
    "RMSNormalization": 1,
    "GatherBlockQuantized": 2,
    "QLinearMatMul": 7,
    "QLinearConv": 7,
    "QLinearConcat": 2,
    "QLinearWhere": 1,
    "QAttention": 3,
    "EmbedLayerNormalization": 2,
}

#: What a Constant holds whose number the call of a function says.
_NUMBERS = {"value_float": ir.DataType.FLOAT, "value_int": ir.DataType.INT64}


_CONTRIB = "com.microsoft"
#: Contrib ops whose first output has the type of their first input.
_LIKE_FIRST = frozenset(
    {
        "Attention",
        "BiasAdd",
        "BiasGelu",
        "FastGelu",
        "FusedConv",
        "FusedGemm",
        "FusedMatMul",
        "Gelu",
        "GroupQueryAttention",
        "MatMulNBits",
        "MultiHeadAttention",
        "QuickGelu",
        "RotaryEmbedding",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
#: Ops of ai.onnx that the rules above are right about.
_DEFINED = frozenset(op for domain, op in (*COMPUTE, *LAYOUT) if not domain) - {"Loop", "Scan"}
#: Of those, the ones whose further outputs are like the first, and single outputs that are not.
_SEVERAL = frozenset({"LSTM", "GRU", "RNN", "Split", "If", "Attention", "DynamicQuantizeLinear", "BatchNormalization"})
_FURTHER: Mapping[tuple[str, int], ir.DataType] = {
    ("TopK", 1): ir.DataType.INT64,
    ("Dropout", 1): ir.DataType.BOOL,
    ("MaxPool", 1): ir.DataType.INT64,
}


def output_type(node: ir.Node, index: int, scope: Scope) -> ir.DataType | None:
    """The type of output `index`: as annotated, else by the op, else that of the first input."""
    value = node.outputs[index]
    if value.dtype is not None:
        return value.dtype
    op = node.op_type
    if op == "DynamicQuantizeLinear":
        return ir.DataType.FLOAT if index == 1 else ir.DataType.UINT8
    if op == "EmbedLayerNormalization" and index == 1:
        return ir.DataType.INT32
    if op == "QGemm" and len(node.inputs) < 8:
        return _type(node.inputs[1], scope)
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
        named = _NUMBERS.get(next(iter(node.attributes), ""))
        return named if tensor is None else tensor.dtype
    at = _LIKE.get(op, 0)
    source = node.inputs[at] if at < len(node.inputs) else None
    return ir.DataType.UINT8 if source is None and op == "QuantizeLinear" else _type(source, scope)


def certain_type(node: ir.Node, index: int, scope: Scope) -> ir.DataType | None:
    """The type of output `index` where it is annotated, or follows by what the op is defined to give."""
    value = node.outputs[index]
    if value.dtype is not None:
        return value.dtype
    if any(item is not None and not isinstance(item.type, ir.TensorType | None) for item in node.inputs):
        return None
    op = node.op_type
    if node.domain:
        return output_type(node, index, scope) if node.domain == _CONTRIB and op in _LIKE_FIRST and not index else None
    if op not in _DEFINED or (index and op not in _SEVERAL and (op, index) not in _FURTHER):
        return None
    named = scope.integer(node, "dtype", 0) or scope.integer(node, "output_dtype", 0)
    return _FURTHER.get((op, index)) or (ir.DataType(named) if named else output_type(node, index, scope))


def _type(value: ir.Value | None, scope: Scope) -> ir.DataType | None:
    return None if value is None else scope.type_of(value)
