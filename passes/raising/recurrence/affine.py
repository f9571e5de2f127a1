"""Take a value apart into the sum of linear maps that it is: x W + h R + b, however nodes spell it.

    Add(MatMul(x, W), Gemm(h, R, b))                 x W + h R + b
    Split(MatMul(x, W) + b)[2]                       x W[:, 2n:3n] + b[2n:3n]
    MatMul(Concat(x, h), W)                          x W[:m] + h W[m:]
    Squeeze(Slice(MatMul(X, W), t))                  Squeeze(Slice(X, t)) W

The last axis holds features, the axes before it rows. What moves or picks rows commutes with a product from the right,
and is kept as `via`, to be applied to the source instead. Weights are described, never read: their `reader`
reads them when a lazy tensor is asked for its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import onnx_ir as ir

from ....ir.content import dimensions
from ....ir.weight import Weight
from ...edit import Array, attribute, integers_of, scalar_of
from .blocks import (
    Matrix,
    Range,
    axis_of,
    constant,
    matrix,
    part,
    rank_of,
    reader,
    rows,
    shifted,
    slice_axes,
    width,
)

#: A node that acts on rows, and which of its outputs goes on.
Step = tuple[ir.Node, int]

_DEPTH = 16
_TERMS = 64


@dataclass(frozen=True)
class Product:
    """scale * via(source) @ matrix"""

    source: ir.Value
    via: tuple[Step, ...]
    matrix: Matrix
    scale: float

    def reader(self) -> Callable[[], Array]:
        """Reads scale * matrix as [in, out]."""
        read, block, scale = reader(self.matrix.view), self.matrix, self.scale
        return lambda: _times(block.cut(read()), scale)


@dataclass(frozen=True)
class Bias:
    """scale * a constant that adds the same to each row."""

    view: Weight
    columns: Range
    scale: float

    def reader(self) -> Callable[[], Array]:
        """Reads scale * the constant as [out]."""
        read, (start, stop), scale = reader(self.view), self.columns, self.scale

        def vector() -> Array:
            whole = read().reshape(-1)
            return _times(np.broadcast_to(whole, (stop - start,)) if whole.size == 1 else whole[start:stop], scale)

        return vector


@dataclass(frozen=True)
class Scaled:
    """source * a constant vector, feature by feature."""

    source: ir.Value
    factor: Bias


@dataclass(frozen=True)
class Rest:
    """scale * via(value)[columns]: what is no linear map of something else."""

    value: ir.Value
    via: tuple[Step, ...]
    columns: Range
    scale: float


Term = Product | Bias | Scaled | Rest


def terms(value: ir.Value, columns: Range, scale: float = 1.0, via: tuple[Step, ...] = ()) -> list[Term]:
    """The terms whose sum is scale * via(value)[.., columns]."""
    whole = Rest(value, via, columns, scale)
    found: list[Term] = list(islice(_terms(whole, _DEPTH), _TERMS + 1))
    return found if len(found) <= _TERMS else [whole]


def _terms(rest: Rest, depth: int) -> Iterator[Term]:
    value = rest.value
    view = constant(value)
    if view is not None and all(dim == 1 for dim in view.shape[:-1]) and view.shape:
        yield Bias(view, rest.columns, rest.scale)
        return
    node = value.producer()
    rule = None if node is None or node.domain or depth == 0 else _RULES.get(node.op_type)
    inner = None if rule is None or node is None else rule(node, rest)
    if inner is None:
        yield rest
        return
    for term in inner:
        if isinstance(term, Rest):
            yield from _terms(term, depth - 1)
        else:
            yield term


def _add(node: ir.Node, rest: Rest) -> list[Term] | None:
    found: list[Term] = []
    for index, value in enumerate(node.inputs):
        if value is None or not _spans(value, rest):
            return None
        sign = -1.0 if node.op_type == "Sub" and index == 1 else 1.0
        # a vector adds the same to every row, wherever rows are moved to
        via = () if rank_of(value) == 1 else rest.via
        found.append(replace(rest, value=value, scale=rest.scale * sign, via=via))
    return found


def _spans(value: ir.Value, rest: Rest) -> bool:
    """Whether a summand has the features of the sum, and its rows where rows are moved on the way."""
    view = constant(value)
    if view is not None and all(dim == 1 for dim in view.shape[:-1]):
        return bool(view.shape) and view.shape[-1] in (1, width(rest.value))
    own, whole = dimensions(value), dimensions(rest.value)
    if own is None or whole is None or not own or own[-1] != whole[-1] or own[-1] is None:
        return False
    if len(own) == 1:
        return True
    return rows(value) is not None and (own == whole if rest.via else rows(value) == rows(rest.value))


def _negated(node: ir.Node, rest: Rest) -> list[Term] | None:
    value = node.inputs[0]
    return None if value is None else [replace(rest, value=value, scale=-rest.scale)]


def _identity(node: ir.Node, rest: Rest) -> list[Term] | None:
    value = node.inputs[0]
    return None if value is None else [replace(rest, value=value)]


def _scaling(node: ir.Node, rest: Rest) -> list[Term] | None:
    left, right = node.inputs
    for value, factor in ((left, right), (right, left)):
        number = scalar_of(factor)
        if value is None or (number is not None and dimensions(value) != dimensions(rest.value)):
            continue
        if number is not None and node.op_type == "Mul":
            return [replace(rest, value=value, scale=rest.scale * number)]
        if number and value is left:
            return [replace(rest, value=value, scale=rest.scale / number)]
        view = constant(factor)
        if view is not None and view.shape and view.shape[-1] == width(value) == width(rest.value) and not rest.via:
            whole = rest.columns == (0, view.shape[-1]) and all(dim == 1 for dim in view.shape[:-1])
            return [Scaled(value, Bias(view, rest.columns, rest.scale))] if whole and node.op_type == "Mul" else None
    return None


def _matmul(node: ir.Node, rest: Rest) -> list[Term] | None:
    source, weight = node.inputs
    found = matrix(weight)
    rank = None if source is None or source.shape is None else len(source.shape)
    if source is None or found is None or rank is None or rank < 2:
        return None
    return list(_products(source, replace(rest, value=source), found.within(columns=rest.columns)))


def _gemm(node: ir.Node, rest: Rest) -> list[Term] | None:
    source, weight, *bias = node.inputs
    found = matrix(weight)
    if source is None or found is None or attribute(node, "transA", 0):
        return None
    found = found.turned() if attribute(node, "transB", 0) else found
    alpha, beta = (node.attributes[name].as_float() if name in node.attributes else 1.0 for name in ("alpha", "beta"))
    summed: list[Term] = []
    if bias and bias[0] is not None:
        if not _spans(bias[0], rest):
            return None
        summed.append(replace(rest, value=bias[0], scale=rest.scale * beta))
    scaled = replace(rest, value=source, scale=rest.scale * alpha)
    return [*_products(source, scaled, found.within(columns=rest.columns)), *summed]


def _products(source: ir.Value, rest: Rest, found: Matrix) -> Iterator[Product]:
    """One product, or one for each part of a source that is put together from parts."""
    node = source.producer()
    sizes = [width(value) for value in node.inputs] if node is not None and _joins_features(node) else []
    known = [size for size in sizes if size is not None]
    if node is None or not known or len(known) != len(sizes) or sum(known) != found.rows[1] - found.rows[0]:
        yield Product(source, rest.via, found, rest.scale)
        return
    start = 0
    for value, size in zip(node.inputs, known, strict=True):
        assert value is not None  # its width is known
        yield Product(value, rest.via, found.within(rows=(start, start + size)), rest.scale)
        start += size


def _concat(node: ir.Node, rest: Rest) -> list[Term] | None:
    """The part that holds all of the columns."""
    if not _joins_features(node):
        return None
    start = 0
    for value in node.inputs:
        size = width(value)
        if size is None or value is None:
            return None
        if start <= rest.columns[0] and rest.columns[1] <= start + size:
            return [replace(rest, value=value, columns=shifted(rest.columns, -start))]
        start += size
    return None


def _joins_features(node: ir.Node) -> bool:
    rank = rank_of(node.outputs[0])
    return (
        node.op_type == "Concat"
        and not node.domain
        and axis_of(node, rank, None) == (None if rank is None else rank - 1)
    )


def _cut(node: ir.Node, rest: Rest) -> list[Term] | None:
    """Split or Slice: of features, or of rows."""
    found = part(rest.value)
    if found is not None:
        return [replace(rest, value=found[0], columns=shifted(rest.columns, found[1][0]))]
    rank = rank_of(node.inputs[0])
    if rank is None:
        return None
    axes = [axis_of(node, rank, 0)] if node.op_type == "Split" else slice_axes(node, rank)
    return None if axes is None or None in axes or rank - 1 in axes else _moved(node, rest)


def _gather(node: ir.Node, rest: Rest) -> list[Term] | None:
    rank = rank_of(node.inputs[0])
    if rank is None or rank_of(node.inputs[1]) is None or axis_of(node, rank, 0) in (None, rank - 1):
        return None
    return _moved(node, rest)


def _squeeze(node: ir.Node, rest: Rest) -> list[Term] | None:
    axes = integers_of(node.inputs[1]) if len(node.inputs) > 1 else None
    rank = rank_of(node.inputs[0] if node.op_type == "Squeeze" else node.outputs[0])
    if axes is None or rank is None or rank - 1 in axes or -1 in axes:
        return None
    return _moved(node, rest)


def _transpose(node: ir.Node, rest: Rest) -> list[Term] | None:
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else ()
    return _moved(node, rest) if perm and perm[-1] == len(perm) - 1 else None


def _moved(node: ir.Node, rest: Rest) -> list[Term] | None:
    """What the node does to rows it may do to the rows of the source."""
    value = node.inputs[0]
    step = (node, node.outputs.index(rest.value))
    return None if value is None else [replace(rest, value=value, via=(step, *rest.via))]


_RULES: Mapping[str, Callable[[ir.Node, Rest], list[Term] | None]] = {
    "Add": _add,
    "Sum": _add,
    "Sub": _add,
    "Neg": _negated,
    "Identity": _identity,
    "Mul": _scaling,
    "Div": _scaling,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Concat": _concat,
    "Split": _cut,
    "Slice": _cut,
    "Gather": _gather,
    "Squeeze": _squeeze,
    "Unsqueeze": _squeeze,
    "Transpose": _transpose,
}


def _times(array: Array, scale: float) -> Array:
    return array if scale == 1.0 else np.multiply(array, np.asarray(scale, array.dtype))
