"""Shape arithmetic by value: what Shape, Gather, Concat, Mul ... do to small integer tensors.

Tensors are numpy arrays of polynomials, None where a number is unknown, so that numpy's own indexing and broadcasting
do the work. What a rule says holds for every size of the dimensions; a dimension is never negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .polynomial import Polynomial, smaller
from .shape_layout import LAYOUT
from .shape_scope import Content, Scope, int_of

Number = Polynomial | None

#: Integer tensors of at most this many elements are followed by value; larger ones hold data, not shapes.
SMALL = 64


def lift(array: NDArray[np.generic]) -> Content:
    """Numbers as constant polynomials."""
    return _array([Polynomial.of(int(number)) for number in array.reshape(-1).tolist()], array.shape)


def _array(numbers: list[Number], shape: tuple[int, ...] | None = None) -> Content:
    flat = np.empty(len(numbers), dtype=object)
    flat[:] = numbers
    return flat if shape is None else flat.reshape(shape)


def _need(node: ir.Node, scope: Scope, index: int) -> Content:
    content = scope.content(node.inputs[index])
    if content is None:
        raise ValueError("the numbers are unknown")
    return content


def _pairwise(operation: Callable[[Polynomial, Polynomial], Number]) -> Callable[[ir.Node, Scope], Content]:
    def apply(node: ir.Node, scope: Scope) -> Content:
        left, right = np.broadcast_arrays(_need(node, scope, 0), _need(node, scope, 1))
        pairs = zip(left.reshape(-1), right.reshape(-1), strict=True)
        return _array([None if a is None or b is None else operation(a, b) for a, b in pairs], left.shape)

    return apply


def _equal(left: Polynomial, right: Polynomial) -> Number:
    if left == right:
        return Polynomial.of(1)
    apart = (left - right - 1).nonnegative or (right - left - 1).nonnegative
    return Polynomial.of(0) if apart else None


def _less(left: Polynomial, right: Polynomial) -> Number:
    if (left - right).nonnegative:
        return Polynomial.of(0)
    return Polynomial.of(1) if (right - left - 1).nonnegative else None


def _quotient(left: Polynomial, right: Polynomial) -> Number:
    """Division of integers rounds toward zero in ONNX, which is down where neither side is negative."""
    if left.constant is not None and right.constant:
        size = abs(left.constant) // abs(right.constant)
        return Polynomial.of(size if (left.constant < 0) == (right.constant < 0) else -size)
    if right == 0 or not (left.nonnegative and right.nonnegative):
        return None
    return left // right


def _remainder(left: Polynomial, right: Polynomial) -> Number:
    if right == 0 or not (left.nonnegative and right.nonnegative):
        return None
    return left - left // right * right


def _larger(left: Polynomial, right: Polynomial) -> Number:
    if (left - right).nonnegative:
        return left
    return right if (right - left).nonnegative else None


def _where(node: ir.Node, scope: Scope) -> Content:
    parts = np.broadcast_arrays(*(_need(node, scope, index) for index in range(3)))
    rows = zip(*(part.reshape(-1) for part in parts), strict=True)
    return _array([_chosen(test, yes, no) for test, yes, no in rows], parts[0].shape)


def _chosen(test: Number, yes: Number, no: Number) -> Number:
    truth = _truth(test)
    if truth is None:
        return yes if yes == no else None
    return yes if truth else no


def _shape(node: ir.Node, scope: Scope) -> Content:
    dims = scope.input(node, 0)
    return _array(list(dims)[slice(scope.integer(node, "start", 0), scope.integer(node, "end", len(dims)))])


def _size(node: ir.Node, scope: Scope) -> Content:
    size: Number = Polynomial.of(1)
    for dim in scope.input(node, 0):
        size = None if dim is None or size is None else size * dim
    return _array([size], ())


def _same(node: ir.Node, scope: Scope) -> Content:
    return _need(node, scope, 0)


def _cast(node: ir.Node, scope: Scope) -> Content | None:
    to = ir.DataType(scope.integer(node, "to", 0))
    if to == ir.DataType.BOOL:
        tests = [_truth(number) for number in _need(node, scope, 0).reshape(-1)]
        return _array(tests, _need(node, scope, 0).shape)
    return _need(node, scope, 0) if to in (ir.DataType.INT64, ir.DataType.INT32) else None


def _not(node: ir.Node, scope: Scope) -> Content:
    data = _need(node, scope, 0)
    tests = [_truth(number) for number in data.reshape(-1)]
    return _array([None if test is None else 1 - test for test in tests], data.shape)


def _truth(number: Number) -> Number:
    if number is None:
        return None
    if number.constant is not None:
        return Polynomial.of(int(number.constant != 0))
    return Polynomial.of(1) if (number - 1).nonnegative else None


def _gather(node: ir.Node, scope: Scope) -> Content:
    indices = _need(node, scope, 1)
    if _need(node, scope, 0).ndim != 1:
        raise ValueError("only vectors are picked from")
    flat = [int(index) for index in indices.reshape(-1)]
    return np.asarray(_need(node, scope, 0)[np.array(flat, dtype=np.int64).reshape(indices.shape)], dtype=object)


def _concat(node: ir.Node, scope: Scope) -> Content:
    if scope.integer(node, "axis", 0) not in (0, -1):
        raise ValueError("only vectors are joined")
    flat: list[Number] = []
    for index, value in enumerate(node.inputs):
        part = scope.content(value)
        if part is None:
            flat += [None] * int_of(scope.input(node, index)[0])
        elif part.ndim == 1:
            flat += part.tolist()
        else:
            raise ValueError("only vectors are joined")
        if len(flat) > SMALL:
            raise ValueError("too long for a shape")
    return _array(flat)


def _slice(node: ir.Node, scope: Scope) -> Content:
    data = _need(node, scope, 0)
    starts, ends = (scope.constants(node, 1, "starts") or [], scope.constants(node, 2, "ends") or [])
    axes = scope.constants(node, 3, "axes") or list(range(len(starts)))
    steps = scope.constants(node, 4, "steps") or [1] * len(starts)
    where = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        # an end far below zero is before the first element, which Python spells None
        where[axis] = slice(start, None if step < 0 and end < -data.shape[axis] else end, step)
    return np.asarray(data[tuple(where)], dtype=object)


def _reshaped(node: ir.Node, scope: Scope) -> Content:
    """Squeeze, Unsqueeze and Reshape: the shape rule knows the new shape."""
    data = _need(node, scope, 0)
    dims = next(LAYOUT["", node.op_type](node, scope))
    return data.reshape([int_of(dim) for dim in dims or ()])


def _transpose(node: ir.Node, scope: Scope) -> Content:
    data = _need(node, scope, 0)
    return data.transpose(scope.integers(node, "perm", list(range(data.ndim))[::-1]))


def _filled(node: ir.Node, scope: Scope) -> Content | None:
    shape = [int_of(number) for number in _need(node, scope, 0)]
    attr = node.attributes.get("value")
    tensor = None if attr is None else attr.as_tensor()
    count = prod(shape)
    if tensor is None or not tensor.dtype.is_integer() or count > SMALL:
        return None
    return _array([Polynomial.of(int(tensor.numpy().reshape(-1)[0]))] * count, tuple(shape))


def _expanded(node: ir.Node, scope: Scope) -> Content | None:
    data, target = _need(node, scope, 0), [int_of(number) for number in _need(node, scope, 1)]
    shape = np.broadcast_shapes(data.shape, tuple(target))
    return np.broadcast_to(data, shape) if prod(shape) <= SMALL else None


def _product(node: ir.Node, scope: Scope) -> Content:
    data = _need(node, scope, 0)
    if data.ndim != 1:
        raise ValueError("only vectors are reduced")
    whole: Number = Polynomial.of(1)
    for number in data:
        whole = None if whole is None or number is None else whole * number
    return _array([whole], (1,) if scope.integer(node, "keepdims", 1) else ())


def _range(node: ir.Node, scope: Scope) -> Content | None:
    start, limit, step = [int(_need(node, scope, index).reshape(-1)[0]) for index in range(3)]
    numbers = range(start, limit, step)
    return _array([Polynomial.of(number) for number in numbers]) if len(numbers) <= SMALL else None


CONTENTS: Mapping[str, Callable[[ir.Node, Scope], Content | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Identity": _same,
    "Cast": _cast,
    "Gather": _gather,
    "Concat": _concat,
    "Slice": _slice,
    "Squeeze": _reshaped,
    "Unsqueeze": _reshaped,
    "Reshape": _reshaped,
    "Transpose": _transpose,
    "Add": _pairwise(lambda left, right: left + right),
    "Sub": _pairwise(lambda left, right: left - right),
    "Mul": _pairwise(lambda left, right: left * right),
    "Div": _pairwise(_quotient),
    "Mod": _pairwise(_remainder),
    "Min": _pairwise(smaller),
    "Max": _pairwise(_larger),
    "Equal": _pairwise(_equal),
    "Less": _pairwise(_less),
    "Greater": _pairwise(lambda left, right: _less(right, left)),
    "Not": _not,
    "Where": _where,
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "ReduceProd": _product,
    "Range": _range,
}
