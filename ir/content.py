"""What is known about the numbers inside small integer tensors: shape arithmetic, read without running it.

    Shape(x)                          [batch, sequence, 384]
    Concat(Slice(Shape(x)), [12, 32])  [batch, sequence, 12, 32]

An element is a number, the name of a dynamic dimension, or None when nothing is known. Two dimensions that bear one
name are one number: that is what a name means in ONNX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

Element = int | str | None
#: The elements of a vector, or one element in a list for a scalar.
Content = list[Element]

#: Shape arithmetic is short; a chain longer than this is something else.
_DEPTH = 32
#: Vectors longer than this hold data, not shapes.
_LENGTH = 64


def content(value: ir.Value | None) -> Content | None:
    """The elements of an integer scalar or vector, or None when it is no such thing or nothing is known about it."""
    return _content(value, _DEPTH)


def dimensions(value: ir.Value | None) -> list[Element] | None:
    """The dimensions of a value: numbers, names, or None where unknown. None when not even the rank is known."""
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def _content(value: ir.Value | None, depth: int) -> Content | None:
    if value is None or depth == 0 or (value.shape is not None and len(value.shape) > 1):
        return None
    tensor = ir.convenience.get_const_tensor(value) if _is_constant(value) else None
    if tensor is not None:
        if len(tensor.shape) > 1 or tensor.size > _LENGTH or not tensor.dtype.is_integer():
            return None
        return [int(item) for item in tensor.numpy().reshape(-1)]
    node = value.producer()
    rule = None if node is None or node.domain else _RULES.get(node.op_type)
    return None if rule is None or node is None else rule(node, depth - 1)


def _is_constant(value: ir.Value) -> bool:
    node = value.producer()
    return (value.const_value is not None and not value.is_graph_input()) or (
        node is not None and node.op_type == "Constant" and not node.domain
    )


def _shape(node: ir.Node, depth: int) -> Content | None:
    dims = dimensions(node.inputs[0])
    if dims is None:
        return None
    start, end = node.attributes.get("start"), node.attributes.get("end")
    return dims[slice(start.as_int() if start else None, end.as_int() if end else None)]


def _concat(node: ir.Node, depth: int) -> Content | None:
    parts = [_content(value, depth) for value in node.inputs]
    return None if any(part is None for part in parts) else [item for part in parts for item in part or ()]


def _gather(node: ir.Node, depth: int) -> Content | None:
    data, indices = _content(node.inputs[0], depth), _content(node.inputs[1], depth)
    if data is None or indices is None:
        return None
    picked = [index for index in indices if isinstance(index, int) and -len(data) <= index < len(data)]
    return [data[index] for index in picked] if len(picked) == len(indices) else None


def _slice(node: ir.Node, depth: int) -> Content | None:
    data, starts, ends, _, steps = (*(_content(value, depth) for value in node.inputs), None, None, None, None)[:5]
    if data is None or not starts or not ends:
        return None
    step = 1 if steps is None else steps[0]
    if not (isinstance(starts[0], int) and isinstance(ends[0], int) and isinstance(step, int)) or step == 0:
        return None
    return data[slice(starts[0], _end(ends[0], step, len(data)), step)]


def _end(end: int, step: int, length: int) -> int | None:
    """ONNX clamps an end far below zero to before the first element, which Python spells None."""
    return None if step < 0 and end < -length else end


def _same(node: ir.Node, depth: int) -> Content | None:
    return _content(node.inputs[0], depth)


def _unsqueeze(node: ir.Node, depth: int) -> Content | None:
    """A scalar becomes a vector; a vector would become a matrix."""
    found = _content(node.inputs[0], depth)
    return found if found is not None and len(found) == 1 else None


def _cast(node: ir.Node, depth: int) -> Content | None:
    to = ir.DataType(node.attributes["to"].as_int())
    return _content(node.inputs[0], depth) if to in (ir.DataType.INT64, ir.DataType.INT32) else None


def _reshape(node: ir.Node, depth: int) -> Content | None:
    target = _content(node.inputs[1], depth)
    return _content(node.inputs[0], depth) if target is not None and len(target) <= 1 else None


def _arithmetic(combine: Callable[[int, int], int | None]) -> Callable[[ir.Node, int], Content | None]:
    def rule(node: ir.Node, depth: int) -> Content | None:
        left, right = _content(node.inputs[0], depth), _content(node.inputs[1], depth)
        if left is None or right is None or (len(left) != len(right) and 1 not in (len(left), len(right))):
            return None
        size = len(right) if len(left) == 1 else len(left)
        pairs = zip(_stretched(left, size), _stretched(right, size), strict=True)
        return [combine(a, b) if isinstance(a, int) and isinstance(b, int) else _neutral(node, a, b) for a, b in pairs]

    return rule


def _stretched(items: Content, size: int) -> Content:
    return items * size if len(items) == 1 else items


def _neutral(node: ir.Node, left: Element, right: Element) -> Element:
    """n * 1 = n + 0 = n - 0 = n / 1 = n, for a name n."""
    unit = 1 if node.op_type in ("Mul", "Div") else 0
    if right == unit:
        return left
    return right if left == unit and node.op_type in ("Mul", "Add") else None


def _where(node: ir.Node, depth: int) -> Content | None:
    value = node.inputs[0]
    condition = ir.convenience.get_const_tensor(value) if value is not None and _is_constant(value) else None
    yes, no = _content(node.inputs[1], depth), _content(node.inputs[2], depth)
    if condition is None or condition.size > _LENGTH or yes is None or no is None:
        return None
    flags = [bool(flag) for flag in condition.numpy().reshape(-1)]
    sizes = {len(item) for item in (flags, yes, no)} - {1}
    if len(sizes) > 1:
        return None
    size = sizes.pop() if sizes else 1
    flags = flags * size if len(flags) == 1 else flags
    picked = zip(flags, _stretched(yes, size), _stretched(no, size), strict=True)
    return [a if flag else b for flag, a, b in picked]


def _quotient(left: int, right: int) -> int | None:
    """Integer division in ONNX rounds toward zero."""
    if right == 0:
        return None
    size = abs(left) // abs(right)
    return size if (left < 0) == (right < 0) else -size


_RULES: Mapping[str, Callable[[ir.Node, int], Content | None]] = {
    "Shape": _shape,
    "Concat": _concat,
    "Gather": _gather,
    "Slice": _slice,
    "Squeeze": _same,
    "Unsqueeze": _unsqueeze,
    "Identity": _same,
    "Cast": _cast,
    "Reshape": _reshape,
    "Add": _arithmetic(lambda a, b: a + b),
    "Sub": _arithmetic(lambda a, b: a - b),
    "Mul": _arithmetic(lambda a, b: a * b),
    "Div": _arithmetic(_quotient),
    "Where": _where,
}
