"""Integers of a few bits, several to a byte, in a layout that unpacks by whole runs of bytes.

    bits 3, [rows, 16]  ->  bytes [rows, 4 + 2]        fields of 2 and of 1 bit
    field of b bits of n integers: byte j holds those of the integers j, j + m, j + 2 m, .., m = ceil(n b / 8)

ONNX's planes of bits (`UnpackBits`) and pairs of neighbours unpack element by element; here each shift gives a run.
"""

from __future__ import annotations

import torch

Tensor = torch.Tensor

#: Fields that make up so many bits, the highest first.
FIELDS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def width(size: int, field: int) -> int:
    """Bytes that a field of so many integers takes."""
    return -(-size * field // 8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Integers [.., n], in 0 .. 2^bits - 1 or of two's complement, as bytes [.., m].

    >>> unpack(pack(torch.tensor([[1, -3, 2]], dtype=torch.int8), 3), bits=3, size=3, signed=True).tolist()
    [[1, -3, 2]]
    """
    held, size, left, parts = codes.to(torch.int16), codes.shape[-1], bits, []
    for field in FIELDS[bits]:
        left -= field
        run, count = width(size, field), 8 // field
        values = (held >> left) & ((1 << field) - 1)
        filled = torch.nn.functional.pad(values, (0, run * count - size))
        byte = torch.zeros_like(filled.narrow(-1, 0, run))
        for place in range(count):
            byte |= filled.narrow(-1, place * run, run) << (place * field)
        parts.append(byte)
    return torch.cat(parts, -1).to(torch.uint8)


def unpack(packed: Tensor, *, bits: int, size: int, signed: bool) -> Tensor:
    """The integers [.., size] that `pack` packed, as int8 where they are signed, else uint8."""
    start, left, codes = 0, bits, None
    for field in FIELDS[bits]:
        left -= field
        run, mask = width(size, field), (1 << field) - 1
        held = packed.narrow(-1, start, run)
        start += run
        runs = [(held >> place if place else held) & mask for place in range(0, 8, field)]
        values = torch.cat(runs, -1)
        values = values if values.shape[-1] == size else values.narrow(-1, 0, size)
        values = values << left if left else values
        codes = values if codes is None else codes | values
    assert codes is not None  # there is a field
    if not signed:
        return codes
    # (c ^ h) - h carries the sign of two's complement to the upper bits
    half = 1 << (bits - 1)
    return (codes ^ half).to(torch.int8) - half


def planes(codes: Tensor, bits: int) -> Tensor:
    """Non-negative integers as ONNX models store them, [bits, m]: bit p of integer i is bit i % 8 of byte i // 8 of
    row p.

    >>> planes(torch.tensor([1, 2, 3], dtype=torch.uint8), 2).tolist()
    [[5], [6]]
    """
    flat = codes.flatten()
    filled = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).reshape(-1, 8)
    lanes = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return torch.stack([(((filled >> bit) & 1) << lanes).sum(-1, dtype=torch.uint8) for bit in range(bits)])


def widen(codes: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """codes - zero as floats; whole numbers of 8 bits are exact in every type of floats."""
    wide = codes.to(dtype)
    return wide if zero is None else wide - zero.to(dtype)


def bits_of(codes: Tensor) -> int:
    """The fewest bits that hold integers of int8 or uint8."""
    if not codes.numel():
        return 1
    low, high = (int(each) for each in codes.aminmax())
    return (
        max(1, (-low - 1).bit_length() + 1, high.bit_length() + 1)
        if codes.dtype is torch.int8
        else max(1, high.bit_length())
    )
