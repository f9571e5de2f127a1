"""Resize and Upsample.

Along one axis the op is a weighted sum of a few places of the input, so several axes are one after the other. Each
axis has its `Axis` (how long, how much larger, which part of the input); `ir/fx/interpolation.py` says which places
and weights that makes. Where torch's own interpolation computes the very same, it does it.

A coordinate is computed in float32, as ONNX Runtime does: nearest neighbours depend on which way a tie is rounded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from ..lowering import Lowering, Table, merged, standard
from .interpolation import Axis, Sampling, along

Ints = Sequence[int]
Numbers = torch.Tensor | Sequence[float]

_NATIVE = {
    # (mode, coordinates, nearest mode): torch's name, align_corners
    ("nearest", "asymmetric", "floor"): ("nearest", None),
    ("linear", "half_pixel", ""): ("linear", False),
    ("linear", "align_corners", ""): ("linear", True),
    ("cubic", "half_pixel", ""): ("bicubic", False),
    ("cubic", "align_corners", ""): ("bicubic", True),
}
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
_POLICIES = ("stretch", "not_larger", "not_smaller")


class _Target(NamedTuple):
    """The new size of an axis and its factor; `given` where the factor is the model's and not the sizes' ratio."""

    size: int
    scale: float
    given: bool


def resize_10(x: torch.Tensor, scales: Numbers, *, mode: str = "nearest") -> torch.Tensor:
    """Coordinates are divided by the scale; the nearest is the one before, or behind where an axis shrinks.

    The rounding, which the specification leaves open, is ONNX Runtime's.
    """
    factors = _numbers(scales)
    sampling = Sampling(mode=_mode(mode), coordinates="asymmetric", nearest="floor")
    targets = [_scaled(n, factor) for n, factor in zip(x.shape, factors, strict=True)]
    if mode == "nearest" and any(factor < 1 for factor in factors):
        for axis, target in enumerate(targets):
            rule = sampling._replace(nearest="ceil" if target.scale < 1 else "floor")
            x = _general(x, [axis], [target], rule, None)
        return x
    return _resized(x, list(range(x.dim())), targets, sampling, None)


def resize(
    x: torch.Tensor,
    roi: Numbers | None = None,
    scales: Numbers | None = None,
    sizes: Ints | None = None,
    *,
    antialias: int = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> torch.Tensor:
    """x of any rank, by `scales` or to `sizes`, along `axes` (all by default)."""
    if coordinate_transformation_mode not in _COORDINATES:
        raise ValueError(f"coordinate_transformation_mode {coordinate_transformation_mode!r} is none of {_COORDINATES}")
    if keep_aspect_ratio_policy not in _POLICIES:
        raise ValueError(f"keep_aspect_ratio_policy {keep_aspect_ratio_policy!r} is none of {_POLICIES}")
    places = [axis % x.dim() for axis in axes] if axes is not None else list(range(x.dim()))
    sampling = Sampling(
        mode=_mode(mode),
        coordinates=coordinate_transformation_mode,
        nearest=nearest_mode if mode == "nearest" else "",
        antialias=bool(antialias),
        cubic=cubic_coeff_a,
        exclude=bool(exclude_outside),
        outside=extrapolation_value,
    )
    region = None
    if coordinate_transformation_mode == "tf_crop_and_resize":
        if roi is None:
            raise ValueError("tf_crop_and_resize needs the input roi")
        region = roi if isinstance(roi, torch.Tensor) else [float(value) for value in roi]
    if sizes:
        targets = _to_sizes([x.shape[axis] for axis in places], sizes, keep_aspect_ratio_policy)
    elif scales is not None and len(factors := _numbers(scales)) == len(places):
        # whatever the region, as ONNX's shape inference has it
        targets = [_scaled(x.shape[axis], factor) for axis, factor in zip(places, factors, strict=True)]
    else:
        raise ValueError(f"one of scales and sizes must have a value for each of the axes {places}")
    return _resized(x, places, targets, sampling, region)


def _mode(mode: str) -> str:
    # what opset 7's Upsample calls bilinear is linear over the axes that grow
    name = {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode)
    if name not in ("nearest", "linear", "cubic"):
        raise ValueError(f"mode {mode!r} is none of nearest, linear and cubic")
    return name


def _numbers(values: Numbers) -> list[float]:
    scales = [float(value) for value in (values.tolist() if isinstance(values, torch.Tensor) else values)]
    if not all(0 < scale < math.inf for scale in scales):
        raise ValueError(f"the scales are {scales}; expected finite numbers above 0")
    return scales


def _scaled(n: int, scale: float) -> _Target:
    return _Target(_times(n, scale), scale, True)


def _times(n: int, scale: float) -> int:
    """floor(n * scale) in float32; exact for whole and inverse whole scales, whatever n is."""
    if scale == int(scale):
        return n * int(scale)
    if isinstance(n, int):
        return math.floor(np.float32(n) * np.float32(scale))
    inverse = round(1 / scale)
    return n // inverse if 1 / inverse == scale else torch.sym_int(n * scale)


def _to_sizes(sizes: Ints, wanted: Ints, policy: str) -> list[_Target]:
    ratios = [want / n for n, want in zip(sizes, wanted, strict=True)]
    if policy == "stretch":
        return [_Target(want, ratio, False) for want, ratio in zip(wanted, ratios, strict=True)]
    shared = min(ratios) if policy == "not_larger" else max(ratios)
    return [_Target(math.floor(shared * n + 0.5), shared, True) for n in sizes]


def _resized(
    x: torch.Tensor, places: Ints, targets: Sequence[_Target], sampling: Sampling, region: Numbers | None
) -> torch.Tensor:
    work = [
        (axis, target)
        for axis, target in zip(places, targets, strict=True)
        if region is not None or not _unchanged(x.shape[axis], target)
    ]
    if not work:
        return x.clone()
    if region is None and (native := _native(x, work, sampling)) is not None:
        return native
    return _general(x, places, targets, sampling, region)


def _unchanged(n: int, target: _Target) -> bool:
    return target.scale == 1 if target.given else _same(n, target.size)


def _same(a: int, b: int) -> bool:
    if isinstance(a, int) and isinstance(b, int):
        return a == b
    # only torch.export brings symbolic sizes, and it has this module loaded; comparing them would tie them together
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(a == b)


def _native(x: torch.Tensor, work: Sequence[tuple[int, _Target]], sampling: Sampling) -> torch.Tensor | None:
    """By torch's own kernel; None where it has none that does the very same."""
    coordinates, deep = sampling.coordinates, x.dim() - 2
    if coordinates == "pytorch_half_pixel" and all(target.size != 1 for _, target in work):
        coordinates = "half_pixel"
    known = _NATIVE.get((sampling.mode, coordinates, sampling.nearest))
    fits = x.is_floating_point() and 1 <= deep <= 3 and all(axis >= 2 for axis, _ in work)
    if known is None or not fits or sampling.antialias or sampling.exclude:
        return None
    name, corners = known
    if name == "bicubic" and (deep != 2 or sampling.cubic != -0.75):
        return None
    found = dict(work)
    sizes = [found[2 + i].size if 2 + i in found else x.shape[2 + i] for i in range(deep)]
    factors = [found[2 + i].scale for i in range(deep) if 2 + i in found and found[2 + i].given]
    # a factor that is not whole does not survive torch's way from sizes back to factors, nor, for the nearest, does
    # one that has no exact inverse
    if not all(factor == int(factor) for factor in factors):
        return None
    if name == "nearest" and (len(factors) != len(work) or any(int(f) & (int(f) - 1) for f in factors)):
        return None
    return functional.interpolate(x, sizes, mode=_LINEAR[deep] if name == "linear" else name, align_corners=corners)


