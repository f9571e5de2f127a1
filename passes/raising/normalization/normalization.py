"""Recognise a normalisation of rows by what it computes, not by how it is spelled.

    y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias        Ba et al., Layer Normalization, 2016, equation 4
    y = x / sqrt(mean(x^2) + epsilon) * scale                        Zhang & Sennrich, RMSNorm, 2019, equation 4

From a reduction, walk up to the values that may be x and down to those that may be y, and evaluate what lies between at
rows whose deviations are large, ordinary, small and next to nothing beside epsilon: the large ones show scale and bias,
the smallest epsilon, and the others that nothing else is there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx_ir as ir

from ....ir.content import dimensions
from ...base import Miss
from ...edit import is_op, only_reader, scalar_of
from .rows import ARITHMETIC, Axes, Floats, Rows, reduced

#: Standard deviations of the sample rows; the first two rows are x and -x.
_DEVIATIONS = (1e4, 1e4, 1.0, 3e-2, 1e-3, 1e-9)
#: Relative, of what is computed in float64 from constants that were float32.
_TOLERANCE = 2e-6
#: In float32, of rows whose mean is a thousand deviations: subtracting the mean first keeps four digits.
_CANCELLED = 3e-3
#: Values that a search looks at, up and down.
_REACH = 24
#: Elements of a row that are evaluated at most.
_WIDEST = 1 << 17

_DTYPES = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class Norm:
    """y = normalised(x) * scale + bias over the last `sizes` axes; None for ones and for zeros."""

    centred: bool
    x: ir.Value
    y: ir.Value
    scale: ir.Value | None
    bias: ir.Value | None
    epsilon: float
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class _Form:
    """What rows turned out to be."""

    scale: ir.Value | None
    bias: ir.Value | None
    epsilon: float


def find(node: ir.Node) -> Norm | Miss:
    """The normalisation that a reduction is part of."""
    name = node.outputs[0].name or ""
    below = list(values_below(node))
    if not any(is_root(value.producer()) for value in below):
        return Miss("root", name, "a square root of a mean of squares", far=True)
    axes = reduced(node)
    if axes is None:
        return Miss("axes", f"{node.inputs[0].name if node.inputs[0] else ''}: unknown", "known axes of known sizes")
    if not axes.last:
        return Miss("axes", f"{list(axes.axes)} of {axes.rank}", "the last axes, with another before them")
    if not 2 <= axes.count <= _WIDEST:
        return Miss("width", str(axes.count), f"2 to {_WIDEST} elements in a row")
    tops = values_above(node, axes)
    plain: tuple[int, Norm] | None = None
    for index, x in enumerate(tops):
        pair = _pair(x, axes)
        found = _norm(x, below, axes, True, pair)
        if found is not None:
            return _checked(_widened(found, tops[index + 1 :], below, axes), axes)
        if plain is None and (found := _norm(x, below, axes, False, pair)) is not None:
            plain = index, found
    if plain is not None:
        return _checked(_widened(plain[1], tops[plain[0] + 1 :], below, axes), axes)
    return Miss("function", name, "x / sqrt(mean(x^2) + epsilon), with or without x - mean(x) for x")


def _checked(found: Norm, axes: Axes) -> Norm | Miss:
    if found.x.dtype not in _DTYPES:
        return Miss("dtype", str(found.x.dtype), "float, float16 or bfloat16", near=True)
    if found.centred and _cancels(found, axes):
        need = "the mean subtracted before squaring, not E[x^2] - E[x]^2"
        return Miss("cancellation", found.y.name or "", need, near=True)
    return found


def values_below(node: ir.Node, ops: Sequence[str] = ARITHMETIC) -> Iterator[ir.Value]:
    """What is made of a reduction's result by arithmetic in its own graph, nearest first."""
    queue, seen = deque([node.outputs[0]]), {node.outputs[0]}
    while queue and len(seen) <= _REACH:
        value = queue.popleft()
        yield value
        for reader in value.consumers():
            if is_op(reader, *ops) and reader.graph is node.graph and reader.outputs[0] not in seen:
                seen.add(reader.outputs[0])
                queue.append(reader.outputs[0])


