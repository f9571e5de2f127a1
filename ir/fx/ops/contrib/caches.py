"""What GroupQueryAttention may do to its cache: hold it in 8 or 4 bits, or only the last places of it.

Caches are [batch, key heads, places, head]; with 4 bits two features share a byte, the first in its low bits, 8 more
than they are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from ...dtypes import FLOAT8
from .masks import Maybe, Tensor
from .nbits import unpack

_MIDDLE = 8


class Format(NamedTuple):
    """How a cache holds floats: its scale [1], or one for each feature of each head, None where it holds them as they
    are."""

    scale: Maybe
    per_channel: bool
    bits: int

    @classmethod
    def of(cls, kind: str, scale: Maybe, bits: int) -> Format:
        if kind not in ("NONE", "PER_TENSOR", "PER_CHANNEL"):
            raise ValueError(f"a cache is of quantization type NONE, PER_TENSOR or PER_CHANNEL, not {kind!r}")
        if kind != "NONE" and scale is None:
            raise ValueError("a quantized cache needs its scale")
        if bits not in (0, 4, 8):
            raise ValueError(f"kv_cache_bit_width is {bits}; expected 4 or 8")
        return cls(None if kind == "NONE" else scale, kind == "PER_CHANNEL", bits or 8)

    def stored(self, x: Tensor, past: Maybe) -> Tensor:
        """Floats [batch, key heads, places, head] as the cache holds them."""
        if self.scale is None:
            return x
        wide = x / self._unit(x)
        if past is not None and past.is_floating_point():
            most = torch.finfo(past.dtype).max
            return wide.clamp(-most, most).to(past.dtype)
        if self.bits == 8:
            return torch.round(wide).clamp(-128, 127).to(torch.int8)
        codes = (torch.round(wide).clamp(-_MIDDLE, _MIDDLE - 1) + _MIDDLE).to(torch.uint8)
        return codes[..., 0::2] | (codes[..., 1::2] << 4)

    def read(self, held: Tensor, dtype: torch.dtype) -> Tensor:
        """The floats that a cache stands for."""
        if self.scale is None:
            return held
        wide = (unpack(held, 4).to(dtype) - _MIDDLE) if self.bits == 4 else held.to(dtype)
        return wide * self._unit(wide)

    def _unit(self, x: Tensor) -> Tensor:
        assert self.scale is not None
        scale = self.scale.to(x.dtype)
        return scale.reshape(1, x.shape[1], 1, x.shape[3]) if self.per_channel else scale.reshape(())


class Window(NamedTuple):
    """A cache of some capacity C that keeps at least the last W places, in order, from row 0 on.

    After T tokens it has L(T) = T rows while they fit; beyond, C - W + 1 are dropped at a time. `before` and `after`
    [batch, 1] are the tokens there were and are now.
    """

    before: Tensor
    after: Tensor
    capacity: int
    width: int

    def _rows(self, total: Tensor) -> Tensor:
        step = self.capacity - self.width + 1
        over = (total - self.capacity).clamp(min=0)
        return total - step * torch.div(over + step - 1, step, rounding_mode="floor")

    def places(self, fresh: int) -> tuple[Tensor, Tensor]:
        """The absolute place of each cached row and of the `fresh` ones behind them, [batch, rows], and whether there
        is one."""
        row = torch.arange(self.capacity, device=self.before.device)
        held = self._rows(self.before)
        new = self.before + torch.arange(fresh, device=self.before.device)
        real = torch.cat([row < held, torch.ones_like(new, dtype=torch.bool)], 1)
        return torch.cat([self.before - held + row, new], 1), real

    def kept(self, whole: Tensor) -> Tensor:
        """The cache after this step, out of the cached and the fresh rows together; rows beyond it are zero."""
        if whole.dtype in FLOAT8:
            return self.kept(whole.view(torch.uint8)).view(whole.dtype)
        row = torch.arange(self.capacity, device=whole.device)
        held = self._rows(self.after)
        place = self.after - held + row
        first = self.before - self._rows(self.before)
        source = torch.where(place < self.before, place - first, self.capacity + place - self.before)
        index = source.clamp(0)[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[3])
        there = (row < held)[:, None, :, None]
        taken = torch.gather(functional.pad(whole, (0, 0, 0, self.capacity)), 2, index)
        return torch.where(there, taken, torch.zeros_like(taken))
