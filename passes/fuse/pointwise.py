"""Ops that may be done before or behind a transpose: their inputs as they are read in another order of axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ...ir.constants import tensor_of
from ...ir.content import dimensions
from ..edit import attribute

Perm = tuple[int, ...]

_UNARY = """Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu
HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin
Sinh Softplus Softsign Sqrt Tan Tanh ThresholdedRelu"""
_BROADCAST = """Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max
Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor"""

#: Element by element, inputs broadcast to one another.
POINTWISE = frozenset(f"{_UNARY} {_BROADCAST} Clip".split())
#: Along one axis.
ALONG = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
#: Along the last axis, with parameters for it.
LAST = frozenset({"LayerNormalization", "RMSNormalization", "MatMul"})

#: Larger constants are not turned.
_SMALL = 1 << 16


@dataclass(frozen=True)
class Input:
    """An input of a node that reads its values in another order of axes: `value` transposed, or a constant as
    `dims`, which is None where it is read as it is."""

    value: ir.Value
    turned: bool = False
    dims: tuple[int, ...] | None = None


def inverse(perm: Sequence[int]) -> Perm:
    """
    >>> inverse((2, 0, 1))
    (1, 2, 0)
    """
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


def composed(first: Sequence[int], then: Sequence[int]) -> Perm:
    """One transpose for two.

    >>> composed((2, 0, 1), (1, 2, 0))
    (0, 1, 2)
    """
    return tuple(first[index] for index in then)


def perm_of(node: ir.Node | None) -> Perm | None:
    """By what a Transpose transposes; None for other nodes, and where the rank is unknown or another."""
    if node is None or node.domain or node.op_type != "Transpose":
        return None
    dims, given = dimensions(node.inputs[0]), node.attributes.get("perm")
    if dims is None:
        return None
    perm = tuple(given.as_ints()) if given is not None else tuple(range(len(dims)))[::-1]
    return perm if sorted(perm) == [*range(len(dims))] else None


def inputs_of(node: ir.Node, perm: Perm) -> tuple[Input | None, ...] | None:
    """How a node reads its inputs so that it gives its output transposed by `perm`; None where it cannot."""
    rank = len(perm)
    out = dimensions(node.outputs[0]) if len(node.outputs) == 1 else None
    if node.domain or out is None or len(out) != rank:
        return None
    if node.op_type in POINTWISE:
        found = [None if value is None else _read(value, perm) for value in node.inputs]
        missing = any(have is None and value is not None for have, value in zip(found, node.inputs, strict=True))
        return None if missing else tuple(found)
    if node.op_type in ALONG:
        (value,) = node.inputs
        return None if value is None else (Input(value, turned=True),)
    if node.op_type in LAST and perm[-1] == rank - 1:
        data, *rest = node.inputs
        axis, widest = (-1, 2) if node.op_type == "MatMul" else (attribute(node, "axis", -1), 1)
        ranks = [_rank(value) for value in rest if value is not None]
        if data is None or _rank(data) != rank or axis not in (-1, rank - 1) or max(ranks, default=0) > widest:
            return None
        return (Input(data, turned=True), *(None if value is None else Input(value) for value in rest))
    return None


def axis_of(node: ir.Node, perm: Perm) -> int | None:
    """The axis attribute of a node that gives its output transposed; None where it has none or it stays."""
    if node.op_type not in ALONG:
        return None
    axis = attribute(node, "axis", -1)
    return perm.index(axis + len(perm) * (axis < 0))


def _rank(value: ir.Value) -> int:
    """The rank of a value, more than any where it is unknown."""
    dims = dimensions(value)
    return 1 << 30 if dims is None else len(dims)


def _read(value: ir.Value, perm: Perm) -> Input | None:
    """An input that broadcasts to the rank of `perm`."""
    dims = dimensions(value)
    if dims is None or len(dims) > len(perm):
        return None
    if all(dim == 1 for dim in dims):
        return Input(value)
    tensor = tensor_of(value)
    sizes = [dim for dim in dims if isinstance(dim, int)]
    if tensor is not None and len(sizes) == len(dims) and sum(dim != 1 for dim in dims) == 1 and tensor.size <= _SMALL:
        padded = [*[1] * (len(perm) - len(dims)), *sizes]
        return Input(value, dims=tuple(padded[index] for index in perm))
    return Input(value, turned=True) if len(dims) == len(perm) else None
