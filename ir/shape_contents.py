"""Shape arithmetic by value: what Shape, Gather, Concat, Mul ... do to small integer tensors.

Tensors are numpy arrays of polynomials, None where a number is unknown, so that numpy's own indexing and broadcasting
do the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .polynomial import Polynomial
from .shape_scope import Content, Scope

Number = Polynomial | None

_HUGE = 2**31 - 2


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
    decided = left.constant is not None and right.constant is not None
    # a dimension is never negative
    decided |= left.constant is None and (right.constant or 0) < 0 and bool(left.names)
    return Polynomial.of(0) if decided else None


def _extreme(choose: Callable[[int, int], int]) -> Callable[[Polynomial, Polynomial], Number]:
    def pick(left: Polynomial, right: Polynomial) -> Number:
        if left == right:
            return left
        if left.constant is None or right.constant is None:
            return None
        return Polynomial.of(choose(left.constant, right.constant))

    return pick


def _where(node: ir.Node, scope: Scope) -> Content:
    parts = np.broadcast_arrays(*(_need(node, scope, index) for index in range(3)))
    rows = zip(*(part.reshape(-1) for part in parts), strict=True)
    chosen = [None if test is None or test.constant is None else (yes if test else no) for test, yes, no in rows]
    return _array(chosen, parts[0].shape)


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
    return _need(node, scope, 0) if to.is_integer() else None


def _not(node: ir.Node, scope: Scope) -> Content:
    data = _need(node, scope, 0)
    tests = [_truth(number) for number in data.reshape(-1)]
    return _array([None if test is None else 1 - test for test in tests], data.shape)


def _truth(number: Number) -> Number:
    constant = None if number is None else number.constant
    return None if constant is None else Polynomial.of(int(constant != 0))


def _gather(node: ir.Node, scope: Scope) -> Content:
    indices = _need(node, scope, 1)
    flat = [int(index) for index in indices.reshape(-1)]
    return np.asarray(_need(node, scope, 0)[np.array(flat, dtype=np.int64).reshape(indices.shape)], dtype=object)


def _concat(node: ir.Node, scope: Scope) -> Content:
    if scope.integer(node, "axis", 0) not in (0, -1):
        raise ValueError("only vectors are joined")
    parts = [scope.content(value) for value in node.inputs]
    sizes = [scope.input(node, index)[0] for index in range(len(parts))]
    flat: list[Number] = []
    for part, size in zip(parts, sizes, strict=True):
        if part is None and size is None:
            raise ValueError("the length is unknown")
        flat += [None] * int(size or 0) if part is None else list(part)
    return _array(flat)


def _slice(node: ir.Node, scope: Scope) -> Content:
    data = _need(node, scope, 0)
    starts, ends = (scope.constants(node, 1, "starts") or [], scope.constants(node, 2, "ends") or [])
    axes = scope.constants(node, 3, "axes") or list(range(len(starts)))
    steps = scope.constants(node, 4, "steps") or [1] * len(starts)
    where = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        where[axis] = slice(start, None if step < 0 and end < -_HUGE else end, step)
    return np.asarray(data[tuple(where)], dtype=object)


def _reshaped(node: ir.Node, scope: Scope) -> Content:
    """Squeeze, Unsqueeze and Reshape: the shape rule knows the new shape."""
    dims = scope.dims.get(node.outputs[0])
    if dims is None or None in dims:
        raise ValueError("the shape is unknown")
    return _need(node, scope, 0).reshape([int(dim) for dim in dims if dim is not None])


def _transpose(node: ir.Node, scope: Scope) -> Content:
    data = _need(node, scope, 0)
    return data.transpose(scope.integers(node, "perm", list(range(data.ndim))[::-1]))


def _filled(node: ir.Node, scope: Scope) -> Content | None:
    count = int(_need(node, scope, 0).reshape(-1)[0])
    attr = node.attributes.get("value")
    tensor = None if attr is None else attr.as_tensor()
    if tensor is None or not tensor.dtype.is_integer() or count > 64:
        return None
    return _array([Polynomial.of(int(tensor.numpy().reshape(-1)[0]))] * count)


def _product(node: ir.Node, scope: Scope) -> Content:
    whole: Number = Polynomial.of(1)
    for number in _need(node, scope, 0).reshape(-1):
        whole = None if whole is None or number is None else whole * number
    return _array([whole], (1,) if scope.integer(node, "keepdims", 1) else ())


def _range(node: ir.Node, scope: Scope) -> Content | None:
    start, limit, step = [int(_need(node, scope, index).reshape(-1)[0]) for index in range(3)]
    numbers = range(start, limit, step)
    return _array([Polynomial.of(number) for number in numbers]) if len(numbers) <= 64 else None


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
    "Div": _pairwise(lambda left, right: left // right),
    "Min": _pairwise(_extreme(min)),
    "Max": _pairwise(_extreme(max)),
    "Equal": _pairwise(_equal),
    "Not": _not,
    "Where": _where,
    "ConstantOfShape": _filled,
    "ReduceProd": _product,
    "Range": _range,
}
