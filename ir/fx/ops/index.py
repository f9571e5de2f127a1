"""Ops that select, scatter, search or make elements by index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import onnx_ir as oir
import torch

from ..dtypes import torch_dtype
from ..host import Nested, flat
from ..lowering import ZERO, Literal, Lowering, Table, standard
from .axes import placed

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def gather(data: torch.Tensor, indices: torch.Tensor | int | list[int], *, axis: int = 0) -> torch.Tensor:
    """Rows of `data` along an axis, in the shape of the indices; negative ones count from the back."""
    if isinstance(indices, int):
        return data.select(axis, indices)
    place = axis % data.dim()
    index = indices.long() if isinstance(indices, torch.Tensor) else _places(indices, data.device)
    if index.dim() == 0:
        # indexing by a scalar tensor would read it back
        return data.index_select(place, _forward(index, data.shape[place]).reshape(1)).squeeze(place)
    return data[(slice(None),) * place + (index,)]


def _places(indices: list[int], device: torch.device) -> torch.Tensor:
    return torch.tensor(indices, dtype=torch.int64, device=device)


def gather_elements(data: torch.Tensor, indices: torch.Tensor, *, axis: int = 0) -> torch.Tensor:
    return data.gather(axis, _forward(indices, data.shape[axis]))


def gather_nd(data: torch.Tensor, indices: torch.Tensor, *, batch_dims: int = 0) -> torch.Tensor:
    """The last axis of the indices addresses the axes of `data` after the batch ones."""
    batch = tuple(
        torch.arange(data.shape[i], device=data.device).reshape([-1 if i == j else 1 for j in range(indices.dim() - 1)])
        for i in range(batch_dims)
    )
    return data[(*batch, *indices.long().unbind(-1))]


def _forward(indices: torch.Tensor, n: int) -> torch.Tensor:
    """Indices that count from the back, counted from the front."""
    indices = indices.long()
    return torch.where(indices < 0, indices + n, indices)


def scatter_elements(
    data: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, *, axis: int = 0, reduction: str = "none"
) -> torch.Tensor:
    index = _forward(indices, data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, index, updates)
    return data.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction])


def scatter_nd(
    data: torch.Tensor, indices: torch.Tensor, updates: torch.Tensor, *, reduction: str = "none"
) -> torch.Tensor:
    """Write or reduce slices of `updates` at the places the last axis of the indices addresses."""
    if reduction in ("none", "add"):
        return data.index_put(tuple(indices.long().unbind(-1)), updates, accumulate=reduction == "add")
    deep = indices.shape[-1]
    dims, rest = data.shape[:deep], math.prod(data.shape[deep:])
    row = torch.zeros_like(indices[..., 0], dtype=torch.long)
    beyond = torch.zeros_like(row, dtype=torch.bool)
    for i, n in enumerate(dims):
        at = _forward(indices[..., i], n)
        row, beyond = row * n + at, beyond | (at < 0) | (at >= n)
    # an index beyond its axis would be a place in another row; beyond the table it is refused
    row = torch.where(beyond, math.prod(dims), row)
    table = data.reshape(math.prod(dims), rest)
    index = row.reshape(-1, 1).expand(-1, rest)
    table = table.scatter_reduce(0, index, updates.reshape(row.numel(), rest), _REDUCTIONS[reduction])
    return table.reshape(data.shape)


def tensor_scatter(
    past: torch.Tensor,
    update: torch.Tensor,
    start: torch.Tensor | None = None,
    *,
    axis: int = -2,
    mode: str = "linear",
) -> torch.Tensor:
    """Write `update` into a cache at each batch entry's own start; `circular` wraps around."""
    n, length = past.shape[axis], update.shape[axis]
    index = torch.arange(length, device=past.device).unsqueeze(0)
    if start is not None:
        index = index + start.reshape(-1, 1)
    index = torch.remainder(index, n) if mode == "circular" else index
    dims = [1] * past.dim()
    dims[0], dims[axis] = index.shape[0], length
    places = index.reshape(dims).expand(update.shape).long()
    if past.dtype.itemsize == 1 and past.is_floating_point():
        # torch scatters no float8
        return past.view(torch.uint8).scatter(axis, places, update.view(torch.uint8)).view(past.dtype)
    return past.scatter(axis, places, update)


