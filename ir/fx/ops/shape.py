"""Ops that move elements without computing on them; sizes, axes and bounds arrive as Python ints."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as oir
import torch
from torch.nn import functional

from ..lowering import Lowering, Table, standard
from ..runtime import shape, size

Ints = Sequence[int]


def _list(value: Ints | int | None) -> list[int] | None:
    """Axes are written as one int or several."""
    return None if value is None else [value] if isinstance(value, int) else list(value)


def reshape(x: torch.Tensor, dims: Ints, *, allowzero: int = 0) -> torch.Tensor:
    """0 keeps the input's size at that place unless `allowzero`; -1 is whatever is left."""
    return x.reshape([x.shape[i] if not allowzero and _is_zero(d) else d for i, d in enumerate(dims)])


def _is_zero(d: int) -> bool:
    # a symbolic size is never the literal 0, and asking would tie the graph to it
    return isinstance(d, int) and d == 0


def transpose(x: torch.Tensor, *, perm: Ints | None = None) -> torch.Tensor:
    return x.permute(list(perm) if perm is not None else list(range(x.dim()))[::-1])


def flatten(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    """To two axes; `axis` is where the second begins."""
    place = axis + x.dim() if axis < 0 else axis
    if place == 0:
        return x.reshape(1, -1) if x.numel() else x.reshape(1, 0)
    if place == x.dim():
        return x.reshape(-1, 1)
    return x.flatten(place).flatten(0, place - 1)


def unsqueeze(x: torch.Tensor, axes: Ints | int) -> torch.Tensor:
    places = _list(axes) or []
    deep = x.dim() + len(places)
    for place in sorted(p % deep for p in places):
        x = x.unsqueeze(place)
    return x


def squeeze(x: torch.Tensor, axes: Ints | int | None = None) -> torch.Tensor:
    """Raises ValueError for an axis that is longer than 1, which torch would leave alone."""
    places = _list(axes)
    if places is None:
        return x.squeeze()
    for place in places:
        if isinstance(x.shape[place], int) and x.shape[place] != 1:
            raise ValueError(f"axis {place} of size {x.shape[place]} cannot be squeezed")
    return x.squeeze(places)


def concat(*parts: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.cat(parts, axis)


def split(
    x: torch.Tensor, split: Ints | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int
) -> object:
    """Given sizes, or as many equal pieces as wanted, the last one smaller where it does not divide."""
    sizes = split
    if sizes is not None and num_outputs is not None:
        raise ValueError("sizes and num_outputs are both given; expected one of them")
    if sizes is None:
        count = num_outputs or outputs
        total = x.shape[axis]
        if count < 1:
            raise ValueError(f"num_outputs is {count}; expected at least 1")
        step = -(-total // count)
        if isinstance(total, int):
            # what nobody asks for stays one piece
            sizes = [max(min(step, total - step * i), 0) for i in range(min(count, outputs))]
            sizes.append(total - sum(sizes))
        else:
            sizes = [step] * (count - 1) + [total - step * (count - 1)]
    parts = tuple(torch.split(x, list(sizes), axis))
    return parts[0] if outputs == 1 else parts[:outputs]


def slice_(
    x: torch.Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None
) -> torch.Tensor:
    """Bounds below zero count from the back, then clamp; steps may go backward."""
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        step = steps[i] if steps is not None else 1
        start, end = starts[i], ends[i]
        if step < 0:
            # x[start:end:-s] == flip(x)[n-1-start : n-1-end : s]; ONNX clamps starts to [0, n-1], ends to [-1, n-1]
            n = x.shape[axis]
            start = min(max(start + n if start < 0 else start, 0), n - 1)
            end = min(max(end + n if end < 0 else end, -1), n - 1)
            x, start, end, step = x.flip(axis), n - 1 - start, n - 1 - end, -step
        index = [slice(None)] * x.dim()
        index[axis] = slice(start, end, step)
        x = x[tuple(index)]
    return x


def expand(x: torch.Tensor, dims: Ints) -> torch.Tensor:
    """Broadcast both ways: a wanted size of 1 keeps the input's. Raises ValueError for one below 0."""
    if any(isinstance(d, int) and d < 0 for d in dims):
        raise ValueError(f"the sizes are {list(dims)}; expected none below 0")
    missing = len(dims) - x.dim()
    full = [1] * -missing + list(dims)
    kept = [-1 if i >= missing and isinstance(d, int) and d == 1 else d for i, d in enumerate(full)]
    return x.expand(kept)


def tile(x: torch.Tensor, repeats: Ints) -> torch.Tensor:
    return x.repeat(list(repeats))


def pad(
    x: torch.Tensor, pads: Ints, value: object = None, axes: Ints | int | None = None, *, mode: str = "constant"
) -> torch.Tensor:
    """Constant, edge, reflect or wrap; negative pads crop. `pads` is all befores, then all afters."""
    places = _list(axes)
    places = list(range(x.dim())) if places is None else [axis % x.dim() for axis in places]
    amounts = {axis: (pads[i], pads[i + len(places)]) for i, axis in enumerate(places)}
    if mode == "constant":
        flat = [amount for axis in reversed(range(x.dim())) for amount in amounts.get(axis, (0, 0))]
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            inside = functional.pad(torch.ones_like(x, dtype=torch.bool), flat)
            return torch.where(inside, functional.pad(x, flat), value.reshape(()))
        return functional.pad(x, flat, value=_scalar(value))
    for axis, (before, after) in amounts.items():
        x, before, after = _cropped(x, axis, before, after)
        if (before, after) != (0, 0):
            x = x.index_select(axis, _pad_index(x.shape[axis], before, after, mode, x.device))
    return x


def _cropped(x: torch.Tensor, axis: int, before: int, after: int) -> tuple[torch.Tensor, int, int]:
    """What is below zero taken off, so that the rest is repeated."""
    low, high = (-amount if isinstance(amount, int) and amount < 0 else 0 for amount in (before, after))
    if low or high:
        x = x.narrow(axis, low, x.shape[axis] - low - high)
    return x, before + low, after + high


def _pad_index(n: int, before: int, after: int, mode: str, device: torch.device) -> torch.Tensor:
    index = torch.arange(-before, n + after, device=device)
    if mode == "edge":
        return index.clamp(0, n - 1)
    if mode == "wrap":
        return torch.remainder(index, n)
    # reflection has period 2(n-1); its second half runs backward
    period = 2 * (n - 1)
    index = torch.remainder(index, period) if n > 1 else index * 0
    return torch.where(index >= n, period - index, index)


def _scalar(value: object) -> float:
    if value is None:
        return 0.0
    if isinstance(value, torch.Tensor):
        return float(value.item())
    while isinstance(value, list):
        value = value[0]
    assert isinstance(value, int | float)
    return value


def trilu(x: torch.Tensor, k: Ints | int = 0, *, upper: int = 1) -> torch.Tensor:
    offset = (_list(k) or [0])[0]
    return torch.triu(x, offset) if upper else torch.tril(x, offset)


def depth_to_space(x: torch.Tensor, *, blocksize: int, mode: str = "DCR") -> torch.Tensor:
    b, c, h, w = x.shape
    s = blocksize
    if mode == "DCR":
        x = x.reshape(b, s, s, c // (s * s), h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(b, c // (s * s), s, s, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(b, c // (s * s), h * s, w * s)


def space_to_depth(x: torch.Tensor, *, blocksize: int, mode: str = "DCR") -> torch.Tensor:
    b, c, h, w = x.shape
    s = blocksize
    x = x.reshape(b, c, h // s, s, w // s, s)
    x = x.permute(0, 3, 5, 1, 2, 4) if mode == "DCR" else x.permute(0, 1, 3, 5, 2, 4)
    return x.reshape(b, c * s * s, h // s, w // s)


def reverse_sequence(
    x: torch.Tensor, lengths: torch.Tensor, *, batch_axis: int = 1, time_axis: int = 0
) -> torch.Tensor:
    """Each sequence's first `length` steps backward, the rest as they are."""
    y = x.movedim((time_axis, batch_axis), (0, 1))
    step = torch.arange(y.shape[0], device=x.device).unsqueeze(1)
    index = torch.where(step < lengths, lengths - 1 - step, step)
    y = y[index, torch.arange(y.shape[1], device=x.device)]
    return y.movedim((0, 1), (time_axis, batch_axis))


_INT = oir.DataType.INT64
SHAPE: Table = standard(
    {
        "Shape": Lowering(function=shape, host=_INT),
        "Size": Lowering(function=size, host=_INT),
        "Reshape": Lowering(function=reshape, ints=(1,)),
        "Transpose": transpose,
        "Flatten": flatten,
        "Squeeze": Lowering(function=squeeze, ints=(1,)),
        "Unsqueeze": Lowering(function=unsqueeze, ints=(1,)),
        "Concat": concat,
        "Split": Lowering(function=split, ints=(1,), many=True),
        "Slice": Lowering(function=slice_, ints=(1, 2, 3, 4)),
        "Expand": Lowering(function=expand, ints=(1,)),
        "Tile": Lowering(function=tile, ints=(1,)),
        "Pad": Lowering(function=pad, ints=(1, 3), numbers=(2,)),
        "Trilu": Lowering(function=trilu, ints=(1,)),
        "DepthToSpace": depth_to_space,
        "SpaceToDepth": space_to_depth,
        "ReverseSequence": reverse_sequence,
    }
)
