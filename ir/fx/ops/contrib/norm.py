"""Normalizations with what was fused around them (domain com.microsoft)."""

from __future__ import annotations

import torch
from torch.nn import functional

from ...lowering import Lowering, Table, merged, standard
from ..norm import layer_norm, rms_norm

Tensor = torch.Tensor
Maybe = torch.Tensor | None
_SILU = 1


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
    return (*normed, total)[:outputs]


def skip_rms_norm(
    x: Tensor, skip: Tensor, gamma: Tensor, bias: Maybe = None, *, epsilon: float = 1e-12, outputs: int
) -> object:
    total = x + skip if bias is None else x + skip + bias
    y = rms_norm(total, gamma, epsilon=epsilon)
    inverse = _inverse(total, [-1], epsilon) if outputs > 2 else None
    return y if outputs == 1 else (y, None, inverse, total)[:outputs]


def _inverse(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    wide = x if x.dtype is torch.float64 else x.float()
    return torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)


def simplified_layer_norm(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1, outputs: int
) -> object:
    """RMS norm, in the type of the scale; the second output is the inverse of the root mean square."""
    y = rms_norm(x.to(torch.promote_types(x.dtype, scale.dtype)), scale, axis=axis, epsilon=epsilon).to(scale.dtype)
    return y if outputs == 1 else (y, _inverse(x, list(range(axis % x.dim(), x.dim())), epsilon))


def embed_layer_norm(
    ids: Tensor,
    segments: Maybe,
    words: Tensor,
    places: Tensor,
    segment_table: Maybe,
    gamma: Tensor,
    beta: Tensor,
    mask: Maybe = None,
    positions: Maybe = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
    outputs: int,
) -> object:
    """Layer norm of the sum of word, position and segment embeddings; mask lengths [batch]; the sum."""
    rows = places[positions.long()] if positions is not None else places[: ids.shape[1]]
    total = words[ids.long()] + rows
    if segments is not None and segment_table is not None:
        total = total + segment_table[segments.long()]
    y = layer_norm(total, gamma, beta, epsilon=epsilon, outputs=1)
    if outputs == 1:
        return y
    lengths = torch.zeros_like(ids[:, 0]) if mask is None else mask.sum(1)
    return (y, lengths.to(torch.int32), total)[:outputs]


def quantized_embed_layer_norm(
    ids: Tensor,
    segments: Maybe,
    words: Tensor,
    places: Tensor,
    segment_table: Maybe,
    gamma: Tensor,
    beta: Tensor,
    mask: Maybe,
    words_scale: Tensor,
    places_scale: Tensor,
    segment_scale: Maybe,
    gamma_scale: Tensor,
    beta_scale: Tensor,
    words_zero: Tensor,
    places_zero: Tensor,
    segment_zero: Maybe,
    gamma_zero: Tensor,
    beta_zero: Tensor,
    *,
    epsilon: float = 1e-12,
    outputs: int,
) -> object:
    """EmbedLayerNormalization of 8-bit tables, each with one scale and zero point; only rows that are read are made
    float."""
    total = _float(words[ids.long()], words_scale, words_zero) + _float(
        places[: ids.shape[1]], places_scale, places_zero
    )
    if segments is not None and segment_table is not None and segment_scale is not None and segment_zero is not None:
        total = total + _float(segment_table[segments.long()], segment_scale, segment_zero)
    scale, shift = _float(gamma, gamma_scale, gamma_zero), _float(beta, beta_scale, beta_zero)
    y = layer_norm(total, scale, shift, epsilon=epsilon, outputs=1)
    lengths = torch.zeros_like(ids[:, 0]) if mask is None else mask.sum(1)
    return y if outputs == 1 else (y, lengths.to(torch.int32))


def _float(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return (x.to(torch.int32) - zero.to(torch.int32)).to(scale.dtype) * scale


def group_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    *,
    groups: int,
    activation: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
) -> Tensor:
    """Group norm and, where asked for, SiLU; x [batch, ..., channels] or [batch, channels, ...]."""
    if activation not in (0, _SILU):
        raise ValueError(f"activation is {activation}, expected 0 (none) or {_SILU} (SiLU)")
    inner = x.movedim(-1, 1) if channels_last else x
    wide = gamma.dtype
    y = functional.group_norm(inner.to(wide), groups, gamma, beta, epsilon)
    y = (functional.silu(y) if activation == _SILU else y).to(x.dtype)
    return y.movedim(1, -1) if channels_last else y


def skip_group_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    skip: Tensor,
    bias: Maybe = None,
    *,
    groups: int,
    activation: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
    outputs: int,
) -> object:
    """Group norm of x + skip + bias, and that sum; skip may be [batch, channels]."""
    per_channel = [1] * (x.dim() - 2)
    if skip.dim() == 2:
        shape = (skip.shape[0], *per_channel, -1) if channels_last else (skip.shape[0], -1, *per_channel)
        skip = skip.reshape(shape)
    total = x + skip
    if bias is not None:
        total = total + (bias if channels_last else bias.reshape(-1, *per_channel))
    y = group_norm(
        total, gamma, beta, groups=groups, activation=activation, channels_last=channels_last, epsilon=epsilon
    )
    return y if outputs == 1 else (y, total)


def gated_rms_norm(
    x: Tensor, scale: Tensor, gate: Tensor, *, activation: str = "silu", epsilon: float = 1e-5
) -> Tensor:
    """RMS norm over runs of scale's length, times silu(gate) or sigmoid(gate); in float32."""
    if activation not in ("silu", "swish", "sigmoid"):
        raise ValueError(f"activation is {activation!r}, expected silu, swish or sigmoid")
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    groups = torch.unflatten(x.to(wide), -1, (-1, scale.shape[0]))
    y = functional.rms_norm(groups, scale.shape, scale.to(wide), epsilon).flatten(-2)
    opened = torch.sigmoid(gate.to(wide)) if activation == "sigmoid" else functional.silu(gate.to(wide))
    return (y * opened).to(x.dtype)


_SIMPLIFIED = Lowering(function=simplified_layer_norm, many=True)
NORM: Table = merged(
    # ONNX Runtime reads this one in the standard domain
    standard({"SimplifiedLayerNormalization": _SIMPLIFIED}),
    standard(
        {
            "LayerNormalization": Lowering(function=layer_norm, many=True),
            "SkipLayerNormalization": Lowering(function=skip_layer_norm, many=True),
            "SkipSimplifiedLayerNormalization": Lowering(function=skip_rms_norm, many=True),
            "SimplifiedLayerNormalization": _SIMPLIFIED,
            "EmbedLayerNormalization": Lowering(function=embed_layer_norm, many=True),
            "QEmbedLayerNormalization": Lowering(function=quantized_embed_layer_norm, many=True),
            "GroupNorm": group_norm,
            "SkipGroupNorm": Lowering(function=skip_group_norm, many=True),
            "GatedRMSNorm": gated_rms_norm,
        },
        domain="com.microsoft",
    ),
)
