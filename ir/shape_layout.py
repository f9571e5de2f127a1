"""Shape rules of ops that move, cut, join or make data; see `shape_compute` for what a rule is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx_ir as ir

from .atoms import exactly
from .polynomial import Polynomial, product, smaller, total
from .shape_compute import broadcast
from .shape_scope import ONE, Dims, Rule, Scope, dim_of, int_of

Dim = Polynomial | None

_HUGE = 2**31 - 1


def _transpose(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data = scope.input(node, 0)
    yield tuple(data[axis] for axis in scope.integers(node, "perm", list(range(len(data)))[::-1]))


def _reshape(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    target = _given(node, scope, 1, "shape")
    if not target and scope.has(node, 1):
        yield (None,) * int_of(scope.input(node, 1)[0])
        return
    value = node.inputs[0]
    data = None if value is None else scope.of(value)
    copies = not scope.integer(node, "allowzero", 0)
    if copies:
        target = [(data[index] if data else None) if size == 0 else size for index, size in enumerate(target)]
    open_at = [index for index, size in enumerate(target) if size is None or size == -1]
    whole = None if data is None or None in data else product(map(dim_of, data))
    if whole is not None and len(open_at) == 1:
        rest = product(dim_of(size) for index, size in enumerate(target) if index not in open_at)
        target[open_at[0]] = whole // rest
    found = tuple(None if size == -1 else size for size in target)
    if (
        copies
        and scope.strict
        and not (whole is not None and None not in found and _as_many(map(dim_of, found), whole))
    ):
        doubtful = [index for index, size in enumerate(found) if index not in open_at and _may_copy(size, index, data)]
        gone = {*doubtful, *(open_at if doubtful else ())}
        found = tuple(None if index in gone else size for index, size in enumerate(found))
    yield found


def _as_many(found: Iterable[Polynomial], whole: Polynomial) -> bool:
    """Whether sizes multiply to `whole` wherever that is not zero."""
    above = {name: Polynomial.of(name) + 1 for name in whole.names if whole.at({name: 0}) == 0}
    return product(found).at(above) == whole.at(above)


def _may_copy(size: Dim, place: int, data: Dims) -> bool:
    """Whether an element of a target may be a zero that stands for another dimension at its place.

    Where the elements multiply to what is reshaped, that is empty if one of them is zero, and so is what comes out.
    """
    if size is None or (size - 1).nonnegative or (data is not None and place >= len(data)):
        return False
    dim = None if data is None else data[place]
    return dim is None or exactly(dim, size) is None


def _squeeze(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data = scope.input(node, 0)
    axes = scope.constants(node, 1, "axes")
    if axes is None and scope.strict and any(dim is None or dim.constant is None for dim in data):
        raise ValueError("a dimension may be 1 or not")
    gone = {axis for axis, dim in enumerate(data) if dim == 1} if axes is None else {axis % len(data) for axis in axes}
    yield tuple(dim for axis, dim in enumerate(data) if axis not in gone)


def _unsqueeze(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data = scope.input(node, 0)
    axes = scope.constants(node, 1, "axes") or []
    rank = len(data) + len(axes)
    added, left = {axis % rank for axis in axes}, iter(data)
    yield tuple(ONE if axis in added else next(left) for axis in range(rank))


def _flatten(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data = scope.input(node, 0)
    axis = scope.integer(node, "axis", 1)
    yield product(map(dim_of, data[:axis])), product(map(dim_of, data[axis:]))


def _concat(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    parts = [scope.input(node, index) for index in range(len(node.inputs))]
    axis = scope.integer(node, "axis", 0) % len(parts[0])
    joined = None if any(part[axis] is None for part in parts) else total(dim_of(part[axis]) for part in parts)
    others = [next((part[at] for part in parts if part[at] is not None), None) for at in range(len(parts[0]))]
    yield (*others[:axis], joined, *others[axis + 1 :])


def _split(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data = scope.input(node, 0)
    axis, count = scope.integer(node, "axis", 0) % len(data), len(node.outputs)
    sizes = _given(node, scope, 1, "split")
    if not sizes and scope.has(node, 1):
        sizes = [None] * count
    if not sizes:
        step = (dim_of(data[axis]) + (count - 1)) // count
        sizes = [*[step] * (count - 1), dim_of(data[axis]) - step * (count - 1)]
    for size in sizes:
        yield (*data[:axis], size, *data[axis + 1 :])


def _slice(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data = list(scope.input(node, 0))
    starts, ends, axes, steps = (_given(node, scope, index + 1, name) for index, name in enumerate(_BOUNDS))
    if any(scope.has(node, index + 1) and not _given(node, scope, index + 1, "") for index in (2, 3)):
        # which axes, and in what steps, only the data tell
        yield (None,) * len(data)
        return
    count = len(starts) or len(ends) or len(axes)
    for index in range(count):
        axis = int_of(axes[index]) % len(data) if axes else index
        step = int_of(steps[index]) if steps else 1
        data[axis] = _cut(data[axis], starts[index] if starts else None, ends[index] if ends else None, step, scope)
    yield tuple(data) if count else (None,) * len(data)


_BOUNDS = ("starts", "ends", "axes", "steps")


def _given(node: ir.Node, scope: Scope, index: int, name: str) -> list[Dim]:
    """A list that older opsets give as an attribute and newer ones as an input; empty where absent or unknown."""
    if name in node.attributes:
        return [Polynomial.of(number) for number in scope.integers(node, name, [])]
    return scope.numbers(node, index) or []


def _cut(dim: Dim, start: Dim, end: Dim, step: int, scope: Scope) -> Dim:
    """Length of dim[start:end:step]; open bounds are taken to lie inside unless the scope is strict."""
    if dim is None or start is None or end is None:
        return None
    size, first, last = dim.constant, start.constant, end.constant
    if size is not None and first is not None and last is not None:
        return Polynomial.of(len(range(*slice(first, last if step > 0 or last > -_HUGE else None, step).indices(size))))
    if step < 0:
        return None
    if scope.strict:
        return _cut_strictly(dim, start, end, step)
    if first is not None and first < 0:
        start = dim + first
    if last is not None:
        if 0 <= last < _HUGE:
            # one element is there to cut out; of more, how many are there is not known
            return ONE if first is not None and last - first == 1 else None
        end = dim if last >= _HUGE else dim + last
    return (end - start + (step - 1)) // step


def _cut_strictly(dim: Polynomial, start: Polynomial, end: Polynomial, step: int) -> Dim:
    """The length where both bounds, clamped to the dimension, are known for every size."""
    first, last = _clamped(start, dim), _clamped(end, dim)
    if first is None or last is None:
        return None
    ordered = (last - first).nonnegative or (start.nonnegative and (end - start).nonnegative)
    if not ordered:
        return None
    return (last - first + (step - 1)) // step


def _clamped(bound: Polynomial, dim: Polynomial) -> Dim:
    """A bound of a slice as a position from 0 to `dim`, None where that depends on sizes."""
    if bound.constant is not None and bound.constant < 0:
        return dim - smaller(-bound, dim) if dim.nonnegative else None
    if bound.constant is not None and bound.constant >= _HUGE:
        return dim if dim.nonnegative else None
    if not bound.nonnegative:
        return None
    if (dim - bound).nonnegative:
        return bound
    return smaller(bound, dim) if dim.nonnegative else None


def _gather(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data, indices = scope.input(node, 0), scope.input(node, 1)
    axis = scope.integer(node, "axis", scope.integer(node, "gather_axis", 0)) % len(data)
    yield (*data[:axis], *indices, *data[axis + 1 :])


def _gather_elements(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    yield scope.input(node, 1)


def _gather_nd(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data, indices = scope.input(node, 0), scope.input(node, 1)
    yield (*indices[:-1], *data[scope.integer(node, "batch_dims", 0) + int_of(indices[-1]) :])


def _expand(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    target = scope.numbers(node, 1)
    wanted = tuple(target) if target is not None else (None,) * int_of(scope.input(node, 1)[0])
    yield broadcast(scope.input(node, 0), wanted, strict=scope.strict)


def _filled(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    target = scope.numbers(node, 0)
    yield tuple(target) if target is not None else (None,) * int_of(scope.input(node, 0)[0])


def _tile(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    repeats = scope.numbers(node, 1) or []
    yield tuple(dim_of(dim) * dim_of(by) for dim, by in zip(scope.input(node, 0), repeats, strict=True))


def _pad(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data = list(scope.input(node, 0))
    pads = _given(node, scope, 1, "pads")
    axes = scope.constants(node, 3, "axes") or list(range(len(data)))
    for index, axis in enumerate(axes):
        around = (pads[index], pads[index + len(axes)])
        data[axis] = (
            None if None in (data[axis], *around) else dim_of(data[axis]) + dim_of(around[0]) + dim_of(around[1])
        )
    yield tuple(data)


def _range(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    start, limit, step = (scope.numbers(node, index) for index in range(3))
    yield (_counted(start[0], limit[0], step[0], scope) if start and limit and step else None,)


def _counted(start: Dim, limit: Dim, step: Dim, scope: Scope) -> Dim:
    """How many numbers lie from `start` to before `limit`."""
    by = None if step is None else step.constant
    if start is None or limit is None or not by:
        return None
    if scope.strict and not (by > 0 and (limit - start).nonnegative):
        return None
    return (limit - start + (by - 1)) // by


def _one_hot(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data, depth = scope.input(node, 0), scope.numbers(node, 1)
    axis = scope.integer(node, "axis", -1) % (len(data) + 1)
    yield (*data[:axis], depth[0] if depth else None, *data[axis:])


def _top_k(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    data, count = list(scope.input(node, 0)), scope.numbers(node, 1)
    data[scope.integer(node, "axis", -1)] = count[0] if count else None
    yield from (tuple(data), tuple(data))


def _shape(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    rank = len(scope.input(node, 0))
    ends = slice(scope.integer(node, "start", 0), scope.integer(node, "end", rank)).indices(rank)
    yield (Polynomial.of(len(range(*ends))),)


def _non_zero(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    yield (Polynomial.of(len(scope.input(node, 0))), None)


def _scalar(_: ir.Node, __: Scope) -> Iterator[Dims]:
    yield ()


def _constant(node: ir.Node, _: Scope) -> Iterator[Dims]:
    tensor = ir.convenience.get_const_tensor(node.outputs[0])
    if tensor is not None:
        yield tuple(Polynomial.of(dim) for dim in tensor.shape if isinstance(dim, int))
    elif "value_float" in node.attributes or "value_int" in node.attributes:
        # the call of a function says which number
        yield ()


def _same(node: ir.Node, scope: Scope) -> Iterator[Dims]:
    yield scope.input(node, 0)


_SAME = ("Identity", "Cast", "CastLike", "Dropout", "Trilu", "ScatterElements", "ScatterND", "Scatter", "EyeLike")

LAYOUT: Mapping[tuple[str, str], Rule] = {
    **{("", op): _same for op in (*_SAME, "Bernoulli", "RandomNormalLike", "RandomUniformLike")},
    ("", "Transpose"): _transpose,
    ("", "Reshape"): _reshape,
    ("", "Squeeze"): _squeeze,
    ("", "Unsqueeze"): _unsqueeze,
    ("", "Flatten"): _flatten,
    ("", "Concat"): _concat,
    ("", "Split"): _split,
    ("", "Slice"): _slice,
    ("", "Gather"): _gather,
    ("com.microsoft", "GatherBlockQuantized"): _gather,
    ("", "GatherElements"): _gather_elements,
    ("", "GatherND"): _gather_nd,
    ("", "Expand"): _expand,
    ("", "ConstantOfShape"): _filled,
    ("", "Tile"): _tile,
    ("", "Pad"): _pad,
    ("", "Range"): _range,
    ("", "OneHot"): _one_hot,
    ("", "TopK"): _top_k,
    ("", "Shape"): _shape,
    ("", "Size"): _scalar,
    ("", "NonZero"): _non_zero,
    ("", "Constant"): _constant,
}
