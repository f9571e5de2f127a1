"""Ops of object detectors: which boxes to keep, and what a feature map holds inside a box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

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

    Bilinear interpolation and the mean over a bin's samples work on one axis at a time, so a bin is a row of weights
    for each axis. The maximum is over each sample's four weighted corners, as ONNX's reference and its tests have it.
    """
    if mode not in ("avg", "max"):
        raise ValueError(f"mode {mode!r} is neither avg nor max")
    half = coordinate_transformation_mode == "half_pixel"
    corners = rois * spatial_scale - (0.5 if half else 0.0)
    images = x[batch_indices.long()]
    rows = _samples(corners[:, 1], corners[:, 3], output_height, x.shape[2], sampling_ratio, grow=not half)
    columns = _samples(corners[:, 0], corners[:, 2], output_width, x.shape[3], sampling_ratio, grow=not half)
    if mode == "avg":
        vertical, horizontal = (_mean_weights(part, n) for part, n in ((rows, x.shape[2]), (columns, x.shape[3])))
        return vertical.unsqueeze(1) @ images @ horizontal.transpose(1, 2).unsqueeze(1)
    return _greatest(images, rows, columns)


_Samples = tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor], torch.Tensor, torch.Tensor]


def _samples(start: torch.Tensor, end: torch.Tensor, bins: int, n: int, ratio: int, *, grow: bool) -> _Samples:
    """Along one axis of length n: two (place, weight) pairs [rois, bins, samples], which samples there are
    [rois, 1, samples], and how many [rois, 1]."""
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
    first = (low.long(), (1 - far) * inside)
    second = ((low.long() + 1).clamp(max=n - 1), far * inside)
    return first, second, used, count.reshape(-1, 1)


def _mean_weights(samples: _Samples, n: int) -> torch.Tensor:
    """[rois, bins, n]"""
    first, second, _, count = samples
    weights = first[1].new_zeros(*first[1].shape[:2], n)
    for place, weight in (first, second):
        weights = weights.scatter_add(2, place, weight)
    return weights / count.clamp(min=1).unsqueeze(-1)


def _greatest(images: torch.Tensor, rows: _Samples, columns: _Samples) -> torch.Tensor:
    *tall, used_rows, _ = rows
    *wide, used_columns, _ = columns
    number, bins_down, down = tall[0][0].shape
    _, bins_across, across = wide[0][0].shape
    if down * across == 0:
        return images.new_zeros(number, images.shape[1], bins_down, bins_across)
    roi = torch.arange(number, device=images.device).reshape(-1, 1, 1)
    best: torch.Tensor | None = None
    for down_place, down_weight in tall:
        for across_place, across_weight in wide:
            # [rois, rows, columns, channels]
            found = images[roi, :, down_place.flatten(1).unsqueeze(2), across_place.flatten(1).unsqueeze(1)]
            weight = down_weight.flatten(1).unsqueeze(2) * across_weight.flatten(1).unsqueeze(1)
            value = found * weight.unsqueeze(-1)
            best = value if best is None else torch.maximum(best, value)
    assert best is not None
    best = best.permute(0, 3, 1, 2).reshape(number, -1, bins_down, down, bins_across, across)
    used = used_rows.reshape(number, 1, 1, down, 1, 1) & used_columns.reshape(number, 1, 1, 1, 1, across)
    greatest = best.masked_fill(~used, float("-inf")).amax((3, 5))
    return greatest.masked_fill(~used.any(3).any(-1), 0.0)


DETECTION: Table = merged(
    standard({"NonMaxSuppression": Lowering(function=non_max_suppression, numbers=(2, 3, 4))}, since=10),
    standard({"RoiAlign": roi_align_10}, since=10),
    standard({"RoiAlign": roi_align}, since=16),
)
