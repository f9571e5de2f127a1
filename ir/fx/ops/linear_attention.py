"""Attention whose past is one matrix a head, and the convolution before it (ai.onnx 27).

Shapes: query [batch, sequence, heads * key], key [batch, sequence, key heads * key], value
[batch, sequence, key heads * value], state [batch, key heads, key, value].
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from ..flow.steps import State, over_time
from ..lowering import Lowering, Table, standard

Tensor = torch.Tensor
Maybe = torch.Tensor | None

_RULES = {"linear": (False, False), "gated": (True, False), "delta": (False, True), "gated_delta": (True, True)}
"""Whether the state decays, and whether what the key already recalls is taken off the value."""


def linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    past: Maybe = None,
    decay: Maybe = None,
    beta: Maybe = None,
    *,
    q_num_heads: int,
    kv_num_heads: int,
    chunk_size: int = 64,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
    outputs: int,
) -> object:
    """The state S decays to exp(decay) S, then grows by the outer product of the key with beta (value - S^T key), or
    with the value itself where the rule corrects nothing; each step gives scale S^T query.

    `decay` [batch, sequence, key heads (* key)] and `beta` [batch, sequence, key heads or 1] where the rule has them.
    Steps are taken in float32, or float64 where the input has it; `chunk_size` only says how others batch them.
    """
    if update_rule not in _RULES:
        raise ValueError(f"update_rule is {update_rule!r}, expected one of {', '.join(_RULES)}")
    gated, corrected = _RULES[update_rule]
    if gated is (decay is None) or corrected is (beta is None):
        raise ValueError(f"update_rule {update_rule!r} takes {_taken(gated, corrected)}")
    if q_num_heads <= 0 or kv_num_heads <= 0 or q_num_heads % kv_num_heads:
        raise ValueError(f"{q_num_heads} query heads are no multiple of {kv_num_heads} key heads")
    wide = torch.float64 if query.dtype is torch.float64 else torch.float32

    def steps(x: Tensor, *heads: int) -> Tensor:
        """[sequence, batch, *heads, features]"""
        return torch.unflatten(x.to(wide), -1, (*heads, -1)).transpose(0, 1)

    queries = steps(query, kv_num_heads, q_num_heads // kv_num_heads)
    keys, values = steps(key, kv_num_heads), steps(value, kv_num_heads)
    inputs = [queries * (scale or 1 / math.sqrt(queries.shape[-1])), keys, values]
    if decay is not None:
        inputs.append(steps(decay, kv_num_heads).exp().unsqueeze(-1))
    if beta is not None:
        inputs.append(beta.to(wide).transpose(0, 1).unsqueeze(-1))
    start = values.new_zeros(query.shape[0], kv_num_heads, keys.shape[-1], values.shape[-1])

    def cell(state: State, parts: State) -> tuple[State, Tensor]:
        q, k, v, *rest = parts
        (s,) = state
        if gated:
            s = s * rest[0]
        if corrected:
            v = rest[-1] * (v - (k.unsqueeze(-2) @ s).squeeze(-2))
        s = s + k.unsqueeze(-1) * v.unsqueeze(-2)
        return (s,), q @ s

    (last,), rows = over_time(cell, (start if past is None else past.to(wide),), tuple(inputs))
    result = rows.transpose(0, 1).flatten(2).to(query.dtype)
    return result if outputs == 1 else (result, last.to(query.dtype if past is None else past.dtype))


def _taken(gated: bool, corrected: bool) -> str:
    names = [name for name, has in (("decay", gated), ("beta", corrected)) if has]
    return " and ".join(names) if names else "neither decay nor beta"


def causal_conv(
    x: Tensor, weight: Tensor, bias: Maybe = None, past: Maybe = None, *, activation: str = "none", outputs: int
) -> object:
    """x [batch, channels, length] with a kernel [channels, 1, k] of its own for each channel, which sees what came
    before; the last k - 1 positions are the state [batch, channels, k - 1], zero at the start."""
    if activation not in ("none", "silu", "swish"):
        raise ValueError(f"activation is {activation!r}, expected none, silu or swish")
    before = weight.shape[-1] - 1
    padded = functional.pad(x, (before, 0)) if past is None else torch.cat([past, x], -1)
    y = functional.conv1d(padded, weight, bias, groups=weight.shape[0])
    y = y if activation == "none" else functional.silu(y)
    return y if outputs == 1 else (y, padded.narrow(-1, x.shape[-1], before))


LINEAR_ATTENTION: Table = standard(
    {
        "LinearAttention": Lowering(function=linear_attention, many=True),
        "CausalConvWithState": Lowering(function=causal_conv, many=True),
    },
    since=27,
)
