"""Normalizations and softmax."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from ..dtypes import torch_dtype
from ..lowering import Lowering, Table, merged, standard

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


def batch_norm_7(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
    outputs: int,
) -> object:
    """Training is asked for by wanting the statistics: the running mean and variance, then the batch's own.

    Where not `spatial`, each element of [channels, ...] is a channel of its own.
    """
    if spatial:
        return _trained(x, (scale, bias, mean, variance), epsilon, momentum, outputs > 1, outputs)
    parts = [part.reshape(-1) for part in (scale, bias, mean, variance)]
    found = _trained(x.flatten(1), parts, epsilon, momentum, outputs > 1, outputs)
    if isinstance(found, torch.Tensor):
        return found.reshape(x.shape)
    return (found[0].reshape(x.shape), *(part.reshape(scale.shape) for part in found[1:]))


def batch_norm_9(
    x: torch.Tensor,
    scale: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    outputs: int,
) -> object:
    """As in opset 7, always per channel."""
    return _trained(x, (scale, bias, mean, variance), epsilon, momentum, outputs > 1, outputs)


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
    outputs: int,
) -> object:
    """Per channel (axis 1) with the given statistics, or with the batch's own in training mode."""
    return _trained(x, (scale, bias, mean, variance), epsilon, momentum, bool(training_mode), outputs)


def _trained(
    x: torch.Tensor, given: Sequence[torch.Tensor], epsilon: float, momentum: float, training: bool, outputs: int
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """`given` are scale, bias, mean and variance; the result is Y, or Y, the running statistics and the batch's own."""
    scale, bias, mean, variance = given
    data = x if x.dim() > 1 else x.unsqueeze(1)
    # statistics may be of a wider type than what they are statistics of
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    now_mean, now_variance = mean, variance
    if training:
        axes = [i for i in range(data.dim()) if i != 1]
        now_mean, now_variance = data.to(wide).mean(axes), data.to(wide).var(axes, correction=0)
    dims = [-1, *[1] * (data.dim() - 2)]
    none = isinstance(data.shape[1], int) and data.shape[1] == 0
    if none or (torch.is_grad_enabled() and (now_mean.requires_grad or now_variance.requires_grad)):
        # torch's kernel has no derivative by the statistics, and does not take no channels
        factor = (now_variance.to(wide) + epsilon).rsqrt() * scale.to(wide)
        offset = bias.to(wide) - now_mean.to(wide) * factor
        y = (data.to(wide) * factor.reshape(dims) + offset.reshape(dims)).to(x.dtype)
    else:
        # statistics that are weights reach the kernel as numbers, in an exported program that is trained further too
        at, spread, factor, offset = now_mean.detach(), now_variance.detach(), scale, bias
        if any(part.dtype != x.dtype for part in (at, spread, factor, offset)):
            data, at, spread, factor, offset = (part.to(wide) for part in (data, at, spread, factor, offset))
        y = functional.batch_norm(data, at, spread, factor, offset, False, 0.0, epsilon)
        y = y if y.dtype == x.dtype else y.to(x.dtype)
    y = y.reshape(x.shape)
    if outputs == 1:
        return y
    running = [mean * momentum + now_mean.to(mean.dtype) * (1 - momentum)]
    running.append(variance * momentum + now_variance.to(variance.dtype) * (1 - momentum))
    return (y, *running, now_mean.to(mean.dtype), now_variance.to(variance.dtype))[:outputs]


def instance_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, epsilon: float = 1e-5) -> torch.Tensor:
    if isinstance(x.shape[1], int) and x.shape[1] == 0:
        return torch.zeros_like(x)
    # not functional.group_norm, which refuses channels of one element
    return torch.group_norm(x, x.shape[1], scale, bias, epsilon)


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
    if p not in (1, 2):
        raise ValueError(f"p is {p}, expected 1 or 2")
    length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(length == 0, 1.0, length)


def mean_variance_norm(x: torch.Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> torch.Tensor:
    centred = x - x.mean(list(axes), keepdim=True)
    return centred / (centred.square().mean(list(axes), keepdim=True).sqrt() + 1e-9)


def local_response_norm(
    x: torch.Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> torch.Tensor:
    """Each channel divided by the squares of its `size` neighbours."""
    if isinstance(x.shape[1], int) and x.shape[1] == 0:
        return x
    deep = x.dim() - 2
    before = (size - 1) // 2
    squares = functional.pad(x * x, [0, 0] * deep + [before, size - 1 - before])
    window = squares.unfold(1, size, 1).sum(-1)
    return x / (bias + alpha / size * window) ** beta


def softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    return torch.softmax(x, axis)


def log_softmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    return torch.log_softmax(x, axis)


def hardmax(x: torch.Tensor, *, axis: int = -1) -> torch.Tensor:
    """One at the first of the largest values, zero elsewhere."""
    if isinstance(x.shape[axis], int) and x.shape[axis] == 0:
        return torch.zeros_like(x)
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
            "BatchNormalization": Lowering(function=batch_norm_7, many=True),
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
    standard({"BatchNormalization": Lowering(function=batch_norm_9, many=True)}, since=9),
    standard({"BatchNormalization": Lowering(function=batch_norm, many=True)}, since=14),
    standard({"Softmax": softmax, "LogSoftmax": log_softmax, "Hardmax": hardmax}, since=13),
)
