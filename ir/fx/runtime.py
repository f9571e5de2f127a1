"""The few functions that carry values between the host and the device at run time."""

from __future__ import annotations

from typing import cast

import torch

from .host import Nested, extent, flat, nest


def as_tensor(value: Nested, dtype: torch.dtype, *, like: torch.Tensor | None = None) -> torch.Tensor:
    """Shape arithmetic as a tensor, on the device of `like`; numbers that the type does not hold wrap around."""
    device = like.device if like is not None else None
    leaves = flat(value)
    known = not any(isinstance(leaf, torch.SymInt | torch.SymBool) for leaf in leaves)
    # a constant inside of a branch cannot be saved (torch 2.13)
    if known and not (torch.compiler.is_exporting() and leaves):
        if dtype is not torch.bool and not all(-(1 << 31) <= int(leaf) < 1 << 31 for leaf in leaves):
            value = nest([_wrapped(int(leaf), torch.iinfo(dtype).bits) for leaf in leaves], extent(value))
        return torch.tensor(value, dtype=dtype, device=device)
    parts = [torch.scalar_tensor(cast(int, leaf), dtype=dtype, device=device) for leaf in leaves]
    return torch.stack(parts).reshape(extent(value)) if isinstance(value, list) else parts[0]


def _wrapped(number: int, bits: int) -> int:
    half = 1 << (bits - 1)
    return (number + half) % (2 * half) - half


def to_ints(tensor: torch.Tensor) -> Nested:
    """A tensor of sizes as Python ints: a synchronisation, and data-dependent under `torch.export`."""
    values: Nested = tensor.tolist()
    return values


def shape(x: torch.Tensor, *, start: int = 0, end: int | None = None) -> list[int]:
    return list(x.shape)[slice(start, end)]


def size(x: torch.Tensor) -> int:
    return x.numel()
