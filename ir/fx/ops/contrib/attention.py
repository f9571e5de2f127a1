"""Attention, MultiHeadAttention and their one-token and quantized forms (domain com.microsoft)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from ...lowering import Lowering, Table, standard
from ..attention import attend, both, merge_heads, rotate, split_heads
from .integer import matmul_integer_to_float
from .masks import Maybe, Tensor, bias_of, padded, scores_of, write

_FILTER = -10000.0
_BASE = 10000.0


def _attend_packed(
    qkv: Tensor,
    sizes: Sequence[int],
    heads: int,
    mask: Maybe,
    past: Maybe,
    bias: Maybe,
    past_length: int | None,
    rotary: int,
    causal: int,
    value: float,
    scale: float | None,
    outputs: int,
) -> object:
    """Attention of [batch, sequence, query + key + value]; the cache is [2, batch, heads, sequence, head].

    With `past_length` the cache is a buffer of fixed length, filled that far. `rotary` features of a head are turned.
    """
    query, key, values = (split_heads(part, heads) for part in torch.split(qkv, list(sizes), -1))
    start = 0 if past is None else past.shape[3] if past_length is None else past_length
    if rotary:
        query, key = _turned(query, start, rotary), _turned(key, start, rotary)
    if past is not None and past_length is not None:
        present = torch.stack([write(past[0], key, past_length), write(past[1], values, past_length)])
        key, values = present[:, :, :, : past_length + key.shape[2]].unbind(0)
    else:
        present = None
        if past is not None:
            key, values = torch.cat([past[0], key], 2), torch.cat([past[1], values], 2)
    if causal and mask is None and bias is None and past is None:
        y = functional.scaled_dot_product_attention(query, key, values, is_causal=True, scale=scale)
    else:
        y = attend(query, key, values, bias_of(query, key, mask, bias, causal, value, start), scale=scale)
    if outputs == 1:
        return merge_heads(y)
    return merge_heads(y), torch.stack([key, values]) if present is None else present


def _turned(x: Tensor, start: int, width: int) -> Tensor:
    """Rotary embedding in halves with the usual angles, position * 10000^(-2 i / width)."""
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    frequencies = _BASE ** (-torch.arange(0, width, 2, device=x.device, dtype=wide) / width)
    places = torch.arange(x.shape[2], device=x.device, dtype=wide) + start
    angles = torch.outer(places, frequencies)
    turned = rotate(x.transpose(1, 2), angles.cos().to(x.dtype), angles.sin().to(x.dtype), interleaved=0, width=width)
    return turned.transpose(1, 2)


def attention(
    x: Tensor,
    weight: Tensor,
    bias: Maybe = None,
    mask: Maybe = None,
    past: Maybe = None,
    attention_bias: Maybe = None,
    past_length: int | list[int] | None = None,
    *,
    num_heads: int,
    unidirectional: int = 0,
    qkv_hidden_sizes: Sequence[int] | None = None,
    mask_filter_value: float = _FILTER,
    scale: float = 0.0,
    do_rotary: int = 0,
    rotary_embedding_dim: int = 0,
    past_present_share_buffer: int = 0,
    outputs: int,
) -> object:
    """Attention with its packed projection: x [batch, sequence, in], weight [in, query + key + value]."""
    qkv = x @ weight if bias is None else x @ weight + bias
    sizes = list(qkv_hidden_sizes) if qkv_hidden_sizes else [weight.shape[1] // 3] * 3
    filled = _one(past_length) if past_present_share_buffer else None
    if past_present_share_buffer and filled is None:
        raise ValueError("past_present_share_buffer needs past_sequence_length")
    rotary = (rotary_embedding_dim or sizes[0] // num_heads) if do_rotary else 0
    return _attend_packed(
        qkv,
        sizes,
        num_heads,
        mask,
        past,
        attention_bias,
        filled,
        rotary,
        unidirectional,
        mask_filter_value,
        scale or None,
        outputs,
    )


def qattention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    mask: Maybe = None,
    x_zero: Maybe = None,
    w_zero: Maybe = None,
    past: Maybe = None,
    *,
    num_heads: int,
    unidirectional: int = 0,
    mask_filter_value: float = _FILTER,
    scale: float = 0.0,
    do_rotary: int = 0,
    past_present_share_buffer: int = 0,
    outputs: int,
) -> object:
    """Attention whose packed projection is an integer product.

    ONNX Runtime's CPU kernel (1.31) leaves `do_rotary` out.
    """
    if past_present_share_buffer:
        raise ValueError("past_present_share_buffer: no input says how far the buffer is filled; set it to 0")
    qkv = matmul_integer_to_float(x, weight, x_scale, w_scale, x_zero, w_zero, bias)
    sizes = [weight.shape[1] // 3] * 3
    rotary = sizes[0] // num_heads if do_rotary else 0
    return _attend_packed(
        qkv, sizes, num_heads, mask, past, None, None, rotary, unidirectional, mask_filter_value, scale or None, outputs
    )


def decoder_masked_self_attention(
    x: Tensor,
    weight: Tensor,
    bias: Maybe,
    mask: Maybe,
    past: Tensor,
    attention_bias: Maybe = None,
    past_length: int | list[int] | None = None,
    beams: int | list[int] | None = None,
    indirection: Maybe = None,
    *,
    num_heads: int,
    mask_filter_value: float = _FILTER,
    scale: float = 0.0,
    do_rotary: int = 0,
    past_present_share_buffer: int = 0,
    outputs: int,
) -> object:
    """Attention of one new token; the key buffer is laid out plainly, as ONNX Runtime's CPU kernels have it."""
    if indirection is not None:
        raise ValueError("cache_indirection is of beam search inside ONNX Runtime; export the decoder without it")
    return attention(
        x,
        weight,
        bias,
        mask,
        past,
        attention_bias,
        past_length,
        num_heads=num_heads,
        mask_filter_value=mask_filter_value,
        scale=scale,
        do_rotary=do_rotary,
        past_present_share_buffer=past_present_share_buffer,
        outputs=outputs,
    )


