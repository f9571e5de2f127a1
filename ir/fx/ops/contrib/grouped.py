"""GroupQueryAttention and SparseAttention: grouped heads over a cache of fixed length (domain com.microsoft).

Entry b of the batch has `lengths[b]` tokens after this step, of which the last `rows` are new: row i stands at place
lengths[b] - rows + i. A first prompt starts at place 0, whatever padding it has on its right.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ...dtypes import FLOAT8
from ...host import larger
from ...lowering import Lowering, Table, standard
from ..attention import attend, both, causal_mask, merge_heads, rotate, split_heads
from ..norm import rms_norm
from .caches import Format, Window
from .masks import Maybe, Tensor, scores_of, write

_AFTER = 2


def group_query_attention(
    query: Tensor,
    key: Maybe,
    value: Maybe,
    past_key: Maybe,
    past_value: Maybe,
    lengths: Tensor,
    longest: int | list[int],
    cosines: Maybe = None,
    sines: Maybe = None,
    positions: Maybe = None,
    bias: Maybe = None,
    sink: Maybe = None,
    key_scale: Maybe = None,
    value_scale: Maybe = None,
    query_norm: Maybe = None,
    key_norm: Maybe = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    scale: float = 0.0,
    softcap: float = 0.0,
    causal: int = 1,
    local_window_size: int = -1,
    do_rotary: int = 0,
    rotary_interleaved: int = 0,
    smooth_softmax: int = -1,
    qk_output: int = 0,
    qk_norm_epsilon: float = 1e-6,
    k_quant_type: str = "NONE",
    v_quant_type: str = "NONE",
    kv_cache_bit_width: int = 0,
    sliding_window_cache: int = 0,
    outputs: int,
) -> object:
    """Query [batch, rows, heads * head] with key and value, or all of them packed; `lengths` counts less one.

    Outputs: the result, the caches [batch, key heads, places, head] where `places` is the longest of the past's own
    length and `longest`, and the scores before (1) or after (2) the softmax.
    """
    formats = (
        Format.of(k_quant_type, key_scale, kv_cache_bit_width),
        Format.of(v_quant_type, value_scale, kv_cache_bit_width),
    )
    query, key, value = _separate(query, key, value, num_heads, kv_num_heads)
    rows = query.shape[2]
    ends = lengths.reshape(-1).long() + 1
    start = (ends - rows).clamp(min=0)
    if query_norm is not None and key_norm is not None:
        query, key = (
            rms_norm(part, weight, epsilon=qk_norm_epsilon) for part, weight in ((query, query_norm), (key, key_norm))
        )
    if do_rotary:
        if cosines is None or sines is None:
            raise ValueError("do_rotary needs cos_cache and sin_cache")
        places = start.unsqueeze(1) + torch.arange(rows, device=query.device) if positions is None else positions
        query, key = (_turned(part, cosines, sines, places, rotary_interleaved) for part in (query, key))
    pasts = (past_key, past_value)
    fresh = [form.stored(part, past) for form, part, past in zip(formats, (key, value), pasts, strict=True)]
    if local_window_size != -1 and local_window_size < 1:
        raise ValueError(f"local_window_size is {local_window_size}; expected 1 or more, or -1 for no window")
    window = local_window_size
    plain = not (softcap or smooth_softmax == 1 or sink is not None or outputs > 3)
    if sliding_window_cache:
        if past_key is None or past_value is None or window < 0:
            raise ValueError("sliding_window_cache needs past_key, past_value and a local_window_size")
        slide = Window(start.unsqueeze(1), ends.unsqueeze(1), past_key.shape[2], window)
        wholes = [torch.cat(parts, 2) for parts in zip((past_key, past_value), fresh, strict=True)]
        present = [slide.kept(whole) for whole in wholes]
        seen, bias = _sliding(slide, rows, start, window, bias)
    else:
        wholes = present = [_grown(past, part, start, longest) for past, part in zip(pasts, fresh, strict=True)]
        floats = formats[0].scale is None and formats[1].scale is None
        if plain and floats and causal and past_key is None and bias is None and window < 0:
            result = functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scale or None, enable_gqa=num_heads != kv_num_heads
            )
            return merge_heads(result) if outputs == 1 else (merge_heads(result), *present)
        total = wholes[0].shape[2]
        if causal:
            seen = causal_mask(rows, total, start, query.device, left=window - 1 if window > 0 else -1)
        else:
            seen = torch.arange(total, device=query.device) < ends.reshape(-1, 1, 1, 1)
        # the bias covers the tokens there are, the buffer may be longer
        bias = None if bias is None else functional.pad(bias, (0, total - bias.shape[-1]))
    key, value = (form.read(whole, query.dtype) for form, whole in zip(formats, wholes, strict=True))
    if plain:
        result = merge_heads(attend(query, key, value, both(seen, bias), scale=scale or None))
        return result if outputs == 1 else (result, *present)
    smooth = int(smooth_softmax == 1)
    result, scores = _softmaxed(query, key, value, seen, bias, scale, softcap, smooth, sink, qk_output)
    return merge_heads(result) if outputs == 1 else (merge_heads(result), *present, scores)[:outputs]


def _sliding(slide: Window, rows: int, start: Tensor, width: int, bias: Maybe) -> tuple[Tensor, Maybe]:
    """What each new row sees of the cached and the new ones, and the columns of the bias at their places."""
    places, real = slide.places(rows)
    row = (start.unsqueeze(1) + torch.arange(rows, device=start.device)).unsqueeze(2)
    column = places.unsqueeze(1)
    seen = (real.unsqueeze(1) & (column <= row) & (column > row - width)).unsqueeze(1)
    if bias is None:
        return seen, None
    wide = bias.expand(places.shape[0], -1, -1, -1)
    index = places.clamp(0).clamp(max=bias.shape[-1] - 1)[:, None, None, :]
    return seen, torch.gather(wide, 3, index.expand(-1, *wide.shape[1:3], -1))


def _separate(query: Tensor, key: Maybe, value: Maybe, heads: int, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """[batch, heads, rows, head] each, out of separate or packed inputs."""
    if key is None or value is None:
        packed = split_heads(query, heads + 2 * groups)
        query, key, value = torch.split(packed, [heads, groups, groups], 1)
        return query, key, value
    return split_heads(query, heads), split_heads(key, groups), split_heads(value, groups)


def _turned(x: Tensor, cosines: Tensor, sines: Tensor, places: Tensor, interleaved: int) -> Tensor:
    width = 2 * cosines.shape[-1]
    y = rotate(x.transpose(1, 2), cosines[places], sines[places], interleaved=interleaved, width=width)
    return y.transpose(1, 2)


def _grown(past: Maybe, fresh: Tensor, start: Tensor, longest: int | list[int]) -> Tensor:
    """The cache with the new rows in it, long enough for all of them."""
    if past is None:
        return fresh
    wanted = longest[0] if isinstance(longest, list) else longest
    more = larger(wanted - past.shape[2], 0)
    if past.dtype in FLOAT8:
        return write(functional.pad(past.view(torch.uint8), (0, 0, 0, more)).view(past.dtype), fresh, start)
    return write(functional.pad(past, (0, 0, 0, more)), fresh, start)


def _softmaxed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor,
    bias: Maybe,
    scale: float,
    softcap: float,
    smooth: int,
    sink: Maybe,
    stage: int,
) -> tuple[Tensor, Tensor]:
    """Attention whose softmax has one more term in its denominator: e^sink of the head, or e^0 where it is smooth; and
    the probabilities, or the scores before, zero at places that are not seen."""
    scores = scores_of(query, key, scale or None)
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores if bias is None else scores + bias
    shown = scores
    scores = scores.masked_fill(~seen, float("-inf"))
    if sink is not None or smooth:
        extra = scores.new_zeros(()) if sink is None else sink.to(scores.dtype).reshape(1, -1, 1, 1)
        chances = torch.softmax(torch.cat([scores, extra.expand(*scores.shape[:-1], 1)], -1), -1)[..., :-1]
    else:
        chances = torch.softmax(scores, -1)
    repeats = query.shape[1] // key.shape[1]
    result = chances @ (value.repeat_interleave(repeats, 1) if repeats > 1 else value)
    return result, chances if stage == _AFTER else shown.masked_fill(~seen, 0.0)


def sparse_attention(
    query: Tensor,
    key: Maybe,
    value: Maybe,
    past_key: Tensor,
    past_value: Tensor,
    row_indices: Tensor,
    column_indices: Tensor,
    longest: int | list[int],
    lengths: Tensor,
    cosines: Maybe = None,
    sines: Maybe = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    sparse_block_size: int,
    scale: float = 0.0,
    do_rotary: int = 0,
    rotary_interleaved: int = 0,
    outputs: int,
) -> object:
    """Causal attention that sees the blocks of a CSR mask [layouts, blocks + 1]; layouts go round over the heads."""
    if sparse_block_size < 1:
        raise ValueError(f"sparse_block_size is {sparse_block_size}; expected 1 or more")
    query, key, value = _separate(query, key, value, num_heads, kv_num_heads)
    rows = query.shape[2]
    start = (lengths.reshape(-1).long() - rows).clamp(min=0)
    if do_rotary:
        assert cosines is not None and sines is not None
        places = start.unsqueeze(1) + torch.arange(rows, device=query.device)
        query, key = (_turned(part, cosines, sines, places, rotary_interleaved) for part in (query, key))
    key, value = (_grown(past, part, start, longest) for past, part in ((past_key, key), (past_value, value)))
    total = key.shape[2]
    blocks = _dense(row_indices.long(), column_indices.long())
    row_block = (start.unsqueeze(1) + torch.arange(rows, device=query.device)) // sparse_block_size
    column_block = torch.arange(total, device=query.device) // sparse_block_size
    allowed = blocks[:, row_block][..., column_block].transpose(0, 1)
    allowed = allowed.repeat(1, num_heads // allowed.shape[1], 1, 1)
    seen = causal_mask(rows, total, start, query.device) & allowed
    result = merge_heads(attend(query, key, value, seen, scale=scale or None))
    return result if outputs == 1 else (result, key, value)


def _dense(rows: Tensor, columns: Tensor) -> Tensor:
    """A CSR mask [layouts, blocks + 1], [layouts, entries] (padded with -1) as bool [layouts, blocks, blocks]."""
    blocks = rows.shape[1] - 1
    entry = torch.arange(columns.shape[1], device=rows.device).expand(columns.shape)
    row = torch.searchsorted(rows, entry.contiguous(), right=True) - 1
    real = (entry < rows[:, -1:]) & (columns >= 0)
    flat = torch.where(real, row * blocks + columns, blocks * blocks)
    hits = torch.zeros(rows.shape[0], blocks * blocks + 1, dtype=torch.bool, device=rows.device)
    filled = hits.scatter(1, flat, torch.ones_like(real))[:, :-1]
    return torch.unflatten(filled, 1, (blocks, blocks))


GROUPED: Table = standard(
    {
        "GroupQueryAttention": Lowering(function=group_query_attention, many=True, ints=(6,)),
        "SparseAttention": Lowering(function=sparse_attention, many=True, ints=(7,)),
    },
    domain="com.microsoft",
)
