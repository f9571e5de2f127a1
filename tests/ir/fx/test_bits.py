"""Integers of a few bits in bytes: what was packed comes back, in no more bytes than it takes."""

from __future__ import annotations

import pytest
import torch
from tersor.ir.fx.kernels.bits import FIELDS, bits_of, pack, unpack, widen, width


def integers(bits: int, *shape: int, signed: bool) -> torch.Tensor:
    low = -(1 << (bits - 1)) if signed else 0
    made = torch.randint(low, low + (1 << bits), shape, generator=torch.Generator().manual_seed(bits))
    return made.to(torch.int8 if signed else torch.uint8)


@pytest.mark.parametrize("bits", FIELDS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", [(5, 64), (3, 2, 13), (1,), (4, 1), (2, 0), (0, 8)])
def test_what_was_packed_comes_back(bits: int, signed: bool, shape: tuple[int, ...]) -> None:
    codes = integers(bits, *shape, signed=signed)
    packed = pack(codes, bits)
    found = unpack(packed, bits=bits, size=shape[-1], signed=signed)
    assert found.dtype is codes.dtype
    assert torch.equal(found, codes)
    assert packed.dtype is torch.uint8
    assert packed.shape[-1] == sum(width(shape[-1], field) for field in FIELDS[bits])


@pytest.mark.parametrize("bits", FIELDS)
def test_fields_are_all_the_bits(bits: int) -> None:
    assert sum(FIELDS[bits]) == bits
    assert pack(integers(bits, 3, 64, signed=False), bits).shape == (3, 8 * bits)


@pytest.mark.parametrize(
    ("values", "bits"),
    [([0], 1), ([1], 1), ([2], 2), ([15], 4), ([255], 8), ([-1, 0], 1), ([-8, 7], 4), ([-9], 5), ([8], 5)],
)
def test_the_fewest_bits(values: list[int], bits: int) -> None:
    signed = min(values) < 0 or values == [8]
    assert bits_of(torch.tensor(values, dtype=torch.int8 if signed else torch.uint8)) == bits
    assert bits_of(torch.empty(0, dtype=torch.int8)) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_whole_numbers_are_exact(dtype: torch.dtype) -> None:
    codes, zero = torch.arange(256, dtype=torch.uint8), torch.tensor(255, dtype=torch.uint8)
    assert torch.equal(widen(codes, zero, dtype).long(), codes.long() - 255)
    assert torch.equal(widen(codes, None, dtype).long(), codes.long())
