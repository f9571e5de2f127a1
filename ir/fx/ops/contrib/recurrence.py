"""Linear attention and its convolution, with what ONNX Runtime adds to the standard ops (domain com.microsoft)."""

from __future__ import annotations

import torch
from torch.nn import functional

from ...lowering import Lowering, Table, standard
from ..linear_attention import linear_attention

Tensor = torch.Tensor
Maybe = torch.Tensor | None
_LEAST = 1e-6
_MOST_STATES = 8


def linear_attention_windowed(
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
    state_window: int = 0,
    update_rule: str = "gated_delta",
    outputs: int,
) -> object:
    """The standard op, where there may also be fewer query (and key) heads than value heads, each for a run of them.

    With a `state_window` of W the states are [W, batch, key heads, key, value], those after each of the last W tokens,
    zero where there are fewer; the last one is read.
    """
    _check_window(state_window)
    if 1 <= q_num_heads < kv_num_heads:
        width = query.shape[-1] // q_num_heads
        query, key = (_repeated(part, width, kv_num_heads) for part in (query, key))
        q_num_heads = kv_num_heads

    def steps(
        query: Tensor, key: Tensor, value: Tensor, past: Maybe, decay: Maybe, beta: Maybe, outputs: int
    ) -> object:
        return linear_attention(
            query,
            key,
            value,
            past,
            decay,
            beta,
            q_num_heads=q_num_heads,
            kv_num_heads=kv_num_heads,
            scale=scale,
            update_rule=update_rule,
            outputs=outputs,
        )

    if not state_window:
        return steps(query, key, value, past, decay, beta, outputs)
    past = None if past is None else past[-1]
    if outputs == 1:
        return steps(query, key, value, past, decay, beta, 1)

    def copies(x: Maybe) -> Maybe:
        return None if x is None else x.expand(state_window, *x.shape).flatten(0, 1)

    # a token with a key of zero and no decay leaves the state alone: each copy of the batch stops at another token
    length = query.shape[1]
    left = torch.arange(state_window - 1, -1, -1, device=query.device)
    live = (torch.arange(length, device=query.device) < (length - left).unsqueeze(1))[:, None, :, None]
    keys = torch.where(live, key, 0.0).flatten(0, 1)
    slower = None if decay is None else torch.where(live, decay, 0.0).flatten(0, 1)
    queries, values = (part.expand(state_window, *part.shape).flatten(0, 1) for part in (query, value))
    found = steps(queries, keys, values, copies(past), slower, copies(beta), 2)
    assert isinstance(found, tuple)
    y, states = (torch.unflatten(part, 0, (state_window, -1)) for part in found)
    reached = (left < length).reshape(-1, 1, 1, 1, 1)
    return y[-1], torch.where(reached, states, 0.0)


def _check_window(states: int) -> None:
    if not 0 <= states <= _MOST_STATES:
        raise ValueError(f"state_window is {states}; expected 0 to {_MOST_STATES}")


