"""ONNX Runtime's own ops (domain com.microsoft) that appear in exported and optimized language models.

Shapes as in `attention`; a mask value that hides is added rather than -inf, as ONNX Runtime does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from .attention import attend, both, causal_mask, merge_heads, rotate, split_heads
from .lowering import Lowering, Table, merged, standard
from .norm import layer_norm, rms_norm
from .quant import centred, dynamic_quantize

Tensor = torch.Tensor
Maybe = torch.Tensor | None


def bias_gelu(x: Tensor, bias: Maybe = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias)


def fast_gelu(x: Tensor, bias: Maybe = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def fused_matmul(
    a: Tensor,
    b: Tensor,
    *,
    alpha: float = 1.0,
    trans_a: int = 0,
    trans_b: int = 0,
    trans_batch_a: int = 0,
    trans_batch_b: int = 0,
) -> Tensor:
    """alpha * A B; a transposed batch has its axes [m, batch..., k]."""
    left = a.movedim(0, -2) if trans_batch_a else a
    right = b.movedim(0, -2) if trans_batch_b else b
    product = (left.mT if trans_a else left) @ (right.mT if trans_b else right)
    return product if alpha == 1 else alpha * product


def skip_layer_norm(
    x: Tensor,
    skip: Tensor,
    gamma: Tensor,
    beta: Maybe = None,
    bias: Maybe = None,
    *,
    epsilon: float = 1e-12,
    outputs: int,
) -> object:
    """Layer norm of x + skip + bias; outputs it, the mean, the inverse deviation, and the sum."""
    total = x + skip if bias is None else x + skip + bias
    if outputs == 1:
        return layer_norm(total, gamma, beta, epsilon=epsilon, outputs=1)
    normed = layer_norm(total, gamma, beta, epsilon=epsilon, outputs=3)
    assert isinstance(normed, tuple)
    return (*normed, total)


def skip_rms_norm(
    x: Tensor, skip: Tensor, gamma: Tensor, bias: Maybe = None, *, epsilon: float = 1e-5, outputs: int
) -> object:
    total = x + skip if bias is None else x + skip + bias
    y = rms_norm(total, gamma, epsilon=epsilon)
    inverse = torch.rsqrt(total.float().square().mean(-1, keepdim=True) + epsilon) if outputs > 2 else None
    return y if outputs == 1 else (y, None, inverse, total)


def simplified_layer_norm(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, outputs: int
) -> object:
    """RMS norm; the second output is the inverse of the root mean square."""
    y = rms_norm(x, scale, axis=axis, epsilon=epsilon)
    if outputs == 1:
        return y
    axes = list(range(axis % x.dim(), x.dim()))
    return y, torch.rsqrt(x.float().square().mean(axes, keepdim=True) + epsilon)


def embed_layer_norm(
    ids: Tensor,
    segments: Maybe,
    words: Tensor,
    places: Tensor,
    segment_table: Maybe = None,
    gamma: Maybe = None,
    beta: Maybe = None,
    mask: Maybe = None,
    positions: Maybe = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
    outputs: int,
) -> object:
    """Layer norm of the sum of word, position and segment embeddings; mask lengths [batch]; the sum."""
    assert gamma is not None
    rows = places[positions.long()] if positions is not None else places[: ids.shape[1]]
    total = words[ids.long()] + rows
    if segments is not None and segment_table is not None:
        total = total + segment_table[segments.long()]
    y = layer_norm(total, gamma, beta, epsilon=epsilon, outputs=1)
    if outputs == 1:
        return y
    lengths = torch.zeros_like(ids[:, 0]) if mask is None else mask.sum(1)
    return y, lengths.to(torch.int32), total


def _hiding(mask: Tensor, batch: int, rows: int, total: int, value: float, dtype: torch.dtype) -> Tensor:
    """The bias for ONNX Runtime's integer masks: lengths [batch], ends and starts [2 batch], or 0/1 masks."""
    column = torch.arange(total, device=mask.device)
    if mask.dim() == 1:
        end = mask[:batch].reshape(-1, 1, 1, 1)
        seen = column < end
        if mask.shape[0] == 2 * batch:
            seen = seen & (column >= mask[batch:].reshape(-1, 1, 1, 1))
    elif mask.dim() == 2:
        seen = mask[:, None, None, :] > 0
    elif mask.dim() == 3:
        seen = mask[:, None, :, :] > 0
    else:
        seen = mask[:, :, total - rows : total, :total] > 0
    return torch.where(seen, 0.0, value).to(dtype)


def _masked(query: Tensor, key: Tensor, mask: Maybe, bias: Maybe, causal: int, value: float) -> Tensor | None:
    rows, total = query.shape[2], key.shape[2]
    added = None if mask is None else _hiding(mask, query.shape[0], rows, total, value, query.dtype)
    if causal:
        seen = causal_mask(rows, total, total - rows, query.device)
        lowest = torch.finfo(query.dtype).min
        added = both(added, torch.where(seen, 0.0, lowest).to(query.dtype))
    if bias is not None and bias.dim() == 3:
        bias = bias.unsqueeze(0)
    return both(added, bias)


def _attend_packed(
    qkv: Tensor,
    sizes: Sequence[int],
    heads: int,
    mask: Maybe,
    past: Maybe,
    bias: Maybe,
    causal: int,
    value: float,
    scale: float | None,
    outputs: int,
) -> object:
    """Attention of [batch, sequence, query + key + value]; the cache is [2, batch, heads, sequence, head]."""
    query, key, values = (split_heads(part, heads) for part in torch.split(qkv, list(sizes), -1))
    if past is not None:
        key, values = torch.cat([past[0], key], 2), torch.cat([past[1], values], 2)
    result = merge_heads(attend(query, key, values, _masked(query, key, mask, bias, causal, value), scale=scale))
    return result if outputs == 1 else (result, torch.stack([key, values]))


