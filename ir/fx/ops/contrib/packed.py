"""Attention over tokens without padding, and the biases of positions (domain com.microsoft).

Packed tokens are [tokens, hidden]; `offsets` [batch, sequence] lists the places of real tokens first, then those of
padding; `cumulated` [batch + 1] counts real tokens before each sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ...lowering import Lowering, Table, standard
from ..attention import attend, merge_heads, split_heads
from .masks import Maybe, Tensor


def restore_padding(x: Tensor, offsets: Tensor) -> Tensor:
    """[tokens, hidden] -> [batch, sequence, hidden], zero at padding."""
    batch, sequence = offsets.shape
    places = offsets.reshape(-1)[: x.shape[0]].long()
    return x.new_zeros(batch * sequence, x.shape[1]).index_copy(0, places, x).reshape(batch, sequence, -1)


def remove_padding(x: Tensor, counts: Tensor, *, outputs: int) -> object:
    """[batch, sequence, hidden] -> [tokens, hidden], the offsets, the cumulated lengths, the longest length."""
    batch, sequence = x.shape[:2]
    real = torch.arange(sequence, device=x.device) < counts.reshape(-1, 1)
    # stable: real tokens in their order, then padding in its order
    offsets = torch.argsort((~real).reshape(-1).to(torch.int8), stable=True)
    tokens = x.flatten(0, 1)[real.reshape(-1)]
    if outputs == 1:
        return tokens
    total = torch.cumsum(counts.reshape(-1), 0)
    cumulated = torch.cat([total.new_zeros(1), total]).to(torch.int32)
    shaped = offsets.reshape(batch, sequence).to(torch.int32)
    return tokens, shaped, cumulated, counts.amax().reshape(1).to(torch.int32)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, offsets: Tensor, cumulated: Tensor, bias: Maybe, scale: float
) -> Tensor:
    """Pad, attend, take the padding out again: [tokens, hidden] in and out."""
    tokens = query.shape[0]
    query, key, value = (split_heads(restore_padding(part, offsets), heads) for part in (query, key, value))
    lengths = (cumulated[1:] - cumulated[:-1]).reshape(-1, 1, 1, 1)
    seen = torch.arange(offsets.shape[1], device=query.device) < lengths
    if bias is not None:
        seen = torch.where(seen, bias, float("-inf"))
    result = merge_heads(attend(query, key, value, seen, scale=scale or None)).flatten(0, 1)
    return result[offsets.reshape(-1)[:tokens].long()]


def packed_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    offsets: Tensor,
    cumulated: Tensor,
    attention_bias: Maybe = None,
    *,
    num_heads: int,
    qkv_hidden_sizes: Sequence[int] | None = None,
    scale: float = 0.0,
) -> Tensor:
    """Attention with its packed projection, x [tokens, in]."""
    sizes = list(qkv_hidden_sizes) if qkv_hidden_sizes else [weight.shape[1] // 3] * 3
    query, key, value = torch.split(x @ weight + bias, sizes, -1)
    return _attend(query, key, value, num_heads, offsets, cumulated, attention_bias, scale)


def packed_multi_head_attention(
    query: Tensor,
    key: Maybe,
    value: Maybe,
    bias: Maybe,
    offsets: Tensor,
    cumulated: Tensor,
    attention_bias: Maybe = None,
    *,
    num_heads: int,
    scale: float = 0.0,
    mask_filter_value: float = -10000.0,
) -> Tensor:
    """Query, key and value [tokens, hidden], or all in the query [tokens, heads, 3, head]."""
    if query.dim() == 4:
        query, key, value = (part.flatten(1) for part in query.unbind(2))
    if key is None or value is None:
        raise ValueError("key and value are left out, but the query is not packed, of rank 4")
    if bias is not None:
        wide = query.shape[-1]
        query, key, value = query + bias[:wide], key + bias[wide : 2 * wide], value + bias[2 * wide :]
    return _attend(query, key, value, num_heads, offsets, cumulated, attention_bias, scale)


def relative_position_bias(
    table: Tensor, rows: int | list[int], columns: int | list[int], *, max_distance: int, is_bidirectional: int = 0
) -> Tensor:
    """T5's bias [1, heads, rows, columns]: `table` [buckets, heads], stored by column, at the bucket of column - row.

    Half of the buckets are for one distance each, the rest for ranges that grow with the logarithm up to
    `max_distance` (Raffel et al., 2020, section 2.1).
    """
    query, key = (size[0] if isinstance(size, list) else size for size in (rows, columns))
    distance = torch.arange(key, device=table.device) - torch.arange(query, device=table.device).unsqueeze(1)
    buckets = table.shape[0]
    if is_bidirectional:
        buckets //= 2
        side = torch.where(distance > 0, buckets, 0)
        distance = distance.abs()
    else:
        side = torch.zeros_like(distance)
        distance = (-distance).clamp(min=0)
    exact = buckets // 2
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
    place = side + torch.where(distance < exact, distance, far)
    return table.reshape(table.shape[1], table.shape[0])[:, place].unsqueeze(0)


def gated_relative_position_bias(
    query: Tensor,
    query_bias: Tensor,
    positions: Tensor,
    weight: Tensor,
    bias: Tensor,
    eco: Tensor,
    offsets: Maybe = None,
    *,
    num_heads: int,
) -> Tensor:
    """The bias [1, heads, sequence, sequence] times a gate of each query (WavLM, Chen et al., 2022, section 3.1)."""
    if offsets is not None:
        query = restore_padding(query, offsets)
    heads = split_heads(query + query_bias, num_heads)
    gates = torch.unflatten(heads @ weight + bias, -1, (2, -1)).sum(-1)
    update, reset = torch.sigmoid(gates).chunk(2, -1)
    return (update * (reset * eco - 1.0) + 2.0) * positions


PACKED: Table = standard(
    {
        "RestorePadding": restore_padding,
        "RemovePadding": Lowering(function=remove_padding, many=True),
        "PackedAttention": packed_attention,
        "PackedMultiHeadAttention": packed_multi_head_attention,
        "RelativePositionBias": Lowering(function=relative_position_bias, ints=(1, 2)),
        "GatedRelativePositionBias": gated_relative_position_bias,
    },
    domain="com.microsoft",
)
