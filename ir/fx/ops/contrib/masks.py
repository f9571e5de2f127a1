"""What ONNX Runtime's attention ops share: its integer masks, its biases, its caches.

A place that a mask hides gets `mask_filter_value` added rather than -inf, so a row that sees nothing is the mean of
what it may not see. Shapes as in `attention`.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ...dtypes import FLOAT8
from ..attention import both, causal_mask

Tensor = torch.Tensor
Maybe = torch.Tensor | None


def seen_by(mask: Tensor, batch: int, rows: int, total: int) -> Tensor:
    """ONNX Runtime's integer masks as bool, to broadcast over [batch, heads, rows, total].

    Rank 1: lengths [batch], ends then starts [2 batch], or lengths and both cumulated [3 batch + 2]; else 0/1 masks
    [batch, total], [batch, rows, total], [batch, 1, longest, longest].
    """
    if mask.dim() == 1:
        column = torch.arange(total, device=mask.device)
        seen = column < mask[:batch].reshape(-1, 1, 1, 1)
        if mask.shape[0] == 2 * batch:
            seen = seen & (column >= mask[batch:].reshape(-1, 1, 1, 1))
        return seen
    if mask.dim() == 2:
        return mask[:, None, None, :] > 0
    if mask.dim() == 3:
        return mask[:, None, :, :] > 0
    return mask[:, :, total - rows : total, :total] > 0


def padded(mask: Tensor, total: int) -> Tensor:
    """A mask over the new keys only, [batch, keys], shows all cached ones."""
    return functional.pad(mask, (total - mask.shape[-1], 0), value=1) if mask.dim() == 2 else mask


def bias_of(
    query: Tensor, key: Tensor, mask: Maybe, bias: Maybe, causal: int, value: float, start: int
) -> Tensor | None:
    """What masks the scores [batch, heads, rows, total]: the mask, the causal triangle, the given bias together; bool
    where the triangle is alone. Row i stands at place `start` + i, the length of the past."""
    rows, total = query.shape[2], key.shape[2]
    added = None
    if mask is not None:
        seen = seen_by(mask, query.shape[0], rows, total)
        added = torch.where(seen, 0.0, value).to(query.dtype)
    if causal:
        added = both(added, causal_mask(rows, total, start, query.device))
    if bias is not None and bias.dim() == 3:
        bias = bias.unsqueeze(0)
    return both(added, bias)


def write(buffer: Tensor, fresh: Tensor, start: int | Tensor) -> Tensor:
    """A cache [batch, heads, longest, head] with `fresh` [batch, heads, new, head] from place `start` on, which is one
    for all or one per entry [batch]; what lies beyond stays."""
    places = torch.arange(fresh.shape[2], device=fresh.device)
    if isinstance(start, Tensor):
        places = places + start.reshape(-1, 1).to(places.dtype)
        index = places[:, None, :, None].expand(fresh.shape)
    else:
        index = (places + start)[None, None, :, None].expand(fresh.shape)
    if buffer.dtype in FLOAT8:
        # torch moves their bits only as integers
        return write(buffer.view(torch.uint8), fresh.to(buffer.dtype).view(torch.uint8), start).view(buffer.dtype)
    return buffer.scatter(2, index, fresh.to(buffer.dtype))


def scores_of(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    """query key^T * scale; fewer key heads than query heads serve a group each."""
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key = key.repeat_interleave(repeats, 1)
    return (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.mT
