"""Activations and products with what was fused to them (domain com.microsoft)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional

from ...lowering import Lowering, Table, standard
from ..axes import placed
from ..linear import conv, gemm

Tensor = torch.Tensor
Maybe = torch.Tensor | None
Ints = Sequence[int]

# name -> (function of x, alpha, beta; their defaults)
_ACTIVATIONS: dict[str, tuple[Callable[[Tensor, float, float], Tensor], float, float]] = {
    "relu": (lambda x, a, b: torch.relu(x), 0.0, 0.0),
    "tanh": (lambda x, a, b: torch.tanh(x), 0.0, 0.0),
    "sigmoid": (lambda x, a, b: torch.sigmoid(x), 0.0, 0.0),
    "gelu": (lambda x, a, b: functional.gelu(x), 0.0, 0.0),
    "softplus": (lambda x, a, b: functional.softplus(x), 0.0, 0.0),
    "softsign": (lambda x, a, b: functional.softsign(x), 0.0, 0.0),
    "silu": (lambda x, a, b: functional.silu(x), 0.0, 0.0),
    "hardswish": (lambda x, a, b: functional.hardswish(x), 0.0, 0.0),
    "leakyrelu": (lambda x, a, b: torch.where(x < 0, a * x, x), 0.01, 0.0),
    "thresholdedrelu": (lambda x, a, b: torch.where(x > a, x, 0.0), 1.0, 0.0),
    "elu": (lambda x, a, b: functional.elu(x, a), 1.0, 0.0),
    "clip": (lambda x, a, b: torch.clamp(x, a, b), float("-inf"), float("inf")),
    "hardsigmoid": (lambda x, a, b: torch.clamp(a * x + b, 0, 1), 0.2, 0.5),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), 1.0, 1.0),
    "parametricsoftplus": (lambda x, a, b: a * functional.softplus(b * x), 1.0, 1.0),
}


def activated(x: Tensor, name: str, parameters: Sequence[float] = ()) -> Tensor:
    """A fused activation by its ONNX name, "" for none; missing parameters take ONNX's defaults."""
    if not name:
        return x
    if name.lower() not in _ACTIVATIONS:
        raise ValueError(f"no activation {name!r}; there are {', '.join(_ACTIVATIONS)}")
    function, alpha, beta = _ACTIVATIONS[name.lower()]
    given = [*parameters, *(alpha, beta)[len(parameters) :]]
    return function(x, given[0], given[1])


def bias_gelu(x: Tensor, bias: Maybe = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias)


def fast_gelu(x: Tensor, bias: Maybe = None) -> Tensor:
    return functional.gelu(x if bias is None else x + bias, approximate="tanh")


def quick_gelu(x: Tensor, *, alpha: float = 1.702) -> Tensor:
    return x * torch.sigmoid(alpha * x)


def scaled_silu(x: Tensor, scale: Maybe = None, *, alpha: float = 1.0) -> Tensor:
    return functional.silu(x * (alpha if scale is None else scale.to(x.dtype)))


def bias_split_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """The left half of x + bias times the Gelu of its right half."""
    left, right = (x + bias).chunk(2, -1)
    return left * functional.gelu(right)


def bias_add(x: Tensor, bias: Tensor, skip: Tensor) -> Tensor:
    return x + bias + skip


def bias_dropout(
    x: Tensor,
    bias: Tensor,
    residual: Maybe = None,
    ratio: object = 0.5,
    training: object = False,
    *,
    seed: int = 0,
    outputs: int,
) -> object:
    """x + bias + residual: nothing is dropped, as in inference."""
    if isinstance(training, Tensor) or training not in (False, [False], None):
        raise ValueError("dropout in training mode is random; set training_mode to false")
    total = x + bias
    y = total if residual is None else total + residual
    return y if outputs == 1 else (y, torch.ones_like(x, dtype=torch.bool))


def bitmask_bias_dropout(
    x: Tensor,
    bias: Tensor,
    residual: Maybe = None,
    ratio: object = 0.5,
    training: object = False,
    *,
    seed: int = 0,
    outputs: int,
) -> object:
    """BiasDropout with its mask in bits, all of them set."""
    y = bias_dropout(x, bias, residual, ratio, training, outputs=1)
    return y if outputs == 1 else (y, _ones(x))


def bitmask_dropout(x: Tensor, ratio: object = 0.5, training: object = False, *, seed: int = 0, outputs: int) -> object:
    """x as it is, as in inference."""
    y = bias_dropout(x, torch.zeros((), dtype=x.dtype, device=x.device), None, ratio, training, outputs=1)
    return y if outputs == 1 else (y, _ones(x))


