"""Random numbers.

With a seed they are the same in each run and on each device: those of numpy's `RandomState`, which ONNX's reference
evaluator and tests use. Without one they come from torch's generator, as `torch.manual_seed` leaves it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..dtypes import torch_dtype
from ..lowering import Lowering, Table, merged, standard

Number = torch.Tensor | float | list[float]


@torch.library.custom_op(
    "tersor::seeded", mutates_args=(), schema="(SymInt[] shape, int seed, bool normal, Device device) -> Tensor"
)
def _seeded(shape: Sequence[int], seed: int, normal: bool, device: torch.device) -> torch.Tensor:
    """Uniform in [0, 1) or standard normal, in float64. An op of its own, so that torch.export leaves it whole."""
    state = np.random.RandomState(seed)
    values = state.standard_normal(tuple(shape)) if normal else state.random_sample(tuple(shape))
    return torch.from_numpy(np.asarray(values)).to(device)


@_seeded.register_fake
def _(shape: Sequence[int], seed: int, normal: bool, device: torch.device) -> torch.Tensor:
    return torch.empty(tuple(shape), dtype=torch.float64, device=device)


def _draw(
    shape: Sequence[int], seed: float | None, dtype: torch.dtype, device: torch.device | None, *, normal: bool = False
) -> torch.Tensor:
    if seed is None or math.isnan(seed):
        make = torch.randn if normal else torch.rand
        return make(list(shape), dtype=dtype, device=device)
    # a RandomState is seeded with 32 bits
    drawn: torch.Tensor = _seeded(list(shape), int(seed) % 2**32, normal, device or torch.device("cpu"))
    return drawn.to(dtype)


def random_normal(
    *,
    shape: tuple[int, ...],
    dtype: int = 1,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float | None = None,
    like: torch.Tensor | None = None,
) -> torch.Tensor:
    device = None if like is None else like.device
    return _draw(shape, seed, torch_dtype(dtype), device, normal=True) * scale + mean


def random_uniform(
    *,
    shape: tuple[int, ...],
    dtype: int = 1,
    low: float = 0.0,
    high: float = 1.0,
    seed: float | None = None,
    like: torch.Tensor | None = None,
) -> torch.Tensor:
    device = None if like is None else like.device
    return _draw(shape, seed, torch_dtype(dtype), device) * (high - low) + low


def random_normal_like(
    x: torch.Tensor, *, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0, seed: float | None = None
) -> torch.Tensor:
    kind = x.dtype if dtype is None else torch_dtype(dtype)
    return _draw(x.shape, seed, kind, x.device, normal=True) * scale + mean


def random_uniform_like(
    x: torch.Tensor, *, dtype: int | None = None, low: float = 0.0, high: float = 1.0, seed: float | None = None
) -> torch.Tensor:
    kind = x.dtype if dtype is None else torch_dtype(dtype)
    return _draw(x.shape, seed, kind, x.device) * (high - low) + low


def bernoulli(x: torch.Tensor, *, dtype: int | None = None, seed: float | None = None) -> torch.Tensor:
    """One with probability x, else zero."""
    drawn = _draw(x.shape, seed, torch.float64, x.device)
    p = x.double()
    # numpy inverts the distribution of the rarer of the two outcomes
    return torch.where(p > 0.5, drawn <= p, drawn > 1 - p).to(x.dtype if dtype is None else torch_dtype(dtype))


def multinomial(x: torch.Tensor, *, dtype: int = 6, sample_size: int = 1, seed: float | None = None) -> torch.Tensor:
    """Classes drawn by their unnormalized log-probabilities: [batch, classes] -> [batch, samples]."""
    total = x.double().softmax(-1).cumsum(-1)
    drawn = _draw((x.shape[0], sample_size), seed, torch.float64, x.device)
    # the last sum may round to less than one
    return torch.searchsorted(total[:, :-1].contiguous(), drawn, right=True).to(torch_dtype(dtype))


def dropout_7(x: torch.Tensor, *, ratio: float = 0.5, outputs: int) -> object:
    """Inference, which is all there is before opset 12: x itself, and a mask of its type that keeps all of it."""
    return x if outputs == 1 else (x, torch.ones_like(x))


def dropout_10(x: torch.Tensor, *, ratio: float = 0.5, outputs: int) -> object:
    return x if outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool))


def dropout(
    x: torch.Tensor,
    ratio: Number | None = 0.5,
    training: Number | bool | list[bool] = False,
    *,
    seed: int | None = None,
    outputs: int,
) -> object:
    """In training each element is dropped with probability `ratio` and the others scaled by 1 / (1 - ratio).

    Returns the result, and where asked for the mask of what was kept.
    """
    rate, learns = _scalar(0.5 if ratio is None else ratio), _scalar(training)
    if not isinstance(learns, torch.Tensor) and (not learns or (not isinstance(rate, torch.Tensor) and rate == 0)):
        return dropout_10(x, outputs=outputs)
    if not isinstance(rate, torch.Tensor) and not 0 <= rate < 1:
        raise ValueError(f"ratio is {rate}; expected 0 or more and less than 1")
    kept = _draw(x.shape, seed, torch.float64, x.device) >= rate
    scale = 1 / (1 - rate)
    if isinstance(learns, torch.Tensor):
        kept, scale = kept | ~learns, torch.where(learns, scale, 1)
    result = torch.where(kept, x * (scale.to(x.dtype) if isinstance(scale, torch.Tensor) else scale), 0)
    return result if outputs == 1 else (result, kept)


def _scalar(value: object) -> torch.Tensor | float:
    while isinstance(value, list):
        value = value[0]
    assert isinstance(value, torch.Tensor | int | float)
    return value.reshape(()) if isinstance(value, torch.Tensor) else value


RANDOM: Table = merged(
    standard(
        {
            "RandomNormal": Lowering(function=random_normal, like=True),
            "RandomUniform": Lowering(function=random_uniform, like=True),
            "RandomNormalLike": random_normal_like,
            "RandomUniformLike": random_uniform_like,
            "Multinomial": multinomial,
            "Dropout": Lowering(function=dropout_7, many=True),
        }
    ),
    standard({"Dropout": Lowering(function=dropout_10, many=True)}, since=10),
    standard({"Dropout": Lowering(function=dropout, numbers=(1, 2), many=True)}, since=12),
    standard({"Bernoulli": bernoulli}, since=15),
)
