"""Ops of object detectors: which boxes to keep, and what a feature map holds inside a box."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch

from ..lowering import Lowering, Table, merged, standard

Number = torch.Tensor | Sequence[float] | float


def non_max_suppression(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    max_output_boxes_per_class: Number | None = None,
    iou_threshold: Number | None = None,
    score_threshold: Number | None = None,
    *,
    center_point_box: int = 0,
) -> torch.Tensor:
    """boxes [batch, n, 4], scores [batch, classes, n]; the kept ones [found, 3] as (image, class, box), by class and
    falling score."""
    limit = int(_scalar(max_output_boxes_per_class, 0))
    order = torch.sort(scores, dim=-1, descending=True, stable=True)
    allowed = torch.ones_like(order.values, dtype=torch.bool)
    if score_threshold is not None:
        allowed = order.values > _scalar(score_threshold, 0.0)
    near = _overlap(boxes, bool(center_point_box)) > _scalar(iou_threshold, 0.0)
    # [batch, classes, n, n]: the box in a row takes away the box in a column, if it comes earlier
    rank = order.indices
    image = torch.arange(boxes.shape[0], device=boxes.device).reshape(-1, 1, 1, 1)
    takes = near[image, rank.unsqueeze(-1), rank.unsqueeze(-2)].triu(1)
    kept = allowed
    # Each round settles at least one more box in the order of scores; the fixed point is what one box at a time gives.
    for _ in range(scores.shape[-1]):
        following = allowed & ~(kept.unsqueeze(-1) & takes).any(-2)
        if torch.equal(following, kept):
            break
        kept = following
    kept = kept & (kept.cumsum(-1) <= limit)
    found = kept.nonzero()
    return torch.cat([found[:, :2], rank[kept].unsqueeze(1)], 1)


def _scalar(value: Number | None, absent: float) -> float:
    if isinstance(value, torch.Tensor):
        return cast(float, value.reshape(-1)[0].item()) if value.numel() else absent
    if isinstance(value, Sequence):
        return value[0] if value else absent
    return absent if value is None else value


def _overlap(boxes: torch.Tensor, centred: bool) -> torch.Tensor:
    """[batch, n, n]: the shared part of two boxes' area; zero for boxes without one."""
    if centred:
        middle, half = boxes[..., :2], boxes[..., 2:] / 2
        low, high = middle - half, middle + half
    else:
        low, high = torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])
    area = (high - low).prod(-1)
    start = torch.maximum(low.unsqueeze(2), low.unsqueeze(1))
    shared = (torch.minimum(high.unsqueeze(2), high.unsqueeze(1)) - start).clamp(min=0).prod(-1)
    both = area.unsqueeze(2) + area.unsqueeze(1) - shared
    real = (area.unsqueeze(2) > 0) & (area.unsqueeze(1) > 0)
    return torch.where(real, shared / both.where(real, 1.0), 0.0)


