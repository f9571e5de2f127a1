"""Normalizations and softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from .dtypes import torch_dtype
from .lowering import Lowering, Table, merged, standard

_FLOAT = 1


def layer_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = _FLOAT,
    outputs: int,
) -> object:
    """Over all axes from `axis` on; the optional outputs are the mean and the inverse standard deviation."""
    place = axis % x.dim()
    dims = x.shape[place:]
    weight = scale if scale.shape == dims else scale.expand(dims)
    offset = bias if bias is None or bias.shape == dims else bias.expand(dims)
    y = functional.layer_norm(x, dims, weight, offset, epsilon)
    if outputs == 1:
        return y
    axes = list(range(place, x.dim()))
    wide = x.to(torch_dtype(stash_type))
    mean = wide.mean(axes, keepdim=True)
    inverse = torch.rsqrt((wide - mean).square().mean(axes, keepdim=True) + epsilon)
    return y, mean, inverse


def rms_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = _FLOAT,
) -> torch.Tensor:
    """x / rms(x) * scale over all axes from `axis` on."""
    dims = x.shape[axis % x.dim() :]
    return functional.rms_norm(x, dims, scale if scale.shape == dims else scale.expand(dims), epsilon)


def batch_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
    spatial: int = 1,
    outputs: int,
) -> object:
    """Per channel (axis 1) with the given statistics, or with the batch's own in training mode."""
    if not training_mode:
        return functional.batch_norm(x, mean, variance, scale, bias, False, 0.0, epsilon)
    axes = [i for i in range(x.dim()) if i != 1]
    batch_mean, batch_variance = x.mean(axes), x.var(axes, correction=0)
    y = functional.batch_norm(x, batch_mean, batch_variance, scale, bias, False, 0.0, epsilon)
    running = (
        mean * momentum + batch_mean * (1 - momentum),
        variance * momentum + batch_variance * (1 - momentum),
    )
    return y if outputs == 1 else (y, *running)


def instance_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, epsilon: float = 1e-5) -> torch.Tensor:
    return functional.group_norm(x, x.shape[1], scale, bias, epsilon)


def group_norm(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    num_groups: int,
    stash_type: int = _FLOAT,
) -> torch.Tensor:
    """Scale and bias per channel (opset 21) or per group (opset 18)."""
    channels = x.shape[1]
    if scale.shape[0] != channels:
        repeats = channels // num_groups
        scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
    return functional.group_norm(x, num_groups, scale, bias, epsilon)


def lp_norm(x: torch.Tensor, *, axis: int = -1, p: int = 2) -> torch.Tensor:
    """A vector of length zero stays zero."""
    length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(length == 0, 0.0, x / length)


def mean_variance_norm(x: torch.Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> torch.Tensor:
    centred = x - x.mean(list(axes), keepdim=True)
    return centred / (centred.square().mean(list(axes), keepdim=True).sqrt() + 1e-9)


def local_response_norm(
    x: torch.Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> torch.Tensor:
    """Each channel divided by the squares of its `size` neighbours."""
    channels = x.shape[1]
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    squares = torch.cat([torch.zeros_like(x[:, :1])] * before + [x * x] + [torch.zeros_like(x[:, :1])] * after, 1)
    window = sum((squares.narrow(1, i, channels) for i in range(size)), torch.zeros_like(x))
    return x / (bias + alpha / size * window) ** beta


def softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    return torch.softmax(x, axis)


def log_softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    return torch.log_softmax(x, axis)


def hardmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """One at the first of the largest values, zero elsewhere."""
    return torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1)


def _coerced(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Before opset 13 all axes from `axis` on count as one."""
    return x.flatten(axis % x.dim())


def softmax_1(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    return torch.softmax(_coerced(x, axis), -1).reshape(x.shape)


def log_softmax_1(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    return torch.log_softmax(_coerced(x, axis), -1).reshape(x.shape)


def hardmax_1(x: torch.Tensor, *, axis: int = 1) -> torch.Tensor:
    return hardmax(_coerced(x, axis)).reshape(x.shape)


NORM: Table = merged(
    standard(
        {
            "LayerNormalization": Lowering(function=layer_norm, many=True),
            "RMSNormalization": rms_norm,
            "BatchNormalization": Lowering(function=batch_norm, many=True),
            "InstanceNormalization": instance_norm,
            "GroupNormalization": group_norm,
            "LpNormalization": lp_norm,
            "MeanVarianceNormalization": mean_variance_norm,
            "LRN": local_response_norm,
            "Softmax": softmax_1,
            "LogSoftmax": log_softmax_1,
            "Hardmax": hardmax_1,
        }
    ),
    standard({"Softmax": softmax, "LogSoftmax": log_softmax, "Hardmax": hardmax}, since=13),
)
