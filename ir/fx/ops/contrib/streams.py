"""Parallel residual streams and n-gram memories: hyper-connections, Engram (domain com.microsoft).

Streams are [..., branches, hidden], or flattened [..., branches * hidden] where an op is told `num_branches`.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ...lowering import Lowering, Table, standard

Tensor = torch.Tensor
Maybe = torch.Tensor | None
_LEAST = 1e-6


def gated_add(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + y * gate, gate [..., 1]"""
    return x + y * gate


def branchwise_rms_norm(x: Tensor, scale: Maybe = None, *, epsilon: float = 1e-5, num_branches: int = 0) -> Tensor:
    """RMS norm of each branch on its own; scale [hidden], [branches, hidden] or [branches * hidden]."""
    grouped = _grouped(x, num_branches)
    if scale is not None:
        scale = scale if scale.shape[-1] == grouped.shape[-1] else scale.reshape(grouped.shape[-2:])
    return _rms_norm(grouped, scale, epsilon).reshape(x.shape)


def hyper_connection_pre_mix(
    streams: Tensor, mix: Tensor, *, num_branches: int = 0, reduction_scale: float = 1.0
) -> Tensor:
    """One feature tensor out of the streams: their sum, each times its gate."""
    grouped = _grouped(streams, num_branches)
    gates = _gates(mix, grouped, num_branches)
    return ((grouped.to(_wide(streams)) * gates).sum(-2) * reduction_scale).to(streams.dtype)


def hyper_connection_post_mix(
    streams: Tensor, branch: Tensor, injection: Tensor, mix: Maybe = None, *, num_branches: int = 0
) -> Tensor:
    """The streams mixed among themselves by mix [..., from, to], each with its share of what a branch computed."""
    grouped = _grouped(streams, num_branches)
    kept = grouped.to(_wide(streams))
    if mix is not None:
        kept = mix.to(kept.dtype).mT @ kept
    added = _gates(injection, grouped, num_branches) * branch.to(kept.dtype).unsqueeze(-2)
    return (kept + added).to(streams.dtype).reshape(streams.shape)


def _grouped(x: Tensor, branches: int) -> Tensor:
    return torch.unflatten(x, -1, (branches, -1)) if branches else x


def _gates(gates: Tensor, grouped: Tensor, branches: int) -> Tensor:
    """Gates [..., branches, 1 or hidden] out of [..., branches] (* hidden, flattened) or of what has both axes."""
    if gates.dim() == grouped.dim():
        return gates.to(_wide(grouped))
    return torch.unflatten(gates, -1, (grouped.shape[-2], -1)).to(_wide(grouped))


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def _rms_norm(x: Tensor, scale: Maybe, epsilon: float) -> Tensor:
    wide = x.to(_wide(x))
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (y if scale is None else y * scale.to(y.dtype)).to(x.dtype)


def engram_gate(
    key: Tensor,
    query: Tensor,
    value: Tensor,
    key_scale: Tensor,
    query_scale: Tensor,
    value_scale: Maybe = None,
    *,
    epsilon: float = 1e-5,
    outputs: int,
) -> object:
    """value [batch, sequence, hidden] times a gate of each stream, sigmoid of the signed root of how well its key and
    query [batch, sequence, streams, hidden] agree; and that normed."""
    wide = _wide(key)
    left, right = (_rms_norm(part.to(wide), scale, epsilon) for part, scale in ((key, key_scale), (query, query_scale)))
    dot = (left * right).sum(-1, keepdim=True) / key.shape[-1] ** 0.5
    gate = torch.sigmoid(torch.sign(dot) * dot.abs().clamp(min=_LEAST).sqrt())
    y = (gate * value.to(wide).unsqueeze(-2)).to(value.dtype)
    if outputs == 1:
        return y
    if value_scale is None:
        raise ValueError("the second output needs conv_norm_scale")
    return y, _rms_norm(y, value_scale, epsilon)


def n_gram_hash_mapping(
    ids: Tensor,
    multipliers: Tensor,
    sizes: Tensor,
    past: Maybe = None,
    offsets: Maybe = None,
    end: Maybe = None,
    segments: Maybe = None,
    *,
    max_ngram_size: int,
    n_head_per_ngram: int,
    pad_id: int,
    reset_on_eos: int = 0,
    outputs: int,
) -> object:
    """The places in hashed tables of the n-grams that end at each token, ids [batch, sequence].

    For n of 2 to `max_ngram_size` the last n ids, each times its multiplier, are combined by XOR; heads take the rest
    of division by their sizes. What lies before the sequence, another segment or an end of text is `end`, or `pad_id`.
    """
    before = max_ngram_size - 1
    missing = ids.new_full((), pad_id) if end is None else end.reshape(()).to(ids.dtype)
    history = missing.expand(ids.shape[0], before) if past is None else past
    whole = torch.cat([history, ids], 1)
    place = torch.arange(whole.shape[1], device=ids.device)
    first = torch.zeros_like(whole)
    if reset_on_eos and end is not None:
        # what an end of text strictly before a token hides: all up to it
        seen = torch.cummax(torch.where(whole == missing, place + 1, 0), 1).values
        first = functional.pad(seen, (1, -1))
    if segments is not None:
        changed = functional.pad(segments[:, 1:] != segments[:, :-1], (1, 0))
        start = torch.where(functional.pad(changed, (before, 0)), place, 0)
        first = torch.maximum(first, torch.cummax(start, 1).values.to(first.dtype))
    first = first[:, before:]
    mixed = ids * multipliers[0]
    found = []
    for back in range(1, max_ngram_size):
        at = place[before - back : whole.shape[1] - back]
        shifted = torch.where(at >= first, whole[:, before - back : whole.shape[1] - back], missing)
        mixed = mixed ^ (shifted * multipliers[back])
        heads = sizes[(back - 1) * n_head_per_ngram : back * n_head_per_ngram]
        found.append(torch.remainder(mixed.unsqueeze(-1), heads))
    hashed = torch.cat(found, -1)
    hashed = hashed if offsets is None else hashed + offsets
    return hashed if outputs == 1 else (hashed, whole[:, whole.shape[1] - before :])


STREAMS: Table = standard(
    {
        "GatedAdd": gated_add,
        "BranchwiseRMSNorm": branchwise_rms_norm,
        "HyperConnectionPreMix": hyper_connection_pre_mix,
        "HyperConnectionPostMix": hyper_connection_post_mix,
        "EngramGate": Lowering(function=engram_gate, many=True),
        "NGramHashMapping": Lowering(function=n_gram_hash_mapping, many=True),
    },
    domain="com.microsoft",
)