def roi_align_10(
    x: torch.Tensor,
    rois: torch.Tensor,
    batch_indices: torch.Tensor,
    *,
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> torch.Tensor:
    """Before opset 16 coordinates are not moved by half an element."""
    return roi_align(
        x,
        rois,
        batch_indices,
        coordinate_transformation_mode="output_half_pixel",
        mode=mode,
        output_height=output_height,
        output_width=output_width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )


def roi_align(
    x: torch.Tensor,
    rois: torch.Tensor,
    batch_indices: torch.Tensor,
    *,
    coordinate_transformation_mode: str = "half_pixel",
    mode: str = "avg",
    output_height: int = 1,
    output_width: int = 1,
    sampling_ratio: int = 0,
    spatial_scale: float = 1.0,
) -> torch.Tensor:
    """x [batch, channels, height, width], rois [n, 4] of (x1, y1, x2, y2); [n, channels, output_height, output_width].

    A bin is the mean of its samples, each interpolated from four neighbours. The maximum is over each sample's four
    weighted neighbours, as ONNX's reference and its tests have it.
    """
    if mode not in ("avg", "max"):
        raise ValueError(f"mode {mode!r} is neither avg nor max")
    half = coordinate_transformation_mode == "half_pixel"
    corners = rois * spatial_scale - (0.5 if half else 0.0)
    images = batch_indices.long()
    rows = _samples(corners[:, 1], corners[:, 3], output_height, x.shape[2], sampling_ratio, grow=not half)
    columns = _samples(corners[:, 0], corners[:, 2], output_width, x.shape[3], sampling_ratio, grow=not half)
    return (_mean if mode == "avg" else _greatest)(x, images, rows, columns)


class _Samples(NamedTuple):
    """Along one axis: two (place, weight) pairs [rois, bins, samples], which samples lie in the image
    [rois, bins, samples], which there are [rois, 1, samples], and how many [rois]."""

    pairs: tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    inside: torch.Tensor
    used: torch.Tensor
    taken: torch.Tensor


def _samples(start: torch.Tensor, end: torch.Tensor, bins: int, n: int, ratio: int, *, grow: bool) -> _Samples:
    """Where bins of an axis of length n are read."""
    length = (end - start).clamp(min=1.0) if grow else end - start
    step = (length / bins).reshape(-1, 1, 1)
    if ratio > 0:
        count, most = torch.full_like(step, ratio), ratio
    else:
        count = step.ceil()
        most = max(int(count.max().item()), 0) if count.numel() else 0
    slot = torch.arange(most, device=start.device, dtype=start.dtype)
    bin_ = torch.arange(bins, device=start.device, dtype=start.dtype).reshape(1, -1, 1)
    at = start.reshape(-1, 1, 1) + bin_ * step + (slot + 0.5) * step / count
    used = slot < count
    inside = used & (at >= -1) & (at <= n)
    at = at.clamp(0, n - 1)
    low = at.floor()
    far = at - low
    pairs = (low.long(), 1 - far), ((low.long() + 1).clamp(max=n - 1), far)
    return _Samples(pairs, inside, used, count.reshape(-1))


def _corners(x: torch.Tensor, images: torch.Tensor, rows: _Samples, columns: _Samples) -> Iterator[torch.Tensor]:
    """The four weighted neighbours of each sample, zero for samples outside [rois, rows, columns, channels]."""
    image = images.reshape(-1, 1, 1)
    inside = rows.inside.flatten(1).unsqueeze(2) & columns.inside.flatten(1).unsqueeze(1)
    for down, tall in rows.pairs:
        for across, wide in columns.pairs:
            found = x[image, :, down.flatten(1).unsqueeze(2), across.flatten(1).unsqueeze(1)]
            weight = tall.flatten(1).unsqueeze(2) * wide.flatten(1).unsqueeze(1)
            # what lies outside counts as nothing, infinite as it may be
            yield torch.where(inside.unsqueeze(-1), found * weight.unsqueeze(-1), 0.0)


def _in_bins(values: torch.Tensor, rows: _Samples, columns: _Samples) -> torch.Tensor:
    """[rois, rows, columns, channels] as [rois, channels, bins, samples, bins, samples]."""
    (_, bins_down, down), (_, bins_across, across) = rows.inside.shape, columns.inside.shape
    number, *_, channels = values.shape
    return values.permute(0, 3, 1, 2).reshape(number, channels, bins_down, down, bins_across, across)


def _mean(x: torch.Tensor, images: torch.Tensor, rows: _Samples, columns: _Samples) -> torch.Tensor:
    values = functools.reduce(torch.add, _corners(x, images, rows, columns))
    count = (rows.taken.clamp(min=1) * columns.taken.clamp(min=1)).reshape(-1, 1, 1, 1)
    return _in_bins(values, rows, columns).sum((3, 5)) / count


def _greatest(x: torch.Tensor, images: torch.Tensor, rows: _Samples, columns: _Samples) -> torch.Tensor:
    best = functools.reduce(torch.maximum, _corners(x, images, rows, columns))
    bins = _in_bins(best, rows, columns)
    number, channels, down, tall, across, wide = bins.shape
    if tall * wide == 0:
        return x.new_zeros(number, channels, down, across)
    used = rows.used.reshape(number, 1, 1, tall, 1, 1) & columns.used.reshape(number, 1, 1, 1, 1, wide)
    greatest = bins.masked_fill(~used, float("-inf")).amax((3, 5))
    return greatest.masked_fill(~used.any(3).any(-1), 0.0)


DETECTION: Table = merged(
    standard({"NonMaxSuppression": Lowering(function=non_max_suppression, numbers=(2, 3, 4))}, since=10),
    standard({"RoiAlign": roi_align_10}, since=10),
    standard({"RoiAlign": roi_align}, since=16),
)