def one_hot(indices: torch.Tensor, depth: object, values: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """values[1] at each index, values[0] elsewhere, on a new axis of size `depth`."""
    n = int(_first(depth))
    place = placed(axis, indices.dim() + 1)
    dims = [1] * (indices.dim() + 1)
    dims[place] = n
    classes = torch.arange(n, device=indices.device).reshape(dims)
    index = _forward(indices, n)
    return torch.where(index.unsqueeze(place) == classes, values[1], values[0])


def _first(value: object) -> float:
    while isinstance(value, list):
        value = value[0]
    if isinstance(value, torch.Tensor):
        value = value.reshape(-1)[0].item()
    assert isinstance(value, int | float | torch.SymInt)
    return cast(float, value)


def cum_sum(x: torch.Tensor, axis: list[int] | int, *, exclusive: int = 0, reverse: int = 0) -> torch.Tensor:
    place = axis[0] if isinstance(axis, list) else axis
    y = x.flip(place) if reverse else x
    if exclusive:
        # not the sum less the element, which is NaN where that is infinite
        y = _delayed(y, place, 0)
    result = y.cumsum(place).to(x.dtype)
    return result.flip(place) if reverse else result


def _delayed(x: torch.Tensor, axis: int, first: int) -> torch.Tensor:
    """One place later, `first` in the first; the last falls out."""
    if isinstance(x.shape[axis], int) and x.shape[axis] == 0:
        return x
    begin = torch.full_like(x.narrow(axis, 0, 1), first)
    return torch.cat([begin, x.narrow(axis, 0, x.shape[axis] - 1)], axis)


def cum_prod(x: torch.Tensor, axis: list[int] | int, *, exclusive: int = 0, reverse: int = 0) -> torch.Tensor:
    place = axis[0] if isinstance(axis, list) else axis
    y = x.flip(place) if reverse else x
    if exclusive:
        y = _delayed(y, place, 1)
    result = y.cumprod(place).to(x.dtype)
    return result.flip(place) if reverse else result


def top_k(
    x: torch.Tensor, k: Sequence[int] | int, *, axis: int = -1, largest: int = 1, sorted: int = 1, outputs: int
) -> object:
    """Values and indices; of equal values the one with the lower index comes first."""
    n = k if isinstance(k, int) else k[0]
    ordered = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    values, indices = (part.narrow(axis, 0, n) for part in ordered)
    return values if outputs == 1 else (values, indices)


def nonzero(x: torch.Tensor) -> torch.Tensor:
    """[rank, found]"""
    return (x.reshape(1) if x.dim() == 0 else x).nonzero().T


def compress(x: torch.Tensor, condition: torch.Tensor, *, axis: int | None = None) -> torch.Tensor:
    y, place = (x.reshape(-1), 0) if axis is None else (x, axis)
    keep = condition.nonzero().squeeze(1)
    return y.index_select(place, keep)


def unique(x: torch.Tensor, *, axis: int | None = None, sorted: int = 1, outputs: int) -> object:
    """Values, first place of each, inverse, counts; by value, or by first place where not `sorted`."""
    # of no elements, which torch does not take, all slices are the same
    known = x.detach() if axis is None or x.numel() else x.new_zeros(x.shape[axis])
    along = axis if axis is None or x.numel() else 0
    _, inverse, counts = torch.unique(known, return_inverse=True, return_counts=True, dim=along)
    inverse = inverse.reshape(-1)
    positions = torch.arange(inverse.numel(), device=x.device)
    first = positions.new_full((counts.numel(),), inverse.numel()).scatter_reduce(0, inverse, positions, "amin")
    if not sorted:
        order = first.argsort()
        first, counts = first[order], counts[order]
        inverse = order.argsort()[inverse]
    values = x.reshape(-1)[first] if axis is None else x.index_select(axis, first)
    return values if outputs == 1 else (values, first, inverse, counts)


def constant_of_shape(dims: Sequence[int], *, value: Literal = ZERO, like: torch.Tensor | None = None) -> torch.Tensor:
    leaf = cast(float, flat(cast(Nested, value.values))[0])
    device = like.device if like is not None else None
    return torch.full(list(dims), leaf, dtype=torch_dtype(value.dtype), device=device)


def arange(
    start: object, limit: object, delta: object, *, stash_type: int = 1, like: torch.Tensor | None = None
) -> torch.Tensor:
    """In the inputs' type; plain ints are int64 and plain floats float32. torch counts half types in float32 or wider,
    whatever `stash_type` says."""
    given = [value for value in (start, limit, delta) if isinstance(value, torch.Tensor)]
    dtype = given[0].dtype if given else None
    device = given[0].device if given else like.device if like is not None else None
    bounds = [value.item() if isinstance(value, torch.Tensor) else _first(value) for value in (start, limit, delta)]
    if dtype is None:
        dtype = torch.float32 if any(isinstance(value, float) for value in bounds) else torch.int64
    first, last, step = bounds
    if all(isinstance(value, int | float) for value in bounds) and (last - first) * step < 0:
        last = first
    found = torch.arange(first, last, step, dtype=dtype, device=device)
    if any(value.requires_grad for value in given):
        low, by = (value if isinstance(value, torch.Tensor) else _first(value) for value in (start, delta))
        return low + by * torch.arange(found.numel(), dtype=dtype, device=device)
    return found


def eye_like(x: torch.Tensor, *, dtype: int | None = None, k: int = 0) -> torch.Tensor:
    if x.dim() != 2:
        raise ValueError(f"the input has shape {list(x.shape)}; expected two axes")
    kind = x.dtype if dtype is None else torch_dtype(dtype)
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    columns = torch.arange(x.shape[1], device=x.device)
    return (columns - rows == k).to(kind)


_FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def bit_cast(x: torch.Tensor, *, to: int, dtype: int | None = None) -> torch.Tensor:
    """The same bits read as another type of the same width. Raises ValueError for one of another width."""
    target, source = oir.DataType(to), None if dtype is None else oir.DataType(dtype)
    if source is not None and source.bitwidth != target.bitwidth:
        raise ValueError(
            f"{source.name} has {source.bitwidth} bits and {target.name} {target.bitwidth}; expected as many"
        )
    if target.bitwidth >= 8:
        return x.view(torch_dtype(to))
    # torch holds these unpacked
    mask = 2**target.bitwidth - 1
    if source is oir.DataType.FLOAT4E2M1:
        levels = torch.tensor(_FLOAT4, device=x.device)
        code = torch.searchsorted(levels, x.abs()) + 8 * torch.signbit(x)
    else:
        code = x.long() & mask
    if target is oir.DataType.FLOAT4E2M1:
        return torch.tensor((*_FLOAT4, *(-level for level in _FLOAT4)), device=x.device)[code]
    signed = target in (oir.DataType.INT4, oir.DataType.INT2)
    top = (mask + 1) // 2
    return ((code ^ top) - top if signed else code).to(torch_dtype(to))


INDEX: Table = standard(
    {
        "Gather": Lowering(function=gather, numbers=(1,)),
        "GatherElements": gather_elements,
        "GatherND": gather_nd,
        "Scatter": scatter_elements,
        "ScatterElements": scatter_elements,
        "ScatterND": scatter_nd,
        "TensorScatter": tensor_scatter,
        "OneHot": Lowering(function=one_hot, numbers=(1,)),
        "CumSum": Lowering(function=cum_sum, ints=(1,)),
        "CumProd": Lowering(function=cum_prod, ints=(1,)),
        "TopK": Lowering(function=top_k, ints=(1,), many=True),
        "NonZero": nonzero,
        "Compress": compress,
        "Unique": Lowering(function=unique, many=True),
        "ConstantOfShape": Lowering(function=constant_of_shape, ints=(0,), like=True),
        "BitCast": Lowering(function=bit_cast, typed=0),
        "Range": Lowering(function=arange, numbers=(0, 1, 2), like=True),
        "EyeLike": eye_like,
    }
)
