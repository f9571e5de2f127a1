"""What is known about the numbers inside small integer tensors: shape arithmetic, read without running it.

    Shape(x)                           [batch, sequence, 384]
    Concat(Slice(Shape(x)), [12, 32])   [batch, sequence, 12, 32]
    Shape(past) + Shape(x)              [2*batch, past + sequence]

An element is a number, a formula of dynamic dimensions, or None when nothing is known. Two dimensions that bear one
name are one number: that is what a name means in ONNX. A formula is spelled in one way only, so that equal ones compare
equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .constants import tensor_of
from .polynomial import Polynomial
from .shape_contents import CONTENTS, SMALL, lift
from .shape_scope import Content as Numbers
from .shape_scope import Dims, Scope, known

Element = int | str | None
#: The elements of a vector, or one element in a list for a scalar.
Content = list[Element]

#: Ops whose results are no numbers.
_TRUTHS = frozenset({"Equal", "Less", "Greater", "Not"})

#: Shape arithmetic is short; a chain longer than this, or one of more nodes, is something else.
_DEPTH = 32
_NODES = 256


def content(value: ir.Value | None) -> Content | None:
    """The elements of an integer scalar or vector, or None when it is no such thing or nothing is known about it."""
    if value is None or (value.shape is not None and len(value.shape) > 1):
        return None
    tensor = tensor_of(value)
    if tensor is not None:
        if len(tensor.shape) > 1 or tensor.size > SMALL or not tensor.dtype.is_integer():
            return None
        return [int(item) for item in tensor.numpy().reshape(-1)]
    node = value.producer()
    if node is None or node.domain or node.op_type in _TRUTHS or value.dtype == ir.DataType.BOOL:
        return None
    found = _Reader().content(value)
    if found is None or found.ndim > 1:
        return None
    return [element(item) for item in found.reshape(-1)]


def numbers(value: ir.Value) -> NDArray[np.int64] | None:
    """The numbers in a small integer tensor of any rank where all of them are known, else None."""
    found = _Reader().content(value)
    if found is None or any(item is None or item.constant is None for item in found.reshape(-1)):
        return None
    return np.array([int(item) for item in found.reshape(-1)], dtype=np.int64).reshape(found.shape)


def truth(value: ir.Value | None) -> bool | None:
    """Whether a small boolean tensor is true everywhere, or false everywhere; None where neither is known.

    >>> from tersor.ir.text import graph
    >>> model = graph("s = Shape(x)", "y = Equal(s, -1)", inputs={"x": "float[batch, 3]"})
    >>> truth(model.graph.outputs[0])
    False
    """
    found = None if value is None else _Reader().content(value)
    if found is None or not found.size:
        return None
    items = {None if item is None else item.constant for item in found.reshape(-1)}
    return bool(items.pop()) if items in ({0}, {1}) else None


def dimensions(value: ir.Value | None) -> list[Element] | None:
    """The dimensions of a value: numbers, formulas, or None where unknown. None when not even the rank is known."""
    found = None if value is None else known(value)
    return None if found is None else [dim if isinstance(dim, int) else _spelled(dim) for dim in found]


def element(number: Polynomial | None) -> Element:
    """A number or formula as an element."""
    if number is None:
        return None
    return str(number) if number.constant is None else number.constant


@dataclass(eq=False, kw_only=True)
class _Reader(Scope):
    """A scope that looks back from one value and knows of each value what is annotated or follows.

    It lives for one question, so that it is never stale, and reads each node once.
    """

    strict: bool = True
    depth: int = 0
    left: int = _NODES

    def of(self, value: ir.Value) -> Dims:
        if value not in self.dims:
            self.dims[value] = self._dims(value)
        return self.dims[value]

    def content(self, value: ir.Value | None) -> Numbers | None:
        if value is None:
            return None
        if value not in self.known:
            self.known[value] = self._content(value)
        return self.known[value]

    def __post_init__(self) -> None:
        self.known: dict[ir.Value, Numbers | None] = {}

    def _dims(self, value: ir.Value) -> Dims:
        shape = known(value)
        if shape is not None:
            return tuple(map(_number, shape))
        tensor = tensor_of(value)
        if tensor is not None:
            return tuple(Polynomial.of(dim) for dim in tensor.shape if isinstance(dim, int))
        found = self.content(value)
        return None if found is None else tuple(Polynomial.of(size) for size in found.shape)

    def _content(self, value: ir.Value) -> Numbers | None:
        tensor = tensor_of(value)
        if tensor is not None:
            small = tensor.size <= SMALL and (tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL)
            return lift(tensor.numpy()) if small else None
        node = value.producer()
        rule = CONTENTS.get(node.op_type) if node is not None and not node.domain else None
        if rule is None or node is None or self.depth == _DEPTH or not self.left or value is not node.outputs[0]:
            return None
        self.depth += 1
        self.left -= 1
        try:
            found = rule(node, self)
        except (IndexError, TypeError, ValueError, ZeroDivisionError):
            return None  # shape arithmetic on values that are not all known
        finally:
            self.depth -= 1
        return found if found is not None and found.size <= SMALL else None


def _number(dim: int | str | None) -> Polynomial | None:
    if isinstance(dim, str):
        return Polynomial.parse(dim)
    return None if dim is None else Polynomial.of(dim)


@lru_cache(maxsize=4096)
def _spelled(text: str | None) -> str | None:
    return None if text is None else str(Polynomial.parse(text))