def values_above(node: ir.Node, axes: Axes) -> list[ir.Value]:
    """What may be x: what is reduced, and what that was made of by arithmetic on one value, nearest first."""
    queue, found = deque([node.outputs[0]]), dict[ir.Value, None]()
    seen = set(queue)
    while queue and len(seen) <= _REACH:
        value = queue.popleft()
        producer = value.producer()
        whole = is_whole(value, axes)
        if whole:
            found[value] = None
        if not is_op(producer, *ARITHMETIC):
            continue
        feeding = dict.fromkeys(item for item in producer.inputs if item is not None and scalar_of(item) is None)
        if whole:
            feeding = dict.fromkeys(item for item in feeding if is_whole(item, axes))
            if len(feeding) != 1:
                continue
        fresh = [item for item in feeding if item not in seen]
        seen.update(fresh)
        queue.extend(fresh)
    return [*found]


def is_whole(value: ir.Value, axes: Axes) -> bool:
    """Whether a value has rows of all sizes."""
    dims = dimensions(value)
    if dims is None or len(dims) != axes.rank:
        return False
    return all(dims[axis] == size for axis, size in zip(axes.axes, axes.sizes, strict=True))


def is_root(node: ir.Node | None) -> bool:
    """Whether a node takes a square root, of whatever sign."""
    if is_op(node, "Pow"):
        return abs(scalar_of(node.inputs[1]) or 0.0) == 0.5
    return is_op(node, "Sqrt", "ReduceL2")


def _pair(x: ir.Value, axes: Axes) -> tuple[Rows, Rows]:
    """The sample rows, with two sets of numbers for the parameters."""
    samples = _samples(axes.count)
    return Rows(x, axes, samples), Rows(x, axes, samples, seed=1)


def _norm(x: ir.Value, below: list[ir.Value], axes: Axes, centred: bool, pair: tuple[Rows, Rows]) -> Norm | None:
    """The nearest y that is a normalisation of x, and then as much scale and bias as is read by nothing else."""
    nearest: tuple[ir.Value, _Form] | None = None
    for value in below:
        if is_whole(value, axes) and (form := _sure(pair, value, centred)) is not None:
            nearest = value, form
            break
    if nearest is None:
        return None
    chain = [nearest]
    while (reader := only_reader(chain[-1][0])) is not None:
        if not is_op(reader, *ARITHMETIC) or reader.graph is not _graph(nearest[0]):
            break
        further = _sure(pair, reader.outputs[0], centred)
        if further is None:
            break
        chain.append((reader.outputs[0], further))
    fitting = [(y, form) for y, form in chain if _of_one_type(x, y, form)]
    y, form = fitting[-1] if fitting else nearest
    return Norm(centred, x, y, form.scale, form.bias, form.epsilon, axes.sizes)


def _graph(value: ir.Value) -> ir.Graph | None:
    node = value.producer()
    return None if node is None else node.graph


def _widened(found: Norm, above: list[ir.Value], below: list[ir.Value], axes: Axes) -> Norm:
    """The same from before a Cast of x, where more of scale and bias has that dtype; what is between rounds as x."""
    best = found
    x = found.x
    while is_op(cast := x.producer(), "Cast") and cast.inputs[0] in above:
        x = cast.inputs[0]
        other = _norm(x, below, axes, found.centred, _pair(x, axes))
        if other is None:
            break
        if _fits(other) and (not _fits(best) or _reads(other.y, best.y)):
            best = other
    return best


def _reads(later: ir.Value, earlier: ir.Value) -> bool:
    """Whether one value is made of the other by a chain in which each is read once."""
    value = earlier
    for _ in range(_REACH):
        reader = only_reader(value)
        if reader is None or not reader.outputs:
            return False
        value = reader.outputs[0]
        if value is later:
            return True
    return False


def _fits(found: Norm) -> bool:
    return _of_one_type(found.x, found.y, _Form(found.scale, found.bias, found.epsilon))


def _of_one_type(x: ir.Value, y: ir.Value, form: _Form) -> bool:
    return all(value is None or value.dtype == x.dtype for value in (y, form.scale, form.bias))


@lru_cache(maxsize=4)
def _samples(count: int) -> Floats:
    """Rows of the given deviations whose mean is 0.6 deviations, the second row the first's negative."""
    random = np.random.default_rng(count)
    rows = random.standard_normal((len(_DEVIATIONS), count)) + 0.6
    rows[1] = -rows[0]
    return np.asarray(rows * np.array(_DEVIATIONS)[:, None])


