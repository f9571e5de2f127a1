"""Interpolation along one axis: where an output element falls in the input, and the weights of what is around it."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Axis(NamedTuple):
    """What becomes of an axis.

    size     the new length
    scale    the factor, for coordinates
    given    the factor comes from the model, so that size is its product rounded down
    region   for tf_crop_and_resize: the part of the input, in fractions of its length
    """

    size: int
    scale: float
    given: bool
    region: tuple[object, object] | None = None


class Sampling(NamedTuple):
    """How to interpolate; the fields are Resize's attributes."""

    mode: str
    coordinates: str
    nearest: str = ""
    antialias: bool = False
    cubic: float = -0.75
    exclude: bool = False
    outside: float = 0.0


def along(x: torch.Tensor, axis: int, target: Axis, sampling: Sampling) -> torch.Tensor:
    """x with one axis resized."""
    n = x.shape[axis]
    dtype = x.dtype if x.dtype is torch.float64 and sampling.mode != "nearest" else torch.float32
    at = _coordinates(n, target, sampling.coordinates, torch.arange(target.size, device=x.device, dtype=dtype))
    if sampling.mode == "nearest":
        y = x.index_select(axis, _nearest(at, sampling.nearest).long().clamp(0, n - 1))
    else:
        y = _weighted(x, axis, at, target.scale, sampling)
    if target.region is None or sampling.coordinates != "tf_crop_and_resize":
        return y
    dims = [-1 if i == axis else 1 for i in range(x.dim())]
    beyond = ((at < 0) | (at > n - 1)).reshape(dims)
    return y.masked_fill(beyond, sampling.outside)


def _coordinates(n: int, target: Axis, kind: str, slot: torch.Tensor) -> torch.Tensor:
    """Where the elements of the resized axis fall in the original one of length n.

    `wide` is the length before it was rounded: ONNX's own tests put the last corner there for align_corners.
    """
    wide = n * target.scale if target.given else target.size
    if kind == "asymmetric":
        return slot / target.scale
    if kind == "align_corners":
        return slot * (n - 1) / (wide - 1) if target.size != 1 or wide != 1 else slot * 0
    if kind == "tf_half_pixel_for_nn":
        return (slot + 0.5) / target.scale
    if kind == "tf_crop_and_resize":
        return _cropped(n, target, slot)
    at = (slot + 0.5) / target.scale - 0.5
    if kind == "pytorch_half_pixel":
        return at if target.size != 1 else slot * 0
    if kind == "half_pixel_symmetric":
        # the centre of the input lies in the centre of the output, whatever was rounded off
        return at + n / 2 * (1 - target.size / wide)
    return at


def _cropped(n: int, target: Axis, slot: torch.Tensor) -> torch.Tensor:
    assert target.region is not None
    start, end = (torch.as_tensor(bound, dtype=slot.dtype, device=slot.device) for bound in target.region)
    if target.size == 1:
        return slot + 0.5 * (start + end) * (n - 1)
    return start * (n - 1) + slot * (end - start) * (n - 1) / (target.size - 1)


def _nearest(at: torch.Tensor, rule: str) -> torch.Tensor:
    if rule == "floor":
        return at.floor()
    if rule == "ceil":
        return at.ceil()
    if rule == "round_prefer_ceil":
        return (at + 0.5).floor()
    if rule == "round_prefer_floor":
        return (at - 0.5).ceil()
    raise ValueError(f"nearest_mode {rule!r} is none of round_prefer_floor, round_prefer_ceil, floor and ceil")


def _weighted(x: torch.Tensor, axis: int, at: torch.Tensor, scale: float, sampling: Sampling) -> torch.Tensor:
    """Sums of the places around each coordinate; those beyond the ends repeat the end, or count nothing."""
    n, reach = x.shape[axis], 1 if sampling.mode == "linear" else 2
    # the filter grows as the axis shrinks, so that no input element is passed over
    stretch = min(scale, 1.0) if sampling.antialias else 1.0
    half = int(-(-reach // stretch))
    taps = torch.arange(1 - half, half + 1, device=x.device)
    base = at.floor()
    place = base.long().unsqueeze(1) + taps
    distance = ((at - base).unsqueeze(1) - taps) * stretch
    weight = _triangle(distance) if sampling.mode == "linear" else cubic(distance, sampling.cubic)
    if sampling.antialias:
        weight = weight / weight.sum(1, keepdim=True)
    if sampling.exclude:
        weight = weight * ((place >= 0) & (place < n))
        weight = weight / weight.sum(1, keepdim=True)
    place = place.clamp(0, n - 1)
    dims = [-1 if i == axis else 1 for i in range(x.dim())]
    weight = weight.to(x.dtype)
    total = x.index_select(axis, place[:, 0]) * weight[:, 0].reshape(dims)
    for i in range(1, 2 * half):
        total = total + x.index_select(axis, place[:, i]) * weight[:, i].reshape(dims)
    return total


def _triangle(distance: torch.Tensor) -> torch.Tensor:
    return (1 - distance.abs()).clamp(min=0)


def cubic(distance: torch.Tensor, a: float) -> torch.Tensor:
    """Keys' kernel, "Cubic convolution interpolation for digital image processing" (1981), equation 4."""
    d = distance.abs()
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))
