"""Shape arithmetic on Python ints: the host side of the ops that exporters use to compute shapes.

A value is an int or bool, or a list nested as deep as it has axes. Under `torch.export` the leaves may be SymInts, so
nothing here compares them unless the op itself is a comparison.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial, reduce

import onnx_ir as oir
import torch

from .lowering import ZERO, HostLowering, Key, Literal

Ints = Sequence[int]
Leaf = int | bool | torch.SymInt | torch.SymBool
Nested = Leaf | list["Nested"]

#: The larger of two sizes that may be symbolic; max() would tie the graph to one of them.
larger: Callable[[int, int], int] = torch.sym_max


def rank(value: Nested) -> int:
    depth = 0
    while isinstance(value, list):
        depth += 1
        if not value:
            break
        value = value[0]
    return depth


def extent(value: Nested) -> list[int]:
    """The shape of a nested list."""
    dims: list[int] = []
    while isinstance(value, list):
        dims.append(len(value))
        if not value:
            break
        value = value[0]
    return dims


def flat(value: Nested) -> list[Leaf]:
    if not isinstance(value, list):
        return [value]
    return [leaf for item in value for leaf in flat(item)]


class NoFormError(ValueError):
    """Nested lists have no form of this shape: below an axis of length 0 there are none."""


def nest(leaves: list[Leaf], dims: Sequence[int]) -> Nested:
    if any(isinstance(size, int) and size == 0 for size in dims[:-1]):
        raise NoFormError(f"shape arithmetic has no form of shape {list(dims)}")
    if len(leaves) != math.prod(dims):
        raise ValueError(f"{len(leaves)} elements do not fill the shape {list(dims)}")
    if not dims:
        return leaves[0]
    step = math.prod(dims[1:])
    return [nest(leaves[i * step : (i + 1) * step], dims[1:]) for i in range(dims[0])]


def _place(axis: int, deep: int) -> int:
    """The axis, which may count from the back, of a value with `deep` of them."""
    if not -deep <= axis < deep:
        raise ValueError(f"axis {axis} is out of range for rank {deep}")
    return axis % deep


def _along(function: Callable[[list[Nested]], Nested], value: Nested, axis: int) -> Nested:
    """Apply a function of lists at one axis."""
    assert isinstance(value, list)
    return function(value) if axis == 0 else [_along(function, item, axis - 1) for item in value]


def _zip(function: Callable[..., Leaf], *values: Nested) -> Nested:
    """Apply a function of leaves elementwise, broadcasting from the right."""
    deepest = max(map(rank, values))
    if deepest == 0:
        return function(*values)
    lists = [value if isinstance(value, list) and rank(value) == deepest else [value] for value in values]
    lengths = {len(items) for items in lists} - {1}
    if len(lengths) > 1:
        raise ValueError(f"axes of lengths {sorted(lengths)} do not broadcast")
    length = next(iter(lengths), 1)
    return [_zip(function, *(items[0] if len(items) == 1 else items[i] for items in lists)) for i in range(length)]


def _quotient(a: int, b: int) -> int:
    """Division toward zero, as C does; dimensions are not negative, so that symbolic ones stay one expression."""
    if isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt) or (a >= 0 and b > 0):
        return a // b
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def add(a: Nested, b: Nested) -> Nested:
    return _zip(operator.add, a, b)


def sub(a: Nested, b: Nested) -> Nested:
    return _zip(operator.sub, a, b)


def mul(a: Nested, b: Nested) -> Nested:
    return _zip(operator.mul, a, b)


def div(a: Nested, b: Nested) -> Nested:
    return _zip(_quotient, a, b)


def mod(a: Nested, b: Nested, *, fmod: int = 0) -> Nested:
    return _zip(lambda x, y: x - _quotient(x, y) * y if fmod else x % y, a, b)


def neg(a: Nested) -> Nested:
    return _zip(operator.neg, a)


def absolute(a: Nested) -> Nested:
    return _zip(abs, a)


def maximum(*values: Nested) -> Nested:
    return _zip(lambda *leaves: reduce(torch.sym_max, leaves), *values)


def minimum(*values: Nested) -> Nested:
    return _zip(lambda *leaves: reduce(torch.sym_min, leaves), *values)


def equal(a: Nested, b: Nested) -> Nested:
    return _zip(operator.eq, a, b)


def less(a: Nested, b: Nested) -> Nested:
    return _zip(operator.lt, a, b)


def less_or_equal(a: Nested, b: Nested) -> Nested:
    return _zip(operator.le, a, b)


def greater(a: Nested, b: Nested) -> Nested:
    return _zip(operator.gt, a, b)


def greater_or_equal(a: Nested, b: Nested) -> Nested:
    return _zip(operator.ge, a, b)


def logical_not(a: Nested) -> Nested:
    return _zip(lambda x: not x, a)


def logical_and(a: Nested, b: Nested) -> Nested:
    return _zip(lambda x, y: bool(x) and bool(y), a, b)


def logical_or(a: Nested, b: Nested) -> Nested:
    return _zip(lambda x, y: bool(x) or bool(y), a, b)


def where(condition: Nested, a: Nested, b: Nested) -> Nested:
    return _zip(lambda c, x, y: x if c else y, condition, a, b)


def cast(a: Nested, *, to: int) -> Nested:
    """Between int64, int32 and bool; the emitter takes other types to the device."""
    if to == oir.DataType.BOOL:
        return _zip(lambda x: x if isinstance(x, bool) else x != 0, a)
    return _zip(lambda x: int(x) if isinstance(x, bool) else x, a)


def identity(a: Nested) -> Nested:
    return a


def shape(a: Nested, *, start: int = 0, end: int | None = None) -> Nested:
    return list[Nested](extent(a))[slice(start, end)]


def size(a: Nested) -> Nested:
    return len(flat(a))


def reshape(a: Nested, dims: list[int], *, allowzero: int = 0) -> Nested:
    leaves, old = flat(a), extent(a)
    wanted = [old[i] if d == 0 and not allowzero else d for i, d in enumerate(dims)]
    if -1 in wanted:
        rest = math.prod(d for d in wanted if d != -1)
        wanted[wanted.index(-1)] = len(leaves) // rest if rest else 0
    return nest(leaves, wanted)


def transpose(a: Nested, *, perm: Sequence[int] | None = None) -> Nested:
    dims = extent(a)
    order = list(perm) if perm is not None else list(range(len(dims)))[::-1]
    leaves = flat(a)
    strides = [math.prod(dims[axis + 1 :]) for axis in order]

    def build(axis: int, offset: int) -> Nested:
        if axis == len(order):
            return leaves[offset]
        return [build(axis + 1, offset + i * strides[axis]) for i in range(dims[order[axis]])]

    return build(0, 0)


def unsqueeze(a: Nested, axes: Ints | int) -> Nested:
    places = [axes] if isinstance(axes, int) else axes
    dims, deep = extent(a), rank(a) + len(places)
    for place in sorted(_place(p, deep) for p in places):
        dims.insert(place, 1)
    return nest(flat(a), dims)


def squeeze(a: Nested, axes: Ints | int | None = None) -> Nested:
    dims = extent(a)
    places = [i for i, d in enumerate(dims) if d == 1] if axes is None else [axes] if isinstance(axes, int) else axes
    gone = {_place(p, len(dims)) for p in places}
    return nest(flat(a), [d for i, d in enumerate(dims) if i not in gone])


def concat(*parts: Nested, axis: int) -> Nested:
    # an empty list does not say how deep it is
    filled = [part for part in parts if part != []] or [[]]
    ranks = [rank(part) for part in filled]
    if len(set(ranks)) > 1:
        raise ValueError(f"the inputs have the ranks {ranks}; expected one")
    place = _place(axis, ranks[0])

    def join(values: Sequence[Nested], depth: int) -> Nested:
        lists = [value for value in values if isinstance(value, list)]
        if depth == 0:
            return [item for items in lists for item in items]
        return [join(rows, depth - 1) for rows in zip(*lists, strict=True)]

    return join(filled, place)


def gather(a: Nested, indices: Nested, *, axis: int = 0) -> Nested:
    def pick(items: list[Nested]) -> Nested:
        def at(index: Nested) -> Nested:
            return [at(i) for i in index] if isinstance(index, list) else items[int(index)]

        return at(indices)

    return _along(pick, a, _place(axis, rank(a)))


def slice_(a: Nested, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Nested:
    deep = rank(a)
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        step = steps[i] if steps is not None else 1
        a = _along(partial(_sliced, start=starts[i], end=ends[i], step=step), a, _place(axis, deep))
    return a


def _sliced(items: list[Nested], start: int, end: int, step: int) -> Nested:
    n = len(items)
    # bounds count from the back once, then clamp; a backward slice may end, not start, before the first element
    low, high = (0, n) if step > 0 else (-1, n - 1)
    start = min(max(start + n if start < 0 else start, 0), high)
    end = min(max(end + n if end < 0 else end, low), high)
    return [items[i] for i in range(start, end, step)]


def split(
    a: Nested, split: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int
) -> Nested | tuple[Nested, ...]:
    place, sizes = _place(axis, rank(a)), split
    total = extent(a)[place]
    if sizes is None:
        parts = num_outputs or outputs
        if parts < 1:
            raise ValueError(f"num_outputs is {parts}; expected at least 1")
        step = -(-total // parts)
        sizes = [max(min(step, total - i * step), 0) for i in range(min(parts, outputs))]
    elif sum(sizes) != total or any(size < 0 for size in sizes):
        raise ValueError(f"the sizes {list(sizes)} do not make up the axis of length {total}")
    bounds = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    pieces = tuple(
        _along(partial(_sliced, start=bounds[i], end=bounds[i + 1], step=1), a, place) for i in range(len(sizes))
    )
    return pieces[0] if outputs == 1 else pieces


def expand(a: Nested, dims: list[int]) -> Nested:
    return _zip(lambda x, _: x, a, nest([0] * math.prod(dims), dims))


def tile(a: Nested, repeats: list[int]) -> Nested:
    if len(repeats) != rank(a):
        raise ValueError(f"{len(repeats)} repeats for rank {rank(a)}; expected one for each axis")
    for axis, times in enumerate(repeats):
        a = _along(lambda items, n=times: items * n, a, axis)  # type: ignore[misc]
    return a


def constant_of_shape(dims: list[int], *, value: Literal = ZERO) -> Nested:
    """ConstantOfShape of an integer type."""
    leaf = flat(value.values)[0]  # type: ignore[arg-type]
    return nest([leaf] * math.prod(dims), dims)


def arange(start: int, limit: int, delta: int, *, stash_type: int = 1) -> Nested:
    return list(range(start, limit, delta))


def product(a: Nested, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Nested:
    return _reduce(operator.mul, a, axes, keepdims, noop_with_empty_axes)


def total(a: Nested, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Nested:
    return _reduce(operator.add, a, axes, keepdims, noop_with_empty_axes)


def _reduce(function: Callable[..., Leaf], a: Nested, axes: Ints | None, keepdims: int, noop: int) -> Nested:
    if noop and not axes:
        return a
    neutral: Nested = 1 if function is operator.mul else 0

    def join(x: Nested, y: Nested) -> Nested:
        return _zip(function, x, y)

    places = [_place(axis, rank(a)) for axis in axes] if axes else list(range(rank(a)))
    for place in places:
        a = _along(lambda items: [reduce(join, items, neutral)], a, place)
    return a if keepdims else squeeze(a, places)


_SAME: dict[str, Callable[..., object]] = {
    "Add": add,
    "Sub": sub,
    "Mul": mul,
    "Div": div,
    "Mod": mod,
    "Neg": neg,
    "Abs": absolute,
    "Max": maximum,
    "Min": minimum,
    "Identity": identity,
    "Transpose": transpose,
    "Concat": concat,
}
_LOGIC: dict[str, Callable[..., object]] = {
    "Equal": equal,
    "Less": less,
    "LessOrEqual": less_or_equal,
    "Greater": greater,
    "GreaterOrEqual": greater_or_equal,
    "Not": logical_not,
    "And": logical_and,
    "Or": logical_or,
}
HOST: dict[Key, HostLowering] = {
    **{("", op, 1): HostLowering(function=function) for op, function in _SAME.items()},
    **{("", op, 1): HostLowering(function=function, dtype=oir.DataType.BOOL) for op, function in _LOGIC.items()},
    ("", "Cast", 1): HostLowering(function=cast),
    ("", "Where", 9): HostLowering(function=where, dtype=1),
    ("", "Shape", 1): HostLowering(function=shape, dtype=oir.DataType.INT64, lengths=True),
    ("", "Size", 1): HostLowering(function=size, dtype=oir.DataType.INT64, lengths=True),
    ("", "Reshape", 1): HostLowering(function=reshape, static=(1,)),
    ("", "Squeeze", 1): HostLowering(function=squeeze, static=(1,)),
    ("", "Unsqueeze", 1): HostLowering(function=unsqueeze, static=(1,)),
    ("", "Gather", 1): HostLowering(function=gather, static=(1,)),
    ("", "Slice", 1): HostLowering(function=slice_, static=(1, 2, 3, 4)),
    ("", "Split", 1): HostLowering(function=split, static=(1,), many=True),
    ("", "Expand", 8): HostLowering(function=expand, static=(1,), grows=True),
    ("", "Tile", 6): HostLowering(function=tile, static=(1,), grows=True),
    ("", "Range", 11): HostLowering(function=arange, static=(0, 1, 2), grows=True),
    ("", "ConstantOfShape", 9): HostLowering(function=constant_of_shape, static=(0,), grows=True),
    ("", "ReduceProd", 1): HostLowering(function=product, static=(1,)),
    ("", "ReduceSum", 1): HostLowering(function=total, static=(1,)),
}