def _sure(pair: tuple[Rows, Rows], value: ir.Value, centred: bool) -> _Form | None:
    """The form of a value, whatever numbers the parameters are: an epsilon may not come from one."""
    form = _form(pair[0], value, centred)
    found = pair[1].of(value) if form is not None else None
    if form is None or found is None:
        return None
    wanted = _normalized(pair[1], form, centred)
    return form if _close(found, wanted, wanted) else None


def _normalized(rows: Rows, form: _Form, centred: bool) -> Floats:
    """What a form says of the sample rows, in float64."""
    samples = np.float64(rows.samples)
    inner = samples - samples.mean(axis=1, keepdims=True) if centred else samples
    unit = inner / np.sqrt(np.mean(inner * inner, axis=1, keepdims=True) + form.epsilon)
    scale = 1.0 if form.scale is None else rows.along(form.scale)
    bias = 0.0 if form.bias is None else rows.along(form.bias)
    return np.asarray(unit * scale + bias)


def _form(rows: Rows, value: ir.Value, centred: bool) -> _Form | None:
    """Scale, bias and epsilon of a value that is a normalisation of the rows."""
    found = rows.of(value)
    # one reduction for the mean, one for the squares
    if found is None or rows.reductions < 1 + centred or not np.all(np.isfinite(found)):
        return None
    samples = rows.samples
    inner = samples - samples.mean(axis=1, keepdims=True) if centred else samples
    squares = np.mean(inner * inner, axis=1, keepdims=True)
    parameters = {item: row for item in rows.parameters if (row := rows.along(item)) is not None}
    # the normalised row is odd in x
    bias = _named((found[0] + found[1]) / 2.0, parameters, float(np.max(np.abs(found[0]))))
    if bias is None:
        return None
    added = 0.0 if bias[0] is None else parameters[bias[0]]
    unit = (inner / np.sqrt(squares))[0]
    for scale, factor in ((None, 1.0), *parameters.items()):
        if not _close(found[0] - added, unit * factor, found[0]):
            continue
        epsilon = _epsilon((found[-1] - added) / factor, inner[-1], float(squares[-1, 0]), rows.numbers)
        form = _Form(scale, bias[0], epsilon)
        wanted = _normalized(rows, form, centred)
        if _close(found, wanted, wanted):
            return form
    return None


def _named(row: Floats, parameters: dict[ir.Value, Floats], size: float) -> tuple[ir.Value | None] | None:
    """The parameter that a row is, in a tuple; (None,) for zeros."""
    if np.max(np.abs(row)) <= _TOLERANCE * size:
        return (None,)
    return next(((item,) for item, own in parameters.items() if _close(row, own, row)), None)


def _close(found: Floats, wanted: Floats, size: Floats) -> bool:
    """Relative to what the row is made of: its elements may cancel against the bias."""
    largest = np.max(np.abs(size), axis=-1, keepdims=True)
    return bool(np.all(np.abs(found - wanted) <= _TOLERANCE * largest))


def _epsilon(unit: Floats, inner: Floats, square: float, numbers: list[float]) -> float:
    """What unit = inner / sqrt(square + epsilon) adds to the mean square: a number of the graph where it is one."""
    length = float(np.linalg.norm(unit))
    if length == 0.0:
        return 0.0
    found = float(np.linalg.norm(inner) / length) ** 2 - square
    if found <= 1e-3 * square:
        return 0.0
    return next((number for number in numbers if abs(number - found) <= 1e-4 * found), found)


def _cancels(found: Norm, axes: Axes) -> bool:
    """Whether the arithmetic loses in float32 what a mean of a thousand deviations leaves of the variance."""
    random = np.random.default_rng(7)
    samples = (random.standard_normal((4, axes.count)) + 1e3).astype(np.float32)
    rows = Rows(found.x, axes, samples)
    got = rows.of(found.y)
    if got is None:
        return True
    wanted = _normalized(rows, _Form(found.scale, found.bias, found.epsilon), centred=True)
    return not bool(np.max(np.abs(got - wanted)) <= _CANCELLED * np.max(np.abs(wanted)))