def _general(
    x: torch.Tensor, places: Ints, targets: Sequence[_Target], sampling: Sampling, region: Numbers | None
) -> torch.Tensor:
    """One axis after the other."""
    if not (torch.compiler.is_exporting() or torch.compiler.is_compiling()):
        # the result's size without the result: places and weights of an axis that is far too long are large themselves
        found = {axis: target.size for axis, target in zip(places, targets, strict=True)}
        torch.empty([found.get(axis, size) for axis, size in enumerate(x.shape)], dtype=x.dtype, device="meta")
    y = x if x.dtype in (torch.float32, torch.float64) or sampling.mode == "nearest" else x.float()
    for i, (axis, target) in enumerate(zip(places, targets, strict=True)):
        part = None if region is None else (region[i], region[i + len(places)])
        if part is not None and isinstance(region, list) and part == (0.0, 1.0) and _unchanged(x.shape[axis], target):
            continue
        if part is None and _unchanged(x.shape[axis], target):
            continue
        y = along(y, axis, Axis(target.size, target.scale, target.given, part), sampling)
    if y.dtype == x.dtype:
        return y
    if x.is_floating_point():
        return y.to(x.dtype)
    bounds = torch.iinfo(x.dtype)
    return y.trunc().clamp(bounds.min, bounds.max).to(x.dtype)


RESIZE: Table = merged(
    standard({"Upsample": Lowering(function=resize_10, numbers=(1,))}, since=7),
    standard({"Resize": Lowering(function=resize_10, numbers=(1,))}, since=10),
    standard({"Resize": Lowering(function=resize, numbers=(1, 2), ints=(3,))}, since=11),
)
