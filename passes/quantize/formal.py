"""Which of a node's floats may be of another float type, by ONNX's own schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import onnx
import onnx_ir as ir

from ...ir.level import SEMANTIC_OPSET
from ..edit import is_op

Schema = onnx.defs.OpSchema
_VARIADIC = onnx.defs.OpSchema.FormalParameterOption.Variadic

#: Ops whose result has the type that an attribute or a stored value names, whatever they read.
_NAMED = frozenset({"Cast", "Constant", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform"})
#: Type variables of results that follow a variable of the inputs without bearing its name.
_FOLLOWS: Mapping[tuple[str, str], str] = {("DequantizeLinear", "T3"): "T2"}

Functions = Mapping[ir.OperatorIdentifier, ir.Function]


@dataclass(frozen=True)
class Floats:
    """The positions of a node's float32 inputs and outputs that may all become another type together."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def floats(node: ir.Node, dtype: ir.DataType, functions: Functions) -> Floats | None:
    """What of a node may become `dtype`; None where nothing may."""
    function = functions.get(node.op_identifier())
    if function is not None:
        if not _generic(function, dtype, functions):
            return None
        found = Floats(tuple(_float32(node.inputs)), tuple(_float32(node.outputs)))
        return found if found.inputs else None
    schema = _schema(node.domain, node.op_type)
    if schema is None or node.op_type in _NAMED:
        return None
    allowed = {each.type_param_str for each in schema.type_constraints if _spelled(dtype) in each.allowed_type_strs}
    taken = {at: _variable(schema.inputs, at) for at in _float32(node.inputs)}
    moved = {at: name for at, name in taken.items() if name in allowed}
    names = set(moved.values())
    names |= {made for (op, made), read in _FOLLOWS.items() if op == node.op_type and read in names}
    made = tuple(at for at in _float32(node.outputs) if _variable(schema.outputs, at) in names & allowed)
    return Floats(tuple(moved), made) if moved else None


def _generic(function: ir.Function, dtype: ir.DataType, functions: Functions) -> bool:
    """Whether a function's body computes in whatever float type it is given."""
    return all(_takes(node, dtype, functions) for node in function)


def _takes(node: ir.Node, dtype: ir.DataType, functions: Functions) -> bool:
    inner = functions.get(node.op_identifier())
    if inner is not None:
        return _generic(inner, dtype, functions)
    if node.op_type in _NAMED:
        return not _makes_float32(node)
    schema = _schema(node.domain, node.op_type)
    if schema is None:
        return False
    wide = [each for each in schema.type_constraints if _spelled(ir.DataType.FLOAT) in each.allowed_type_strs]
    return all(_spelled(dtype) in each.allowed_type_strs for each in wide)


def _makes_float32(node: ir.Node) -> bool:
    """Whether what a node's attributes name is float32; shapes and other integers are of no account."""
    if is_op(node, "Constant", "ConstantOfShape"):
        tensors = [attr.as_tensor() for attr in node.attributes.values() if attr.type == ir.AttributeType.TENSOR]
        given = {"value_float", "value_floats"} & set(node.attributes)
        return (
            bool(given)
            or (not tensors and node.op_type == "ConstantOfShape")
            or any(tensor.dtype == ir.DataType.FLOAT for tensor in tensors)
        )
    named = node.attributes.get("to") or node.attributes.get("dtype")
    return named is None or named.is_ref() or named.as_int() == ir.DataType.FLOAT


def _float32(values: Sequence[ir.Value | None]) -> Iterator[int]:
    return (at for at, value in enumerate(values) if value is not None and value.dtype == ir.DataType.FLOAT)


def _variable(formal: Sequence[onnx.defs.OpSchema.FormalParameter], at: int) -> str:
    """The type variable, or the type, of a position."""
    if at < len(formal):
        return formal[at].type_str
    # a variadic parameter is the last
    return formal[-1].type_str if formal and formal[-1].option == _VARIADIC else ""


def _spelled(dtype: ir.DataType) -> str:
    return f"tensor({dtype.name.lower()})"


@cache
def _schema(domain: str, op: str) -> Schema | None:
    try:
        return onnx.defs.get_schema(op, SEMANTIC_OPSET, domain)
    except onnx.defs.SchemaError:
        return None
