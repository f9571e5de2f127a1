"""Evaluate the arithmetic between a value and what is made of its rows, at sample rows.

    x [rows, ..., n] --> ReduceMean --> Sub --> Mul --> ... --> y         y(samples), in float64

A row is what the axes of a reduction span. Scalar constants count as the numbers they are; every other value that has
no axis but those of a row is a *parameter* and is given numbers of its own, so that what holds for them holds for any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ....ir.content import Element, content, dimensions
from ...edit import attribute, integers_of, is_op, scalar_of

Floats = NDArray[np.floating]

#: Values that one evaluation looks at before it gives up.
_BUDGET = 96
_DEPTH = 40

_BINARY: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
}
_UNARY: Mapping[str, Callable[[Floats], Floats]] = {
    "Neg": np.negative,
    "Sqrt": np.sqrt,
    "Reciprocal": np.reciprocal,
    "Identity": np.positive,
    "Cast": np.positive,
}
_REDUCTIONS: Mapping[str, Callable[..., Floats]] = {
    "ReduceMean": np.mean,
    "ReduceSum": np.sum,
    "ReduceSumSquare": lambda x, axis, keepdims: np.sum(x * x, axis=axis, keepdims=keepdims),
    "ReduceL2": lambda x, axis, keepdims: np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims)),
}
REDUCTIONS = tuple(_REDUCTIONS)
ARITHMETIC = (*_BINARY, *_UNARY, *_REDUCTIONS, "Unsqueeze")
CLAMPS = ("Max", "Clip", "Expand")

#: How coarsely a dtype holds a number: half of its unit in the last place.
_ROUNDING = {
    ir.DataType.FLOAT: 2.0**-24,
    ir.DataType.FLOAT16: 2.0**-11,
    ir.DataType.BFLOAT16: 2.0**-8,
}


@dataclass(frozen=True)
class Axes:
    """What a reduction spans in values of `rank` axes: the axes, and their sizes."""

    rank: int
    axes: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """Elements of a row."""
        return math.prod(self.sizes)

    @property
    def last(self) -> bool:
        """Whether they are the last axes, with another before them."""
        return self.axes == tuple(range(self.rank - len(self.axes), self.rank)) and len(self.axes) < self.rank

    def shaped(self, rows: Floats) -> Floats:
        """Rows [rows, n] as a value has them."""
        sizes = dict(zip(self.axes, self.sizes, strict=True))
        lead = next(axis for axis in range(self.rank) if axis not in sizes)
        return rows.reshape([len(rows) if axis == lead else sizes.get(axis, 1) for axis in range(self.rank)])

    def row_wise(self, dims: Sequence[Element]) -> bool:
        """Whether dimensions are those of a parameter: along a row, one elsewhere."""
        sizes = dict(zip(self.axes, self.sizes, strict=True))
        shift = self.rank - len(dims)
        return shift >= 0 and all(dim in (1, sizes.get(axis + shift, 1)) for axis, dim in enumerate(dims))


def reduced(node: ir.Node) -> Axes | None:
    """The axes that a reduction spans, where all of them are known and there is an axis left."""
    dims = dimensions(node.inputs[0])
    axes = _axes(node)
    if dims is None or not axes or len(axes) >= len(dims):
        return None
    if any(not -len(dims) <= axis < len(dims) for axis in axes):
        return None
    found = tuple(sorted({axis % len(dims) for axis in axes}))
    sizes = [dim for dim in (dims[axis] for axis in found) if isinstance(dim, int)]
    return Axes(len(dims), found, tuple(sizes)) if len(sizes) == len(found) else None


@dataclass
class Rows:
    """The values made of `x` at `samples` [rows, n], `seed` being that of the parameters' numbers."""

    x: ir.Value
    axes: Axes
    samples: Floats
    seed: int = 0
    #: Whether Max, Clip from below and Expand to the shape of x count too: they bend what is analytic without them.
    clamps: bool = False
    known: dict[ir.Value, Floats | None] = field(default_factory=dict)
    #: The values that do not depend on x, in the order they were met.
    parameters: dict[ir.Value, Floats] = field(default_factory=dict)
    numbers: list[float] = field(default_factory=list)
    #: How many reductions were evaluated.
    reductions: int = 0

    def __post_init__(self) -> None:
        self.known[self.x] = self.axes.shaped(self.samples)
        self._random = np.random.default_rng(self.seed)

    def of(self, value: ir.Value) -> Floats | None:
        """`value` as rows [rows, n]; None where it is no arithmetic on rows of x or has another shape."""
        with np.errstate(all="ignore"):
            found = self._value(value, _DEPTH)
        wanted = self.known[self.x]
        assert wanted is not None
        return None if found is None or found.shape != wanted.shape else found.reshape(self.samples.shape)

    def along(self, value: ir.Value) -> Floats | None:
        """A parameter as a row [n]; None for one of another size."""
        found = self.parameters[value]
        return found.reshape(-1) if found.size == self.axes.count else None

    def _value(self, value: ir.Value, depth: int) -> Floats | None:
        if value not in self.known:
            if len(self.known) > _BUDGET or depth == 0:
                return None
            self.known[value] = None  # what an evaluation that comes back here would find
            self.known[value] = self._met(value, depth)
        return self.known[value]

    def _met(self, value: ir.Value, depth: int) -> Floats | None:
        number = _number(value)
        if number is not None:
            self.numbers.append(number)
            whole = self._whole(number, value.dtype)
            return np.full([1] * len(value.shape or ()), whole, self.samples.dtype)
        node = value.producer()
        ops = (*ARITHMETIC, *CLAMPS) if self.clamps else ARITHMETIC
        found = self._made(node, depth) if is_op(node, *ops) else None
        if found is not None:
            assert node is not None
            if all(item in self.parameters or _number(item) is not None for item in node.inputs if item is not None):
                self.parameters[value] = found
            return found
        dims = dimensions(value)
        if dims is None or not self.axes.row_wise(dims):
            return None
        self.parameters[value] = self._drawn([dim for dim in dims if isinstance(dim, int)])
        return self.parameters[value]

    def _drawn(self, sizes: Sequence[int]) -> Floats:
        """Numbers for a parameter; with a seed of either sign, so that none passes for its absolute value."""
        found = self._random.uniform(0.5, 2.0, sizes)
        if self.seed:
            found *= self._random.choice([-1.0, 1.0], sizes)
            found.reshape(-1)[:1] = -np.abs(found.reshape(-1)[:1])
        return np.asarray(found, self.samples.dtype)

    def _made(self, node: ir.Node, depth: int) -> Floats | None:
        if not _is_float(node.outputs[0].dtype):
            return None
        if node.op_type in _REDUCTIONS:
            return self._reduction(node, depth)
        if node.op_type == "Unsqueeze":
            return self._unsqueezed(node, depth)
        if node.op_type == "Expand":
            return self._expanded(node, depth)
        inputs = [None if item is None else self._value(item, depth - 1) for item in node.inputs]
        found = [item for item in inputs if item is not None]
        if len(found) != len(inputs):
            return None
        try:
            if node.op_type in _BINARY and len(found) == 2:
                return _BINARY[node.op_type](found[0], found[1])
            if node.op_type in CLAMPS and len(found) == 2:
                bounded = np.maximum(found[0], found[1])
                # a bound on the elements of a row lies where no row was tried
                return None if bounded.size > len(self.samples) else bounded
            return _UNARY[node.op_type](found[0]) if node.op_type in _UNARY and len(found) == 1 else None
        except ValueError:  # shapes that do not broadcast
            return None

    def _reduction(self, node: ir.Node, depth: int) -> Floats | None:
        if node.inputs[0] is None or reduced(node) != self.axes:
            return None
        inner = self._value(node.inputs[0], depth - 1)
        if inner is None or inner.ndim != self.axes.rank:
            return None
        self.reductions += 1
        whole = np.broadcast_shapes(inner.shape, self.axes.shaped(self.samples[:1]).shape)
        keep = bool(attribute(node, "keepdims", 1))
        return np.asarray(_REDUCTIONS[node.op_type](np.broadcast_to(inner, whole), axis=self.axes.axes, keepdims=keep))

    def _unsqueezed(self, node: ir.Node, depth: int) -> Floats | None:
        inner = None if node.inputs[0] is None else self._value(node.inputs[0], depth - 1)
        axes = integers_of(node.inputs[1]) if len(node.inputs) > 1 else None
        if inner is None or axes is None:
            return None
        try:
            return np.expand_dims(inner, tuple(axes))
        except ValueError:  # an axis out of range or given twice
            return None

    def _expanded(self, node: ir.Node, depth: int) -> Floats | None:
        """What stretches to the shape of x may as well be stretched where it meets x."""
        target, dims = node.inputs[1], dimensions(self.x)
        shape = None if target is None else target.producer()
        same = is_op(shape, "Shape") and shape.inputs[0] is self.x and not shape.attributes
        if not same and (dims is None or None in dims or content(target) != dims):
            return None
        return None if node.inputs[0] is None else self._value(node.inputs[0], depth - 1)

    def _whole(self, number: float, dtype: ir.DataType | None) -> float:
        """n, 1 / n and their roots, which a graph holds rounded to its dtype, as they are meant."""
        rounding = _ROUNDING.get(dtype, 0.0) if dtype is not None else 0.0
        count = float(self.axes.count)
        for meant in (count, 1.0 / count, math.sqrt(count), 1.0 / math.sqrt(count)):
            if abs(number - meant) <= 1.01 * rounding * meant:
                return meant
        return number


def _axes(node: ir.Node) -> list[int] | None:
    given = node.attributes.get("axes")
    if given is not None and not given.is_ref():
        return list(given.as_ints())
    return integers_of(node.inputs[1]) if len(node.inputs) > 1 else None


def _number(value: ir.Value) -> float | None:
    """The number that a value is: a constant, or a size that the graph reads off a shape."""
    found = scalar_of(value)
    node = value.producer()
    if found is None and is_op(node, "Cast"):
        size = content(node.inputs[0])
        found = float(size[0]) if size is not None and len(size) == 1 and isinstance(size[0], int) else None
    return found


def _is_float(dtype: ir.DataType | None) -> bool:
    return dtype in (None, ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)
