"""Attention and rotary position embedding (ai.onnx 23 and later), and the core the contrib forms share.

Shapes: query [batch, heads, sequence, head], key and value [batch, key heads, total, head], where `total` counts the
cached positions too; masks broadcast to [batch, heads, sequence, total].
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from ..dtypes import torch_dtype
from ..lowering import Lowering, Table, standard

_RAW, _CAPPED, _BIASED, _SOFTMAX = range(4)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[batch, sequence, heads * head] -> [batch, heads, sequence, head]"""
    batch, sequence, hidden = x.shape
    if heads < 1 or hidden % heads:
        raise ValueError(f"{hidden} features do not split into {heads} heads")
    # Tensor.unflatten is Python, and takes as long as a small kernel
    return x.view(batch, sequence, heads, hidden // heads).transpose(1, 2)


def merge_heads(x: torch.Tensor) -> torch.Tensor:
    """[batch, heads, sequence, head] -> [batch, sequence, heads * head]"""
    return x.transpose(1, 2).flatten(2)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, *, scale: float | None
) -> torch.Tensor:
    """softmax(query key^T * scale + mask) value, zero for a row that sees nothing; key heads may be grouped."""
    if mask is not None and mask.requires_grad and not torch.is_grad_enabled():
        # no fused kernel takes a mask that is a parameter, though nobody asks for its gradient
        mask = mask.detach()
    grouped = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped)


def grouped(heads: torch.Tensor, key_heads: torch.Tensor) -> torch.Tensor:
    """The product of [batch, heads, a, b] with [batch, key heads, b, c], each of which serves a row of heads."""
    if heads.shape[1] == key_heads.shape[1]:
        return heads @ key_heads
    return (torch.unflatten(heads, 1, (key_heads.shape[1], -1)) @ key_heads.unsqueeze(2)).flatten(1, 2)


def causal_mask(
    rows: int, columns: int, offset: int | torch.Tensor, device: torch.device, *, left: int = -1, right: int = 0
) -> torch.Tensor:
    """[rows, columns] of bool: row i sees columns i + offset - left ... i + offset + right; -1 is no bound.

    An offset of shape [batch] gives a mask [batch, 1, rows, columns].
    """
    if isinstance(offset, torch.Tensor):
        offset = offset.reshape(-1, 1, 1, 1)
    row = torch.arange(rows, device=device).unsqueeze(1) + offset
    column = torch.arange(columns, device=device)
    seen = torch.ones((), dtype=torch.bool, device=device).expand(rows, columns)
    if right >= 0:
        seen = seen & (column <= row + right)
    if left >= 0:
        seen = seen & (column >= row - left)
    return seen


def both(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
    """One mask out of two, bool (may be seen) or float (is added)."""
    if a is None or b is None:
        return b if a is None else a
    if a.dtype is torch.bool and b.dtype is torch.bool:
        return a & b
    if a.dtype is torch.bool:
        a, b = b, a
    if b.dtype is torch.bool:
        return torch.where(b, a, float("-inf"))
    return a + b


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    past_key: torch.Tensor | None = None,
    past_value: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = _RAW,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    left_window_size: int = -1,
    right_window_size: int = -1,
    outputs: int,
) -> object:
    """Inputs [batch, heads, sequence, head], or [batch, sequence, hidden] with the head counts given.

    `lengths` [batch] (opset 24) says how much of a fixed-size cache is filled. Outputs: the result in the rank of the
    query, present key and value, and the scores at the stage `qk_matmul_output_mode` names.
    """
    packed = query.dim() == 3
    if packed:
        if q_num_heads is None or kv_num_heads is None:
            raise ValueError("inputs of rank 3 need q_num_heads and kv_num_heads")
        query = split_heads(query, q_num_heads)
        key, value = split_heads(key, kv_num_heads), split_heads(value, kv_num_heads)
    if (past_key is None) is not (past_value is None):
        raise ValueError("past_key and past_value come together, found one of them")
    if past_key is not None and lengths is not None:
        raise ValueError("a past and nonpad_kv_seqlen exclude each other, found both")
    window = _window(left_window_size, right_window_size, is_causal)
    # the one new position of a decoding step sees all there is
    whole = window == (-1, 0) and key.shape[2] == 1 and query.shape[2] == 1
    offset: int | torch.Tensor = 0
    if past_key is not None and past_value is not None:
        offset = past_key.shape[2]
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    elif lengths is not None:
        offset, whole = lengths.reshape(-1) - query.shape[2], False
    if _fused(query, softcap, softmax_precision, outputs > 3):
        if window == (-1, 0) and mask is None and lengths is None and past_key is None and not whole:
            result = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
            )
        else:
            mask = _visible(mask, query, key, offset, lengths, (-1, -1) if whole else window)
            result = attend(query, key, value, _like(mask, query), scale=scale)
        scores = None
    else:
        mask = _visible(mask, query, key, offset, lengths, window)
        precision = None if softmax_precision is None else torch_dtype(softmax_precision)
        result, scores = _spelled_out(query, key, value, mask, scale, softcap, precision, qk_matmul_output_mode)
    result = merge_heads(result) if packed else result
    return result if outputs == 1 else (result, key, value, scores)