def _repeated(x: Tensor, width: int, heads: int) -> Tensor:
    """[..., some heads * width] -> [..., heads * width], each head for a run."""
    own = torch.unflatten(x, -1, (-1, width))
    return own.repeat_interleave(heads // own.shape[-2], -2).flatten(-2)


def linear_attention_gate(a: Tensor, bias: Tensor, decay_scale: Tensor, b: Maybe = None, *, outputs: int) -> object:
    """decay_scale * softplus(a + bias), in the bias' type, and sigmoid(b)."""
    decay = (decay_scale * functional.softplus(a.to(bias.dtype) + bias)).to(a.dtype)
    if outputs == 1:
        return decay
    if b is None:
        raise ValueError("the second output, beta, needs the fourth input")
    return decay, torch.sigmoid(b)


def causal_conv_with_state(
    x: Tensor,
    weight: Tensor,
    bias: Maybe = None,
    past: Maybe = None,
    *,
    activation: str = "none",
    channels_last: int = 0,
    dilation: int = 1,
    ndim: int = 1,
    state_window: int = 0,
    outputs: int,
) -> object:
    """x [batch, channels, length], or [batch, length, ...channels], with a kernel [channels, 1, k] for each channel.

    The state is the last (k - 1) * dilation positions of what was read so far, laid out as x; with a `state_window` of
    W it is [W, ...], those after each of the last W positions, zero where there are fewer, and the last one is read.
    """
    if activation not in ("none", "silu", "swish"):
        raise ValueError(f"activation is {activation!r}, expected none, silu or swish")
    _check_window(state_window)
    if ndim != 1:
        raise ValueError(f"ndim is {ndim}; only sequences, ndim 1, are lowered")
    features = x.shape[2:]
    past = past[-1] if state_window and past is not None else past
    if channels_last:
        x = x.flatten(2).mT
        past = None if past is None else past.flatten(2).mT
    before = (weight.shape[-1] - 1) * dilation
    whole = functional.pad(x, (before, 0)) if past is None else torch.cat([past, x], -1)
    y = functional.conv1d(whole, weight, bias, dilation=dilation, groups=weight.shape[0])
    y = y if activation == "none" else functional.silu(y)
    y = torch.unflatten(y.mT, 2, features) if channels_last else y
    if outputs == 1:
        return y
    length = x.shape[-1]
    if not state_window or not before:
        state = whole.narrow(-1, length, before)
        state = state.expand(state_window, *state.shape) if state_window else state
    else:
        # slot j ends with position length - W + j
        tail = functional.pad(whole, (state_window, 0)).narrow(-1, length + 1, before + state_window - 1)
        left = torch.arange(state_window - 1, -1, -1, device=x.device)
        state = torch.where((left < length).unsqueeze(-1), tail.unfold(-1, before, 1), 0.0).movedim(2, 0)
    return y, torch.unflatten(state.mT, -1, features) if channels_last else state


def gated_delta_net(
    query: Tensor,
    key: Maybe = None,
    value: Maybe = None,
    bounds: Maybe = None,
    decay: Maybe = None,
    beta: Maybe = None,
    past: Maybe = None,
    a_log: Maybe = None,
    dt_bias: Maybe = None,
    captured: Maybe = None,
    active: Maybe = None,
    *,
    beta_activation: str = "none",
    chunk_size: int = 64,
    gate_activation: str = "none",
    qk_l2_norm: int = 0,
    scale: float = 0.0,
    state_update_capacity: int = 0,
    update_rule: str = "gated_delta",
    outputs: int,
) -> object:
    """Query and key [batch * sequence, heads, key] and value [.., value heads, value], or [batch, sequence, ...], or
    all of them in the query as one row a token; sequences of one length.

    The state is [batch, value heads, value, key]: what LinearAttention has, transposed. Norms are of L2, where the sum
    of squares is increased by 1e-6.
    """
    if bounds is not None:
        raise ValueError("cu_seqlens is not lowered; give sequences of one length, [batch, sequence, heads, head]")
    for name, given, known in (
        ("gate_activation", gate_activation, ("none", "qwen")),
        ("beta_activation", beta_activation, ("none", "sigmoid")),
    ):
        if given not in known:
            raise ValueError(f"{name} is {given!r}, expected {' or '.join(known)}")
    if state_update_capacity:
        raise ValueError("state_update_capacity is of speculative decoding; export the model without it")
    if key is None or value is None:
        query, key, value = _apart(query, past)
    ragged = query.dim() == 3
    batch = past.shape[0] if past is not None else query.shape[0]
    if ragged and past is None:
        raise ValueError("without initial_state nothing says how many sequences there are")
    heads = value.shape[-2]

    def rows(x: Tensor) -> Tensor:
        """[batch, sequence, features]"""
        return (torch.unflatten(x, 0, (batch, -1)) if ragged else x).flatten(2)

    if qk_l2_norm:
        query, key = (part * torch.rsqrt(part.square().sum(-1, keepdim=True) + _LEAST) for part in (query, key))
    if gate_activation == "qwen":
        if decay is None or a_log is None or dt_bias is None:
            raise ValueError("gate_activation 'qwen' needs decay, a_log and dt_bias")
        decay = -a_log.exp() * functional.softplus(decay + dt_bias)
    if beta_activation == "sigmoid" and beta is not None:
        beta = torch.sigmoid(beta)
    query, key = (part.repeat_interleave(heads // part.shape[-2], -2) for part in (query, key))
    found = linear_attention(
        rows(query),
        rows(key),
        rows(value),
        None if past is None else past.mT,
        None if decay is None else rows(decay),
        None if beta is None else rows(beta),
        q_num_heads=heads,
        kv_num_heads=heads,
        scale=scale,
        update_rule=update_rule,
        outputs=2,
    )
    assert isinstance(found, tuple)
    y = found[0].reshape(value.shape)
    return y if outputs == 1 else (y, found[1].mT)


def _apart(packed: Tensor, past: Maybe) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, one head an axis, out of rows that hold all three."""
    if past is None:
        raise ValueError("a packed query needs initial_state, which says how wide its parts are")
    _, heads, value, key = past.shape
    wide = (packed.shape[-1] - heads * value) // 2
    parts = torch.split(packed, [wide, wide, heads * value], -1)
    return tuple(torch.unflatten(part, -1, (-1, size)) for part, size in zip(parts, (key, key, value), strict=True))  # type: ignore[return-value]


RECURRENCE: Table = standard(
    {
        "LinearAttention": Lowering(function=linear_attention_windowed, many=True),
        "LinearAttentionGate": Lowering(function=linear_attention_gate, many=True),
        "CausalConvWithState": Lowering(function=causal_conv_with_state, many=True),
        "GatedDeltaNet": Lowering(function=gated_delta_net, many=True),
    },
    domain="com.microsoft",
)
