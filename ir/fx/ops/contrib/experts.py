"""Mixtures of experts, float and with integer weights (domain com.microsoft).

Tokens are [tokens, hidden]. Every expert sees every token and the router's weight, zero for most, decides what stays:
one batched product, no sizes that depend on the data.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ...lowering import Table, standard
from .nbits import dequantized, unpack

Tensor = torch.Tensor
Maybe = torch.Tensor | None
_SEPARATE, _INTERLEAVED = 0, 1


def routed(probabilities: Tensor, count: int, normalize: int, weights: Maybe = None) -> Tensor:
    """The share of each expert in each token, [tokens, experts], zero for all but `count` of them.

    The shares are the softmax over the chosen ones where `normalize`, else the softmax over all.
    """
    wide = torch.float64 if probabilities.dtype is torch.float64 else torch.float32
    if not 1 <= count <= probabilities.shape[-1]:
        raise ValueError(f"k is {count}; expected 1 to {probabilities.shape[-1]}, the number of experts")
    best, place = probabilities.to(wide).topk(count, -1)
    if weights is not None:
        share = weights.to(wide).gather(-1, place)
        share = share / share.sum(-1, keepdim=True) if normalize else share
    elif normalize:
        share = torch.softmax(best, -1)
    else:
        share = torch.softmax(probabilities.to(wide), -1).gather(-1, place)
    return torch.zeros_like(probabilities, dtype=wide).scatter(-1, place, share).to(probabilities.dtype)


def _between(
    first: Tensor, third: Maybe, kind: str, fusion: int, alpha: float, beta: float, limit: float | None
) -> Tensor:
    """The activation between the two products; SwiGLU takes its gate and its value out of one or two of them."""
    if kind != "swiglu":
        functions = {"relu": torch.relu, "gelu": _gelu, "silu": functional.silu, "identity": torch.clone}
        if kind not in functions:
            raise ValueError(f"no activation_type {kind!r}; there are swiglu, {', '.join(functions)}")
        y = functions[kind](first)
        return y if third is None else y * third
    if third is not None and fusion == _SEPARATE:
        gate, value = first, third
    elif fusion == _INTERLEAVED:
        gate, value = first[..., 0::2], first[..., 1::2]
    else:
        gate, value = first.chunk(2, -1)
    if limit is not None:
        gate, value = gate.clamp(max=limit), value.clamp(-limit, limit)
    return gate * torch.sigmoid(alpha * gate) * (value + beta)


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def _times(x: Tensor, weight: Tensor, bias: Maybe) -> Tensor:
    """[experts or 1, tokens, in] times [experts, out, in]"""
    y = x @ weight.mT
    return y if bias is None else y + bias.unsqueeze(1)


def moe(
    x: Tensor,
    router: Tensor,
    first: Tensor,
    first_bias: Maybe,
    second: Tensor,
    second_bias: Maybe = None,
    third: Maybe = None,
    third_bias: Maybe = None,
    *,
    k: int = 1,
    activation_type: str = "relu",
    activation_alpha: float = 1.0,
    activation_beta: float = 0.0,
    normalize_routing_weights: int = 0,
    swiglu_fusion: int = 0,
    swiglu_limit: float | None = None,
    use_sparse_mixer: int = 0,
    router_weights: Maybe = None,
) -> Tensor:
    """x [tokens, hidden] or [batch, sequence, hidden]; weights [experts, out, in]."""
    if use_sparse_mixer:
        raise ValueError("use_sparse_mixer is not lowered; export the router as ops of its own")
    tokens = x.reshape(1, -1, x.shape[-1])
    shares = routed(router, k, normalize_routing_weights, router_weights)
    gated = _between(
        _times(tokens, first, first_bias),
        None if third is None else _times(tokens, third, third_bias),
        activation_type,
        swiglu_fusion,
        activation_alpha,
        activation_beta,
        swiglu_limit,
    )
    y = _times(gated, second, second_bias)
    return (y * shares.T.unsqueeze(-1)).sum(0).reshape(x.shape)


def qmoe(
    x: Tensor,
    router: Tensor,
    first: Tensor,
    first_scale: Tensor,
    first_bias: Maybe,
    second: Tensor,
    second_scale: Tensor,
    second_bias: Maybe = None,
    third: Maybe = None,
    third_scale: Maybe = None,
    third_bias: Maybe = None,
    first_zero: Maybe = None,
    second_zero: Maybe = None,
    third_zero: Maybe = None,
    router_weights: Maybe = None,
    *,
    k: int = 1,
    expert_weight_bits: int = 4,
    fc1_expert_weight_bits: int = 0,
    fc2_expert_weight_bits: int = 0,
    fc3_expert_weight_bits: int = 0,
    block_size: int = 0,
    quant_type: str = "int",
    accuracy_level: int = 0,
    weights_prepacked: int = -1,
    activation_type: str = "relu",
    activation_alpha: float = 1.0,
    activation_beta: float = 0.0,
    normalize_routing_weights: int = 0,
    swiglu_fusion: int = 0,
    swiglu_limit: float | None = None,
    use_sparse_mixer: int = 0,
) -> Tensor:
    """MoE with weights [experts, out, in * bits / 8]; one scale a row, or one a block of `block_size` inputs.

    ONNX Runtime's CPU kernel (1.31) normalizes the routing weights whether it is asked to or not; MoE's does not.
    """
    if quant_type != "int":
        raise ValueError(f"quant_type {quant_type!r} is not lowered; use 'int'")
    if weights_prepacked == 1:
        raise ValueError("weights_prepacked is a layout for one device; export the model without it")

    def float_(weight: Tensor, scale: Tensor, zero: Maybe, bits: int) -> Tensor:
        bits = bits or expert_weight_bits
        columns = weight.shape[2] * 8 // bits
        blocks = columns // block_size if block_size else 1
        flat = weight.reshape(-1, blocks, weight.shape[2] // blocks)
        if zero is not None and not block_size:
            # those of whole rows are packed one row after the other
            zero = unpack(zero, bits)[:, : weight.shape[1]].to(scale.dtype)
        zeros = None if zero is None else zero.reshape(flat.shape[0], -1)
        weights = dequantized(flat, scale.reshape(-1, blocks), zeros, None, bits, columns)
        return torch.unflatten(weights, 0, (weight.shape[0], -1))

    return moe(
        x,
        router,
        float_(first, first_scale, first_zero, fc1_expert_weight_bits).to(x.dtype),
        first_bias,
        float_(second, second_scale, second_zero, fc2_expert_weight_bits).to(x.dtype),
        second_bias,
        None
        if third is None or third_scale is None
        else float_(third, third_scale, third_zero, fc3_expert_weight_bits).to(x.dtype),
        third_bias,
        k=k,
        activation_type=activation_type,
        activation_alpha=activation_alpha,
        activation_beta=activation_beta,
        normalize_routing_weights=normalize_routing_weights,
        swiglu_fusion=swiglu_fusion,
        swiglu_limit=swiglu_limit,
        use_sparse_mixer=use_sparse_mixer,
        router_weights=router_weights,
    )


EXPERTS: Table = standard({"MoE": moe, "QMoE": qmoe}, domain="com.microsoft")