def _fused(query: torch.Tensor, softcap: float, precision: int | None, scores: bool) -> bool:
    """Whether torch's kernels do it: they take the softmax in float32 at least, and show no scores."""
    enough = precision is None or query.dtype is torch.float64 or torch_dtype(precision) is not torch.float64
    return not softcap and not scores and enough


def _window(left: int, right: int, causal: int) -> tuple[int, int]:
    """How far a position sees to the left and to the right, -1 for all the way."""
    if left < -1 or right < -1:
        raise ValueError(f"window sizes are {left} and {right}, expected -1 or more")
    return left, 0 if causal else right


def _visible(
    mask: torch.Tensor | None,
    query: torch.Tensor,
    key: torch.Tensor,
    offset: int | torch.Tensor,
    lengths: torch.Tensor | None,
    window: tuple[int, int],
) -> torch.Tensor | None:
    """All that hides keys as one mask, as small as it broadcasts; None where nothing does."""
    rows, total, (left, right) = query.shape[2], key.shape[2], window
    mask = _padded(mask, total)
    if left >= 0 or right >= 0:
        mask = both(mask, causal_mask(rows, total, offset, query.device, left=left, right=right))
    if lengths is not None:
        mask = both(mask, torch.arange(total, device=query.device) < lengths.reshape(-1, 1, 1, 1))
    return mask


def _padded(mask: torch.Tensor | None, total: int) -> torch.Tensor | None:
    """A mask shorter than the keys hides the rest; torch's kernels take two axes or four."""
    if mask is not None and mask.dim() in (1, 3):
        mask = mask.unsqueeze(0)
    if mask is None or mask.shape[-1] == total:
        return mask
    hidden = False if mask.dtype is torch.bool else float("-inf")
    return functional.pad(mask, (0, total - mask.shape[-1]), value=hidden)


def _like(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    return mask if mask is None or mask.dtype is torch.bool else mask.to(query.dtype)


def _spelled_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float | None,
    softcap: float,
    precision: torch.dtype | None,
    mode: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention step by step, for what the fused kernel cannot do or show."""
    root = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    raw = grouped(query * root, (key * root).transpose(-1, -2))
    capped = torch.tanh(raw / softcap) * softcap if softcap else raw
    bias = torch.zeros((), dtype=raw.dtype, device=raw.device)
    if mask is not None:
        bias = torch.where(mask, bias, float("-inf")) if mask.dtype is torch.bool else mask.to(raw.dtype)
    biased = capped + bias
    wide = biased if precision is None else biased.to(precision)
    chances = torch.softmax(wide, -1)
    if mask is not None:
        # a row that may see nothing is zero, not NaN
        blind = torch.isneginf(bias.amax(-1, keepdim=True)) if bias.dim() else torch.isneginf(bias)
        chances = torch.where(blind, 0.0, chances)
    chances = chances.to(query.dtype)
    return grouped(chances, value), (raw, capped, biased, chances)[mode]


def rotate(
    x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor, *, interleaved: int, width: int
) -> torch.Tensor:
    """Turn pairs of the first `width` features of x [batch, sequence, heads, head] by angles [.., sequence, width / 2]
    given as their cosines and sines."""
    if width % 2 or width > x.shape[-1]:
        raise ValueError(f"{width} features are turned in pairs; heads are of {x.shape[-1]}")
    turned, rest = x[..., :width], x[..., width:]
    cosines, sines = cosines.unsqueeze(-2), sines.unsqueeze(-2)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
    else:
        a, b = turned.chunk(2, -1)
    real, imaginary = cosines * a - sines * b, sines * a + cosines * b
    turned = torch.stack([real, imaginary], -1).flatten(-2) if interleaved else torch.cat([real, imaginary], -1)
    return torch.cat([turned, rest], -1)


def rotary_embedding(
    x: torch.Tensor,
    cosines: torch.Tensor,
    sines: torch.Tensor,
    positions: torch.Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> torch.Tensor:
    """x [batch, heads, sequence, head] or [batch, sequence, hidden]; caches [positions, width/2], or already taken at
    each position, [batch, sequence, width/2], where no positions are given."""
    if positions is not None:
        cosines, sines = cosines[positions], sines[positions]
    y = torch.unflatten(x, -1, (num_heads, -1)) if x.dim() == 3 else x.transpose(1, 2)
    y = rotate(y, cosines, sines, interleaved=interleaved, width=rotary_embedding_dim or y.shape[-1])
    return y.flatten(2) if x.dim() == 3 else y.transpose(1, 2)


ATTENTION: Table = standard(
    {"Attention": Lowering(function=attention, many=True), "RotaryEmbedding": rotary_embedding},
    since=23,
)
