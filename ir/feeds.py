"""Feeds: the arrays a model runs on. Random ones that fit it, and a check of the ones a user gives.

What an integer input is for is read from the graph, never from its name: followed forward through casts and reshapes,
what indexes a table is an index below the table's rows, what is compared, subtracted from one, or turned into a truth
value is a mask, and what is only ever compared with one constant is that constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .dimensions import Range, clip, ranges
from .errors import ModelError, nearest
from .level import Port, Signature
from .polynomial import Polynomial
from .roles import Length, Literal, Mask, Role, below, role_of
from .shapes import Shapes, dimension_names, infer

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]
#: From feeds to outputs by name.
Run = Callable[[Feeds], Mapping[str, Array]]

#: Sizes of dynamic dimensions nobody gave: an input's first axis, and any other.
_FIRST, _OTHER = 2, 16


def random_feeds(model: ir.Model, dimensions: Mapping[str, int] | None = None, *, seed: int = 0) -> dict[str, Array]:
    """Feeds that fit the model's inputs, the same for the same seed.

    Dynamic dimensions take their size from `dimensions`, else 2 where they come first in an input and 16 elsewhere,
    within the ranges that the model states. Floats are standard normal, indices uniform below the rows of what they
    index, masks 0/1 with padding on the right and a full first row. Raises ModelError for inputs that cannot be made up
    (text, sequences, unknown rank) and OptionError for a dimension that no input has.
    """
    sizes = default_sizes(model, dimensions)
    shapes = infer(model, sizes)
    rng = np.random.default_rng(seed)
    return {
        value.name or "": np.asarray(_random(value, _extents(value, shapes), role_of(value, model, shapes), rng))
        for value in model.graph.inputs
        if value.const_value is None
    }


def default_sizes(
    model: ir.Model, dimensions: Mapping[str, int] | None = None, *, other: int = _OTHER
) -> dict[str, int]:
    """A size for each dynamic dimension of the inputs: as given, else small and in range.

    `other` is for the dimensions that never come first in an input.
    """
    first = {
        name
        for value in model.graph.inputs
        if value.shape is not None and len(value.shape) and isinstance(value.shape[0], ir.SymbolicDim)
        for name in Polynomial.parse(value.shape[0].value or f"{value.name}_dim_0").names
    }
    allowed = ranges(model)
    sizes = {
        name: clip(_FIRST if name in first else other, allowed.get(name, (1, None))) for name in dimension_names(model)
    }
    return sizes | dict(dimensions or {})


def check_feeds(signature: Signature, feeds: Feeds, ranges: Mapping[str, Range] | None = None) -> None:
    """Raise ModelError, naming everything at once, unless `feeds` fit the inputs of `signature`.

    Checked are names, dtypes, ranks, fixed sizes, that one named dimension has one size, and that it is in its range.
    """
    known = [port.name for port in signature.inputs]
    missing = [name for name in known if name not in feeds]
    wrong = [f"{name!r} is missing" for name in missing]
    for name in feeds:
        if name not in known:
            wrong.append(f"{name!r} is no input ({nearest(name, known) if known else 'the model has none'})")
    sizes: dict[str, tuple[int, str]] = {}
    for port in signature.inputs:
        if port.name in feeds:
            wrong += _misfits(port, np.asarray(feeds[port.name]), sizes)
    for dimension, (low, high) in (ranges or {}).items():
        size, name = sizes.get(dimension, (low, ""))
        if size < low or (high is not None and size > high):
            wrong.append(f"{name!r} has {dimension} {size}, outside {low}..{'' if high is None else high}")
    if wrong:
        wanted = ", ".join(map(str, signature.inputs))
        raise ModelError(f"the feeds do not fit the model: {'; '.join(wrong)}. It takes {wanted}")


def _misfits(port: Port, array: Array, sizes: dict[str, tuple[int, str]]) -> list[str]:
    """What is wrong with one array; the sizes it gives to named dimensions are added to `sizes`."""
    wrong = []
    if port.dtype == ir.DataType.STRING and array.dtype.kind not in "OSUT":
        wrong.append(f"{port.name!r} is {array.dtype}, not text (convert it with .astype(object))")
    wanted = None if port.dtype is None or port.dtype == ir.DataType.STRING else port.dtype.numpy()
    if wanted is not None and array.dtype != wanted:
        wrong.append(f"{port.name!r} is {array.dtype}, not {wanted} (convert it with .astype({str(wanted)!r}))")
    if port.shape is None:
        return wrong
    if array.ndim != len(port.shape):
        return [*wrong, f"{port.name!r} has {array.ndim} axes {list(array.shape)}, not {len(port.shape)}"]
    for axis, (size, dim) in enumerate(zip(array.shape, port.shape, strict=True)):
        if isinstance(dim, int):
            if size != dim:
                wrong.append(f"{port.name!r} has size {size} on axis {axis}, not {dim}")
        elif dim is not None:
            before, name = sizes.setdefault(dim, (size, port.name))
            if before != size:
                wrong.append(f"{dim} is {before} in {name!r} and {size} in {port.name!r}")
    return wrong


def _extents(value: ir.Value, shapes: Shapes) -> tuple[int, ...]:
    dims = shapes.of(value)
    if dims is None:
        raise ModelError(f"input {value.name!r} has no shape, so no feeds can be made up for it: give data")
    return tuple(max(0, int(dim)) for dim in dims if dim is not None)


def _random(value: ir.Value, shape: tuple[int, ...], role: Role | None, rng: np.random.Generator) -> Array:
    dtype = value.dtype
    if dtype is None or dtype.is_string() or not isinstance(value.type, ir.TensorType):
        raise ModelError(f"input {value.name!r} is {value.type}: no feeds can be made up for it, give data")
    kind = dtype.numpy()
    if dtype == ir.DataType.BOOL:
        return padded(shape, rng).astype(kind) if isinstance(role, Mask) else rng.random(shape) < 0.5
    if dtype.is_integer():
        return _integers(shape, dtype, role, rng).astype(kind)
    if kind.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(kind)
    return rng.standard_normal(shape, dtype=np.float32).astype(kind)


def _integers(
    shape: tuple[int, ...], dtype: ir.DataType, role: Role | None, rng: np.random.Generator
) -> NDArray[np.int64]:
    if isinstance(role, Literal):
        return np.full(shape, role.number, dtype=np.int64)
    if isinstance(role, Mask):
        return padded(shape, rng)
    if isinstance(role, Length):
        lengths = rng.integers(1, role.longest + 1, shape)
        lengths.reshape(-1)[:1] = role.longest
        return lengths
    bound = below(role)
    if bound is None:
        # bytes are pixels or codes, wider integers without a known use are kept small
        bound = 2**dtype.bitwidth if dtype.bitwidth <= 8 and not dtype.is_signed() else 2
    return rng.integers(0, max(bound, 1), shape)


def padded(shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """A mask of ones, padded with zeros on the right of the last axis; the first row is full, none is empty.

    >>> padded((3, 4), np.random.default_rng(0)).tolist()
    [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]
    """
    if not shape:
        return np.ones((), dtype=np.int64)
    lengths = rng.integers(1, max(shape[-1], 1) + 1, (*shape[:-1], 1))
    lengths.reshape(-1)[:1] = shape[-1]
    return (np.arange(shape[-1]) < lengths).astype(np.int64)
