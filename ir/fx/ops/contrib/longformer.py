"""LongformerAttention: a window around each token, and a few tokens that see and are seen by all (domain
com.microsoft; Beltagy et al., 2020, section 3.1)."""

from __future__ import annotations

import torch

from ...lowering import Table, standard
from ..attention import attend, merge_heads, split_heads

Tensor = torch.Tensor


def longformer_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mask: Tensor,
    global_weight: Tensor,
    global_bias: Tensor,
    flags: Tensor,
    *,
    num_heads: int,
    window: int,
) -> Tensor:
    """x [batch, sequence, hidden], projections [hidden, 3 hidden]; `mask` [batch, sequence] is added to the scores,
    `flags` [batch, sequence] marks global tokens, whose rows have projections of their own.

    All scores are computed and those outside the windows masked: memory grows with the square of the sequence.
    """
    if window < 0:
        raise ValueError(f"window is {window}; expected 0 or more")
    query, key, value = (split_heads(part, num_heads) for part in (x @ weight + bias).chunk(3, -1))
    place = torch.arange(x.shape[1], device=x.device)
    anywhere = flags > 0
    seen = ((place - place.unsqueeze(1)).abs() <= window) | anywhere[:, None, None, :]
    added = mask[:, None, None, :].to(x.dtype)
    local = attend(query, key, value, torch.where(seen, added, float("-inf")), scale=None)
    query, key, value = (split_heads(part, num_heads) for part in (x @ global_weight + global_bias).chunk(3, -1))
    whole = attend(query, key, value, added.expand(-1, 1, x.shape[1], -1), scale=None)
    return merge_heads(torch.where(anywhere[:, None, :, None], whole, local))


LONGFORMER: Table = standard({"LongformerAttention": longformer_attention}, domain="com.microsoft")