def attention(
    x: Tensor,
    weight: Tensor,
    bias: Maybe = None,
    mask: Maybe = None,
    past: Maybe = None,
    attention_bias: Maybe = None,
    past_length: Maybe = None,
    *,
    num_heads: int,
    unidirectional: int = 0,
    qkv_hidden_sizes: Sequence[int] | None = None,
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
    outputs: int,
) -> object:
    """Attention with its packed projection: x [batch, sequence, in], weight [in, query + key + value]."""
    qkv = x @ weight if bias is None else x @ weight + bias
    sizes = list(qkv_hidden_sizes) if qkv_hidden_sizes else [weight.shape[1] // 3] * 3
    return _attend_packed(
        qkv, sizes, num_heads, mask, past, attention_bias, unidirectional, mask_filter_value, scale or None, outputs
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
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
    outputs: int,
) -> object:
    """Attention whose packed projection is an integer product."""
    qkv = matmul_integer_to_float(x, weight, x_scale, w_scale, x_zero, w_zero, bias)
    sizes = [weight.shape[1] // 3] * 3
    return _attend_packed(
        qkv, sizes, num_heads, mask, past, None, unidirectional, mask_filter_value, scale or None, outputs
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
    *,
    num_heads: int,
    unidirectional: int = 0,
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
    outputs: int,
) -> object:
    """Query [batch, sequence, hidden], key and value the same or [batch, heads, total, head]; packed key-value
    [batch, total, heads, 2, head] or packed all [batch, sequence, heads, 3, head] where inputs are left out."""
    if query.dim() == 5:
        query, key, value = (part.flatten(2) for part in query.unbind(3))
    elif key is not None and key.dim() == 5:
        key, value = (part.flatten(2) for part in key.unbind(3))
    assert key is not None and value is not None
    if bias is not None:
        wide = query.shape[-1]
        query = query + bias[:wide]
        if key.dim() == 3:
            key, value = key + bias[wide : 2 * wide], value + bias[2 * wide :]
    query = split_heads(query, num_heads)
    key, value = (split_heads(part, num_heads) if part.dim() == 3 else part for part in (key, value))
    if past_key is not None and past_value is not None:
        key, value = torch.cat([past_key, key], 2), torch.cat([past_value, value], 2)
    added = _masked(query, key, mask, attention_bias, unidirectional, mask_filter_value)
    result = merge_heads(attend(query, key, value, added, scale=scale or None))
    return result if outputs == 1 else (result, key, value)


def rotary_embedding(
    x: Tensor,
    positions: Tensor,
    cosines: Tensor,
    sines: Tensor,
    *,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """Positions [batch, sequence], or [1] where the sequence starts; caches [positions, width/2]."""
    y = (
        x.transpose(1, 2)
        if x.dim() == 4
        else torch.unflatten(x, -1, (num_heads or x.shape[-1] // (2 * cosines.shape[-1]), -1))
    )
    if positions.dim() == 1:
        positions = positions + torch.arange(y.shape[1], device=x.device)
    width = rotary_embedding_dim or y.shape[-1]
    y = rotate(y, cosines[positions] * scale, sines[positions] * scale, interleaved=interleaved, width=width)
    return y.transpose(1, 2) if x.dim() == 4 else y.flatten(2)


def matmul_integer_to_float(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    a_zero: Maybe = None,
    b_zero: Maybe = None,
    bias: Maybe = None,
) -> Tensor:
    """(a - a_zero)(b - b_zero) * a_scale * b_scale + bias"""
    product = centred(a, a_zero, rows=True) @ centred(b, b_zero)
    y = (product * (a_scale.double() * b_scale.double())).to(a_scale.dtype)
    return y if bias is None else y + bias


def dynamic_quantize_matmul(a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Maybe = None, bias: Maybe = None) -> Tensor:
    """A quantized over its own range, then an integer product."""
    parts = dynamic_quantize(a, outputs=3)
    assert isinstance(parts, tuple)
    quantized, a_scale, a_zero = parts
    return matmul_integer_to_float(quantized, b, a_scale, b_scale, a_zero, b_zero, bias)


_SIMPLIFIED = Lowering(function=simplified_layer_norm, many=True)
CONTRIB: Table = merged(
    # ONNX Runtime reads this one in the standard domain
    standard({"SimplifiedLayerNormalization": _SIMPLIFIED}),
    standard(
        {
            "Attention": Lowering(function=attention, many=True),
            "MultiHeadAttention": Lowering(function=multi_head_attention, many=True),
            "QAttention": Lowering(function=qattention, many=True),
            "RotaryEmbedding": rotary_embedding,
            "SkipLayerNormalization": Lowering(function=skip_layer_norm, many=True),
            "SkipSimplifiedLayerNormalization": Lowering(function=skip_rms_norm, many=True),
            "SimplifiedLayerNormalization": _SIMPLIFIED,
            "EmbedLayerNormalization": Lowering(function=embed_layer_norm, many=True),
            "Gelu": bias_gelu,
            "BiasGelu": bias_gelu,
            "FastGelu": fast_gelu,
            "QuickGelu": quick_gelu,
            "FusedMatMul": fused_matmul,
            "MatMulIntegerToFloat": matmul_integer_to_float,
            "DynamicQuantizeMatMul": dynamic_quantize_matmul,
        },
        domain="com.microsoft",
    ),
)
