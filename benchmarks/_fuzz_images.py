"""Recipes for images: regions, boxes, deformed and quantized convolutions, unpooling."""

from __future__ import annotations

import numpy as np
from tersor.benchmarks._fuzz_graph import FLOATS, Builder, Recipe, Unfit, Value

_BYTES = tuple(np.dtype(name) for name in ("uint8", "int8"))
_SINGLE = FLOATS[0]


def _random(g: Builder, low: float, high: float, *shape: int) -> np.ndarray:
    return np.random.default_rng(g.integer(0, 999)).uniform(low, high, shape).astype(_SINGLE)


def affine_grid(g: Builder) -> None:
    dims = g.integer(2, 3)
    theta = g.new(g.dtype(g.types("AffineGrid")), (g.integer(1, 2), dims, dims + 1))
    size = g.ints(theta.shape[0], g.integer(1, 2), *(g.integer(1, 4) for _ in range(dims)))
    g.node("AffineGrid", [theta, size], **g.attributes("AffineGrid", align_corners=1))


def roi_align(g: Builder) -> None:
    x = g.new(_SINGLE, (g.integer(1, 2), g.integer(1, 2), g.integer(1, 5), g.integer(1, 5)))
    count = g.integer(0, 3)
    rois = g.give(np.sort(_random(g, -1.0, 6.0, count, 2, 2), axis=1).reshape(count, 4))
    batch = g.give(np.full(count, x.shape[0] - 1, np.int64))
    flags = g.attributes(
        "RoiAlign",
        mode=g.choose(["avg", "max"]),
        output_height=g.integer(1, 3),
        output_width=g.integer(1, 3),
        sampling_ratio=g.integer(0, 2),
        spatial_scale=g.choose([1.0, 0.5, 2.0]),
        coordinate_transformation_mode=g.choose(["half_pixel", "output_half_pixel"]),
    )
    g.node("RoiAlign", [x, rois, batch], **flags)


def max_roi_pool(g: Builder) -> None:
    x = g.new(_SINGLE, (1, g.integer(1, 2), g.integer(1, 5), g.integer(1, 5)))
    count = g.integer(1, 3)
    corners = np.sort(_random(g, 0.0, 5.0, count, 2, 2), axis=1).reshape(count, 4)
    rois = g.give(np.concatenate([np.zeros((count, 1), _SINGLE), corners], 1))
    g.node("MaxRoiPool", [x, rois], pooled_shape=[g.integer(1, 3), g.integer(1, 3)], spatial_scale=1.0)


def deformed(g: Builder) -> None:
    group = g.choose([1, 2])
    out, offsets = 2 * g.integer(1, 2), g.choose([1, 2])
    kernel, size = (g.integer(1, 2), g.integer(1, 2)), (g.integer(2, 4), g.integer(2, 4))
    x = g.new(_SINGLE, (1, 2, *size))
    weight = g.new(_SINGLE, (out, 2 // group, *kernel))
    where = tuple(s - k + 1 for s, k in zip(size, kernel, strict=True))
    area = kernel[0] * kernel[1] * offsets
    inputs: list[Value | None] = [
        x,
        weight,
        g.give(_random(g, -1.5, 1.5, 1, 2 * area, *where)),
        g.new(_SINGLE, (out,)) if g.flag() else None,
        g.give(_random(g, 0.0, 1.0, 1, area, *where)) if g.flag() else None,
    ]
    flags = g.attributes("DeformConv", pads=[0, 0, 0, 0], strides=[1, 1])
    g.node("DeformConv", inputs, kernel_shape=kernel, group=group, offset_group=offsets, **flags)


def unpooled(g: Builder) -> None:
    size = (2 * g.integer(1, 2), 2 * g.integer(1, 2))
    x = g.new(_SINGLE, (1, g.integer(1, 2), *size))
    flags = {"kernel_shape": [2, 2], "strides": [2, 2]}
    found = g.node("MaxPool", [x], 2, **flags)
    if len(found) != 2:
        raise Unfit
    shape = [g.ints(*x.shape)] if g.flag() else []
    g.node("MaxUnpool", [*found, *shape], **flags)


def boxes(g: Builder) -> None:
    batch, count, classes = g.integer(1, 2), g.integer(1, 5), g.integer(1, 2)
    corners = np.sort(_random(g, 0.0, 1.0, batch, count, 2, 2), axis=2).reshape(batch, count, 4)
    inputs: list[Value | None] = [
        g.give(corners),
        g.give(_random(g, 0.0, 1.0, batch, classes, count)),
        g.give(np.array([g.integer(0, 4)], np.int64)) if g.integer(0, 4) else None,
        g.give(np.array([g.choose([0.5, 0.0, 0.1, 1.0])], _SINGLE)) if g.flag() else None,
        g.give(np.array([g.choose([0.5, 0.0, 0.9])], _SINGLE)) if g.flag() else None,
    ]
    g.node("NonMaxSuppression", inputs, **g.attributes("NonMaxSuppression", center_point_box=1))


def integer_convolution(g: Builder) -> None:
    group = g.choose([1, 2])
    x = g.new(g.choose(_BYTES), (1, 2, g.integer(2, 4), g.integer(2, 4)))
    out = 2 * g.integer(1, 2)
    weight = g.new(g.choose(_BYTES), (out, 2 // group, 2, g.integer(1, 2)))
    zero = g.give(np.array(g.integer(0, 9), x.dtype))
    each = g.flag()
    other = g.give(np.asarray(np.full((out,) if each else (), g.integer(0, 5))).astype(weight.dtype))
    flags = {"group": group, **g.attributes("ConvInteger", pads=[1, 0, 1, 1], strides=[1, 2])}
    if g.flag():
        given = [zero if g.flag() else None, other if g.flag() else None]
        g.node("ConvInteger", [x, weight, *given], **flags)
        return
    scale = g.give(np.array(0.1, _SINGLE))
    scales = g.give(np.linspace(0.05, 0.2, out).astype(_SINGLE)) if each else scale
    bias = [g.give(np.arange(out, dtype=np.int32) * 7)] if g.flag() else []
    result = [scale, g.give(np.array(3, x.dtype))]
    g.node("QLinearConv", [x, scale, zero, weight, scales, other, *result, *bias], **flags)


IMAGES: tuple[Recipe, ...] = (
    *(affine_grid, roi_align, max_roi_pool, deformed, unpooled, boxes, integer_convolution, integer_convolution),
)
