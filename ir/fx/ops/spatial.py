"""Ops that read an image at computed places: grids, deformable convolution, and columns put back into images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from ..host import larger
from ..lowering import Lowering, Table, merged, standard
from .axes import placed
from .interpolation import cubic

Ints = Sequence[int]

_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_KEYS = -0.75


def grid_sample(
    x: torch.Tensor,
    grid: torch.Tensor,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> torch.Tensor:
    """x [batch, channels, *dims] read at grid [batch, *out, len(dims)], whose last axis counts the axes of x backward,
    from -1 to 1."""
    kind, deep = _MODES.get(mode, mode), x.dim() - 2
    if kind not in ("nearest", "linear", "cubic"):
        raise ValueError(f"mode {mode!r} is none of nearest, linear and cubic")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"padding_mode {padding_mode!r} is none of zeros, border and reflection")
    dtype = torch.float64 if torch.float64 in (x.dtype, grid.dtype) else torch.float32
    y, places = x.to(dtype), grid.to(dtype)
    # a place between two elements is rounded before it is reflected; torch does it the other way round
    differs = (kind, padding_mode) == ("nearest", "reflection")
    if differs or deep not in (2, 3) or (kind == "cubic" and deep == 3):
        found = _sampled(y, places, kind, padding_mode, bool(align_corners))
    else:
        name = {"linear": "bilinear", "cubic": "bicubic"}.get(kind, kind)
        found = functional.grid_sample(y, places, name, padding_mode, bool(align_corners))
    return found.to(x.dtype)


def _sampled(x: torch.Tensor, grid: torch.Tensor, kind: str, outside: str, corners: bool) -> torch.Tensor:
    deep = x.dim() - 2
    sizes = x.shape[2:]
    at = []
    for axis, n in enumerate(sizes):
        place = grid[..., deep - 1 - axis].flatten(1)
        place = (place + 1) / 2 * (n - 1) if corners else ((place + 1) * n - 1) / 2
        place = place.round() if kind == "nearest" else place
        low, high = (0.0, n - 1.0) if corners else (-0.5, n - 0.5)
        beyond = (place < low) | (place > high)
        if outside == "border" and kind != "cubic":
            place = torch.where(beyond, place.clamp(0, n - 1), place)
        elif outside == "reflection":
            place = torch.where(beyond, _reflected(place, low, high), place)
        at.append(place)
    return read(x, at, kind, outside, corners).reshape(*x.shape[:2], *grid.shape[1:-1])


def _reflected(place: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """A coordinate thrown back by both ends as often as it takes."""
    if high <= low:
        return torch.full_like(place, low)
    span = high - low
    beyond = torch.remainder(place - low, 2 * span)
    return low + torch.where(beyond > span, 2 * span - beyond, beyond)


def read(
    x: torch.Tensor, at: Sequence[torch.Tensor], kind: str = "linear", outside: str = "zeros", corners: bool = False
) -> torch.Tensor:
    """x [batch, channels, *dims] interpolated at the coordinates `at`, one [batch, places] for each of dims.

    Returns [batch, channels, places]. What lies outside is zero, or an element that `outside` chooses.
    """
    sizes = x.shape[2:]
    taps = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}[kind]
    flat = x.flatten(2)
    # the taps of all axes make a product; (offset into flat, weight, where it is outside) is built up axis by axis
    terms: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for axis, (n, place) in enumerate(zip(sizes, at, strict=True)):
        base = place.floor()
        row = []
        for tap in taps:
            distance = place - base - tap
            weight = 1 - distance.abs() if kind == "linear" else cubic(distance, _KEYS)
            index = base + tap
            if outside == "reflection":
                index = _reflected(index, *((0.0, n - 1.0) if corners else (-0.5, n - 0.5)))
            row.append((index.long().clamp(0, n - 1), weight, (index < 0) | (index >= n)))
        if axis:
            row = [(at * n + index, one * other, a | b) for at, one, a in terms for index, other, b in row]
        terms = row
    total = torch.zeros((), dtype=x.dtype, device=x.device)
    for index, weight, beyond in terms:
        values = flat.gather(2, index.unsqueeze(1).expand(-1, x.shape[1], -1)) * weight.unsqueeze(1)
        # not a weight of zero, which would make NaN of an infinite element at the edge
        total = total + (torch.where(beyond.unsqueeze(1), 0.0, values) if outside == "zeros" else values)
    return total


def affine_grid(theta: torch.Tensor, size: Ints, *, align_corners: int = 0) -> torch.Tensor:
    """theta [batch, r, r + 1] for an image of `size` [batch, channels, *dims]; the grid [batch, *dims, r].

    An axis of one element has it at -1 where corners are aligned, as in ONNX's function for the depth; torch has it in
    the middle.
    """
    wide = theta if theta.dtype in (torch.float32, torch.float64) else theta.float()
    lines = []
    for n in size[2:]:
        at = torch.arange(n, dtype=wide.dtype, device=theta.device)
        lines.append(at * (2 / larger(n - 1, 1)) - 1 if align_corners else (2 * at + 1) / n - 1)
    # the last axis comes first
    places = torch.meshgrid(*lines, indexing="ij")
    places = (*reversed(places), torch.ones_like(places[0]))
    grid = torch.stack(places, -1).flatten(0, -2) @ wide.transpose(1, 2)
    return grid.reshape(theta.shape[0], *size[2:], len(lines)).to(theta.dtype)


def col2im(
    x: torch.Tensor,
    image_shape: Ints,
    block_shape: Ints,
    *,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> torch.Tensor:
    """x [batch, channels * block, blocks] summed back into [batch, channels, *image]."""
    deep = len(image_shape)
    steps, spread = list(strides or [1] * deep), list(dilations or [1] * deep)
    around = list(pads or [0] * 2 * deep)
    if deep == 2 and around[:2] == around[2:]:
        return functional.fold(
            x, tuple(image_shape), tuple(block_shape), tuple(spread), tuple(around[:2]), tuple(steps)
        )
    index = torch.zeros((1, 1), dtype=torch.long, device=x.device)
    wide = [n + around[i] + around[deep + i] for i, n in enumerate(image_shape)]
    for n, block, step, gap in zip(wide, block_shape, steps, spread, strict=True):
        blocks = (n - (block - 1) * gap - 1) // step + 1
        within = torch.arange(block, device=x.device) * gap
        first = torch.arange(blocks, device=x.device) * step
        place = within.reshape(1, -1, 1, 1) + first
        index = (index.reshape(index.shape[0], 1, index.shape[1], 1) * n + place).flatten(2).flatten(0, 1)
    channels = x.shape[1] // math.prod(block_shape)
    whole = x.new_zeros(x.shape[0], channels, math.prod(wide))
    whole = whole.index_add(2, index.reshape(-1), x.reshape(x.shape[0], channels, -1))
    whole = whole.reshape(x.shape[0], channels, *wide)
    return functional.pad(whole, [-amount for i in reversed(range(deep)) for amount in (around[i], around[deep + i])])


def center_crop_pad(x: torch.Tensor, shape: Ints, *, axes: Ints | None = None) -> torch.Tensor:
    """x cut or padded with zeros to `shape` along the axes; an odd element goes, or comes, at the end."""
    amounts = [0] * 2 * x.dim()
    for axis, want in zip(axes if axes is not None else range(x.dim()), shape, strict=True):
        place = placed(axis, x.dim())
        more = want - x.shape[place]
        before = more // 2 if more >= 0 else -(-more // 2)
        amounts[2 * (x.dim() - 1 - place)] = before
        amounts[2 * (x.dim() - 1 - place) + 1] = more - before
    return functional.pad(x, amounts)


def deform_conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    offset: torch.Tensor,
    bias: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    offset_group: int = 1,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> torch.Tensor:
    """A convolution whose taps are moved: x [batch, in, *dims], weight [out, in / group, *kernel], offset
    [batch, offset_group * prod(kernel) * r, *out], mask [batch, offset_group * prod(kernel), *out]."""
    deep = x.dim() - 2
    kernel, out = list(weight.shape[2:]), list(offset.shape[2:])
    steps, spread = list(strides or [1] * deep), list(dilations or [1] * deep)
    around = list(pads or [0] * 2 * deep)
    taps, batch = math.prod(kernel), x.shape[0]
    # [batch * offset_group, taps, r, *out]
    moves = offset.reshape(batch * offset_group, taps, deep, *out)
    at = []
    for axis in range(deep):
        tap = torch.arange(kernel[axis], device=x.device) * spread[axis]
        tap = tap.reshape([-1 if i == axis else 1 for i in range(deep)]).expand(kernel).reshape(-1, *[1] * deep)
        first = torch.arange(out[axis], device=x.device) * steps[axis] - around[axis]
        first = first.reshape([-1 if i == axis else 1 for i in range(deep)])
        at.append((moves[:, :, axis] + tap + first).flatten(1))
    values = read(x.reshape(batch * offset_group, -1, *x.shape[2:]), at)
    if mask is not None:
        values = values * mask.reshape(batch * offset_group, 1, -1)
    columns = values.reshape(batch, group, x.shape[1] // group * taps, -1)
    rows = weight.reshape(group, weight.shape[0] // group, -1)
    y = (rows @ columns).reshape(batch, weight.shape[0], *out)
    return y if bias is None else y + bias.reshape(-1, *[1] * deep)


SPATIAL: Table = merged(
    standard({"GridSample": grid_sample}, since=16),
    standard({"Col2Im": Lowering(function=col2im, ints=(1, 2))}, since=18),
    standard({"CenterCropPad": Lowering(function=center_crop_pad, ints=(1,))}, since=18),
    standard({"DeformConv": deform_conv}, since=19),
    standard({"AffineGrid": Lowering(function=affine_grid, ints=(1,))}, since=20),
)