def _ones(x: Tensor) -> Tensor:
    """A set bit for each element, uint32 [elements / 32] rounded up."""
    return torch.full(((x.numel() + 31) // 32,), -1, dtype=torch.int32, device=x.device).view(torch.uint32)


def bias_softmax(x: Tensor, bias: Tensor, *, axis: int = 1, is_inner_broadcast: int) -> Tensor:
    """Softmax over all axes from `axis` on, as one. A bias of lower rank either leaves out leading axes, or lacks the
    axes between its own leading ones and `axis`."""
    place = placed(axis, x.dim())
    if bias.dim() < x.dim() and is_inner_broadcast:
        kept = bias.dim() - (x.dim() - place)
        bias = bias.reshape(*bias.shape[:kept], *[1] * (place - kept), *bias.shape[kept:])
    return torch.softmax((x + bias).flatten(place), -1).reshape(x.shape)


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
    left = left.mT if trans_a and left.dim() > 1 else left
    right = right.mT if trans_b and right.dim() > 1 else right
    return left @ right if alpha == 1 else alpha * (left @ right)


def fused_matmul_activation(
    a: Tensor,
    b: Tensor,
    *,
    activation: str,
    activation_alpha: float | None = None,
    activation_axis: int = -1,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
    alpha: float = 1.0,
    trans_a: int = 0,
    trans_b: int = 0,
    trans_batch_a: int = 0,
    trans_batch_b: int = 0,
) -> Tensor:
    y = fused_matmul(
        a,
        b,
        alpha=alpha,
        trans_a=trans_a,
        trans_b=trans_b,
        trans_batch_a=trans_batch_a,
        trans_batch_b=trans_batch_b,
    )
    if activation == "Softmax":
        return torch.softmax(y, activation_axis)
    return activated(y, activation, _given(activation_alpha, activation_beta))


def _given(*parameters: float | None) -> list[float]:
    return [value for value in parameters if value is not None]


def fused_gemm(
    a: Tensor,
    b: Tensor,
    c: Maybe = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    trans_a: int = 0,
    trans_b: int = 0,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
    activation_gamma: float | None = None,
) -> Tensor:
    y = gemm(a, b, c, alpha=alpha, beta=beta, trans_a=trans_a, trans_b=trans_b)
    return activated(y, activation, _given(activation_alpha, activation_beta))


def gemm_fast_gelu(x: Tensor, weight: Tensor, bias: Maybe = None) -> Tensor:
    return fast_gelu(x @ weight, bias)


def fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Maybe = None,
    residual: Maybe = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] | None = None,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """activation(conv(x) + bias + residual)"""
    y = conv(
        x,
        weight,
        bias,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return activated(y if residual is None else y + residual, activation, activation_params or ())


def nhwc_fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Maybe = None,
    residual: Maybe = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] | None = None,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """The same with the channels of x, the residual and the result last; the weight stays [out, in / group, ...]."""
    y = fused_conv(
        x.movedim(-1, 1),
        weight,
        bias,
        None if residual is None else residual.movedim(-1, 1),
        activation=activation,
        activation_params=activation_params,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return y.movedim(1, -1)


ARITHMETIC: Table = standard(
    {
        "Gelu": bias_gelu,
        "BiasGelu": bias_gelu,
        "FastGelu": fast_gelu,
        "QuickGelu": quick_gelu,
        "ScaledSiLU": scaled_silu,
        "BiasSplitGelu": bias_split_gelu,
        "BiasAdd": bias_add,
        "BiasDropout": Lowering(function=bias_dropout, many=True, numbers=(3, 4)),
        "BitmaskDropout": Lowering(function=bitmask_dropout, many=True, numbers=(1, 2)),
        "BitmaskBiasDropout": Lowering(function=bitmask_bias_dropout, many=True, numbers=(3, 4)),
        "BiasSoftmax": bias_softmax,
        "FusedMatMul": fused_matmul,
        "TransposeMatMul": fused_matmul,
        "FusedMatMulActivation": fused_matmul_activation,
        "FusedGemm": fused_gemm,
        "GemmFastGelu": gemm_fast_gelu,
        "FusedConv": fused_conv,
        "NhwcConv": nhwc_fused_conv,
        "NhwcFusedConv": nhwc_fused_conv,
    },
    domain="com.microsoft",
)
