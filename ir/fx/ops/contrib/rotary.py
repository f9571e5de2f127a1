"""Rotary position embeddings (domain com.microsoft)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...lowering import Lowering, Table, standard
from ..attention import rotate

Tensor = torch.Tensor
_SECTIONED = 0


def _by_token(x: Tensor, num_heads: int, width: int) -> Tensor:
    """[batch, heads, sequence, head] or [batch, sequence, hidden] -> [batch, sequence, heads, head]"""
    if x.dim() == 4:
        return x.transpose(1, 2)
    return torch.unflatten(x, -1, (num_heads, -1) if num_heads else (-1, width))


def _as_given(y: Tensor, x: Tensor) -> Tensor:
    return y.transpose(1, 2) if x.dim() == 4 else y.flatten(2)


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
    """Positions [batch, sequence], or [1] where the sequence starts; caches [positions, width/2].

    What is turned is also multiplied by `scale`, which ONNX Runtime's CPU kernel (1.31) reads and leaves out.
    """
    y = _by_token(x, num_heads, 2 * cosines.shape[-1])
    if positions.dim() == 1:
        positions = positions + torch.arange(y.shape[1], device=x.device)
    width = rotary_embedding_dim or y.shape[-1]
    angles = cosines[positions], sines[positions]
    turned = rotate(y, *(part if scale == 1 else part * scale for part in angles), interleaved=interleaved, width=width)
    return _as_given(turned, x)


def multimodal_rotary_embedding(
    x: Tensor,
    positions: Tensor,
    cosines: Tensor,
    sines: Tensor,
    *,
    mrope_section: Sequence[int],
    mrope_layout: int = 0,
    interleaved: int = 0,
    is_packed_batching: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Tensor:
    """Each feature pair is turned by its time, height or width, positions [3, batch, sequence].

    The pairs are divided in three runs, or round in threes as far as a section reaches, time taking what is left.
    """
    y = _by_token(x, num_heads, 2 * cosines.shape[-1])
    width = rotary_embedding_dim or y.shape[-1]
    half = cosines.shape[-1]
    if len(mrope_section) != 3 or min(mrope_section) < 0 or sum(mrope_section) != half:
        raise ValueError(f"mrope_section is {list(mrope_section)}; expected three sizes that add up to {half}")
    if mrope_layout not in (0, 1):
        raise ValueError(f"mrope_layout is {mrope_layout}, expected 0 or 1")
    _, tall, wide = mrope_section
    if mrope_layout == _SECTIONED:
        stream = [axis for axis, count in enumerate(mrope_section) for _ in range(count)]
    else:
        stream = [0] * half
        for axis, count in ((1, tall), (2, wide)):
            stream[axis : 3 * count : 3] = [axis] * len(stream[axis : 3 * count : 3])
    chosen = torch.tensor(stream, device=x.device).expand(1, *positions.shape[1:], half)
    angles = (torch.gather(part[positions], 0, chosen).squeeze(0) * scale for part in (cosines, sines))
    return _as_given(rotate(y, *angles, interleaved=interleaved, width=width), x)


def gemma_rotary_embedding(
    angles: Tensor, query: Tensor, query_turned: Tensor, key: Tensor, key_turned: Tensor, *, outputs: int
) -> object:
    """Query and key [batch, heads, sequence, head], each with its quarter turn, by angles [batch, sequence, head]."""
    cosines, sines = (part.to(query.dtype).unsqueeze(1) for part in (angles.cos(), angles.sin()))
    y = query * cosines + query_turned * sines
    return y if outputs == 1 else (y, key * cosines + key_turned * sines)


ROTARY: Table = standard(
    {
        "RotaryEmbedding": rotary_embedding,
        "MRotaryEmbedding": multimodal_rotary_embedding,
        "GemmaRotaryEmbedding": Lowering(function=gemma_rotary_embedding, many=True),
    },
    domain="com.microsoft",
)