def multi_head_attention(
    query: Tensor,
    key: Maybe = None,
    value: Maybe = None,
    bias: Maybe = None,
    mask: Maybe = None,
    attention_bias: Maybe = None,
    past_key: Maybe = None,
    past_value: Maybe = None,
    past_length: int | list[int] | None = None,
    indirection: Maybe = None,
    *,
    num_heads: int,
    unidirectional: int = 0,
    mask_filter_value: float = _FILTER,
    scale: float = 0.0,
    outputs: int,
) -> object:
    """Query [batch, sequence, hidden], key and value the same or [batch, heads, total, head]; packed key-value
    [batch, total, heads, 2, head] or packed all [batch, sequence, heads, 3, head] where inputs are left out.

    With `past_length` the caches are buffers of fixed length, filled that far. The fourth output is what the softmax is
    taken of: the scaled scores with mask and bias, the lowest number where the causal triangle hides a place.
    """
    if indirection is not None:
        raise ValueError("cache_indirection is of beam search inside ONNX Runtime; export the decoder without it")
    if query.dim() == 5:
        query, key, value = (part.flatten(2) for part in query.unbind(3))
    elif key is not None and key.dim() == 5:
        key, value = (part.flatten(2) for part in key.unbind(3))
    if key is None or value is None:
        raise ValueError("key and value are left out, but the query is not packed, of rank 5")
    if bias is not None:
        wide = query.shape[-1]
        query = query + bias[:wide]
        if key.dim() == 3:
            key, value = key + bias[wide : 2 * wide], value + bias[2 * wide :]
    query = split_heads(query, num_heads)
    key, value = (split_heads(part, num_heads) if part.dim() == 3 else part for part in (key, value))
    filled = _one(past_length)
    present, start = None, 0
    if past_key is not None and past_value is not None:
        start = past_key.shape[2] if filled is None else filled
        if filled is not None:
            present = write(past_key, key, filled), write(past_value, value, filled)
            key, value = (part[:, :, : filled + key.shape[2]] for part in present)
        else:
            key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    mask = None if mask is None else padded(mask, key.shape[2])
    added = bias_of(query, key, mask, attention_bias, unidirectional, mask_filter_value, start)
    if outputs > 3:
        scores = both(scores_of(query, key, scale or None), added)
        assert scores is not None
        chances = torch.softmax(scores, -1)
        lowest = torch.finfo(scores.dtype).min
        return merge_heads(chances @ value), *(present or (key, value)), scores.clamp(min=lowest)
    result = merge_heads(attend(query, key, value, added, scale=scale or None))
    return result if outputs == 1 else (result, *(present or (key, value)))


def decoder_masked_multi_head_attention(
    query: Tensor,
    key: Maybe = None,
    value: Maybe = None,
    mask: Maybe = None,
    attention_bias: Maybe = None,
    past_key: Maybe = None,
    past_value: Maybe = None,
    past_length: int | list[int] | None = None,
    beams: int | list[int] | None = None,
    indirection: Maybe = None,
    bias: Maybe = None,
    *,
    num_heads: int,
    mask_filter_value: float = _FILTER,
    scale: float = 0.0,
    past_present_share_buffer: int = 0,
    output_qk: int = 0,
    outputs: int,
) -> object:
    """MultiHeadAttention of one new token, query [batch, 1, hidden] or packed [batch, 1, 2 hidden + value hidden]."""
    if key is None:
        query, key, value = query.chunk(3, -1)
    return multi_head_attention(
        query,
        key,
        value,
        bias,
        mask,
        attention_bias,
        past_key,
        past_value,
        past_length if past_present_share_buffer else None,
        indirection,
        num_heads=num_heads,
        mask_filter_value=mask_filter_value,
        scale=scale,
        outputs=outputs,
    )


def _one(value: int | list[int] | None) -> int | None:
    """A scalar that may come as a list of one."""
    return value[0] if isinstance(value, list) else value


ATTENTION: Table = standard(
    {
        "Attention": Lowering(function=attention, many=True, ints=(6,)),
        "QAttention": Lowering(function=qattention, many=True),
        "DecoderMaskedSelfAttention": Lowering(function=decoder_masked_self_attention, many=True, ints=(6, 7)),
        "MultiHeadAttention": Lowering(function=multi_head_attention, many=True, ints=(8,)),
        "DecoderMaskedMultiHeadAttention": Lowering(
            function=decoder_masked_multi_head_attention, many=True, ints=(7, 8)
        ),
    },
    domain="com.microsoft",
)
