"""Element types of values that a model does not annotate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from .shape_compute import COMPUTE
from .shape_layout import LAYOUT
from .shape_scope import Scope

#: The type of an output of a node.
_Of: TypeAlias = "Callable[[ir.Node, int, Scope], ir.DataType | None]"


@dataclass(frozen=True)
class Type:
    """The type of an output. certain: the op is defined to give it; otherwise it is what it is in most models."""

    of: _Of
    certain: bool = True


def output_type(node: ir.Node, index: int, scope: Scope) -> ir.DataType | None:
    """The type of output `index`: as annotated, else by the op, else that of the first input."""
    return node.outputs[index].dtype or _type(node, index).of(node, index, scope)


def certain_type(node: ir.Node, index: int, scope: Scope) -> ir.DataType | None:
    """The type of output `index` where it is annotated, or follows by what the op is defined to give."""
    known = node.outputs[index].dtype
    if known is not None or any(item is not None and not _is_tensor(item) for item in node.inputs):
        return known
    found = _type(node, index)
    return found.of(node, index, scope) if found.certain else None


def _type(node: ir.Node, index: int) -> Type:
    found = TYPES.get((node.domain, node.op_type, index))
    return found or TYPES.get((node.domain, node.op_type, None)) or _OTHERWISE


def _is_tensor(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType | None)


def _is(dtype: ir.DataType) -> _Of:
    return lambda node, index, scope: dtype


def _like(place: int) -> _Of:
    """The type of an input."""

    def of(node: ir.Node, _: int, scope: Scope) -> ir.DataType | None:
        source = node.inputs[place] if place < len(node.inputs) else None
        return None if source is None else scope.type_of(source)

    return of


def _named(attribute: str, otherwise: _Of) -> _Of:
    """The type that an attribute names."""

    def of(node: ir.Node, index: int, scope: Scope) -> ir.DataType | None:
        named = scope.integer(node, attribute, 0)
        return ir.DataType(named) if named else otherwise(node, index, scope)

    return of


def _quantized(node: ir.Node, index: int, scope: Scope) -> ir.DataType | None:
    return _like(2)(node, index, scope) if scope.has(node, 2) else ir.DataType.UINT8


def _quantized_gemm(node: ir.Node, index: int, scope: Scope) -> ir.DataType | None:
    """Not quantized again where no scale of the output is given."""
    return _like(0 if len(node.inputs) > 7 else 1)(node, index, scope)


def _filled(node: ir.Node, _: int, __: Scope) -> ir.DataType | None:
    attr = node.attributes.get("value")
    return ir.DataType.FLOAT if attr is None else attr.as_tensor().dtype


def _constant(node: ir.Node, index: int, _: Scope) -> ir.DataType | None:
    tensor = ir.convenience.get_const_tensor(node.outputs[index])
    # the call of a function says which number
    numbers = {"value_float": ir.DataType.FLOAT, "value_int": ir.DataType.INT64}
    return numbers.get(next(iter(node.attributes), "")) if tensor is None else tensor.dtype


def _branch(node: ir.Node, index: int, scope: Scope) -> ir.DataType | None:
    return scope.type_of(node.attributes[scope.branches(node)[0]].as_graph().outputs[index])


def _body(node: ir.Node, index: int, scope: Scope) -> ir.DataType | None:
    """A loop gives back what its body gives, but for whether to go on."""
    going = 1 if node.op_type == "Loop" else 0
    return scope.type_of(node.attributes["body"].as_graph().outputs[index + going])


_BOOL = "Equal Greater GreaterOrEqual Less LessOrEqual And Or Xor Not IsNaN IsInf"
_CONTRIB = "com.microsoft"
_CONTRIB_LIKE_FIRST = (
    "Attention BiasAdd BiasGelu FastGelu FusedConv FusedGemm FusedMatMul Gelu GroupQueryAttention MatMulNBits "
    "MultiHeadAttention QuickGelu RotaryEmbedding SkipLayerNormalization SkipSimplifiedLayerNormalization"
)

#: (domain, op, output), None for every output that is not in the table.
TYPES: Mapping[tuple[str, str, int | None], Type] = {
    **{("", op, 0): Type(_like(0)) for domain, op in (*COMPUTE, *LAYOUT) if not domain and op not in ("Loop", "Scan")},
    **{("", op, None): Type(_like(0)) for op in ("LSTM", "GRU", "RNN", "Split", "Attention", "BatchNormalization")},
    **{("", op, 0): Type(_is(ir.DataType.BOOL)) for op in _BOOL.split()},
    **{("", op, 0): Type(_is(ir.DataType.INT64)) for op in ("Shape", "Size", "ArgMax", "ArgMin", "NonZero")},
    **{("", op, 0): Type(_is(ir.DataType.INT32)) for op in ("MatMulInteger", "ConvInteger")},
    **{("", op, 0): Type(_like(1)) for op in ("Where", "CastLike", "RMSNormalization")},
    **{("", op, 0): Type(_like(7)) for op in ("QLinearMatMul", "QLinearConv")},
    **{
        ("", op, 0): Type(_named("dtype", _like(0)))
        for op in ("EyeLike", "Bernoulli", "RandomNormalLike", "RandomUniformLike")
    },
    ("", "Cast", 0): Type(_named("to", _is(ir.DataType.FLOAT))),
    ("", "Constant", 0): Type(_constant),
    ("", "ConstantOfShape", 0): Type(_filled),
    ("", "OneHot", 0): Type(_like(2)),
    ("", "If", 0): Type(_branch),
    ("", "If", None): Type(_branch),
    **{("", op, None): Type(_body) for op in ("Loop", "Scan")},
    ("", "TopK", 1): Type(_is(ir.DataType.INT64)),
    ("", "MaxPool", 1): Type(_is(ir.DataType.INT64)),
    ("", "Dropout", 1): Type(_is(ir.DataType.BOOL)),
    ("", "QuantizeLinear", 0): Type(_named("output_dtype", _quantized)),
    ("", "DequantizeLinear", 0): Type(_named("output_dtype", _like(1))),
    ("", "DynamicQuantizeLinear", 0): Type(_is(ir.DataType.UINT8)),
    ("", "DynamicQuantizeLinear", 1): Type(_is(ir.DataType.FLOAT)),
    ("", "DynamicQuantizeLinear", 2): Type(_is(ir.DataType.UINT8)),
    **{(_CONTRIB, op, 0): Type(_like(0)) for op in _CONTRIB_LIKE_FIRST.split()},
    (_CONTRIB, "QuantizeLinear", None): Type(_quantized, certain=False),
    (_CONTRIB, "DequantizeLinear", None): Type(_like(1), certain=False),
    (_CONTRIB, "GatherBlockQuantized", None): Type(_like(2), certain=False),
    (_CONTRIB, "MatMulIntegerToFloat", None): Type(_is(ir.DataType.FLOAT), certain=False),
    (_CONTRIB, "QLinearConcat", None): Type(_like(2), certain=False),
    (_CONTRIB, "QLinearWhere", None): Type(_like(1), certain=False),
    (_CONTRIB, "QAttention", None): Type(_like(3), certain=False),
    (_CONTRIB, "QGemm", None): Type(_quantized_gemm, certain=False),
    (_CONTRIB, "EmbedLayerNormalization", None): Type(_like(2), certain=False),
    (_CONTRIB, "EmbedLayerNormalization", 1): Type(_is(ir.DataType.INT32), certain=False),
}

_OTHERWISE = Type(_like(0), certain=False)
