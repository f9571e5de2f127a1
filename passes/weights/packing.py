"""Integers of any few bits, in bytes: bit p of the integers 8 k .. 8 k + 7 is byte k of plane p, lowest first.

A runtime that computes what is constant when it loads a model unpacks them once; the file holds `bits` bits each.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..edit import Array, Tape
from ..functions import Function

Bytes = NDArray[np.uint8]

#: Planes become bytes by shifts and masks, all in uint8; the last integers of the last byte may be nobody's.
UNPACK = {
    bits: Function(
        "UnpackBits (planes, shape) => (codes) {\n"
        "  lanes = Constant <value: tensor = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()\n"
        "  masks = Constant <value: tensor = uint8[8] {1, 2, 4, 8, 16, 32, 64, 128}> ()\n"
        "  last = Constant <value_ints: ints = [-1]> ()\n"
        "  first = Constant <value_ints: ints = [0]> ()\n"
        "  apart = Unsqueeze (planes, last)\n"
        "  set = BitwiseAnd (apart, masks)\n"
        '  each = BitShift <direction: string = "RIGHT"> (set, lanes)\n'
        + "".join(
            f"  at{plane} = Constant <value_int: int = {plane}> ()\n"
            f"  plane{plane} = Gather <axis: int = 0> (each, at{plane})\n"
            f"  by{plane} = Constant <value: tensor = uint8[1] {{{plane}}}> ()\n"
            f'  bit{plane} = BitShift <direction: string = "LEFT"> (plane{plane}, by{plane})\n'
            for plane in range(bits)
        )
        + "  sum0 = Identity (bit0)\n"
        + "".join(f"  sum{plane} = BitwiseOr (sum{plane - 1}, bit{plane})\n" for plane in range(1, bits))
        + f"  flat = Reshape (sum{bits - 1}, last)\n"
        "  count = ReduceProd <keepdims: int = 1> (shape)\n"
        "  kept = Slice (flat, first, count, first)\n"
        "  codes = Reshape (kept, shape)\n"
        "}",
        overload=f"bits{bits}",
    )
    for bits in range(1, 8)
}


def pack(codes: Array, bits: int) -> Bytes:
    """Unsigned integers below 2^bits, any shape, as bytes [bits, ceil(size / 8)].

    >>> pack(np.array([1, 2, 3]), 2).tolist()
    [[5], [6]]
    """
    flat = np.ascontiguousarray(codes, np.uint8).reshape(-1)
    planes = [np.packbits((flat >> plane) & 1, bitorder="little") for plane in range(bits)]
    return np.stack(planes) if planes[0].size else np.zeros((bits, 0), np.uint8)


def unpack(planes: Bytes, shape: tuple[int, ...]) -> Bytes:
    """What `pack` packed."""
    size = int(np.prod(shape, dtype=np.int64))
    codes = np.zeros(size, np.uint8)
    for plane, packed in enumerate(planes):
        codes |= np.unpackbits(packed, bitorder="little", count=size) << plane
    return codes.reshape(shape)


def stored(count: int, bits: int) -> int:
    """Bytes that so many integers take as `emit` stores them."""
    return -(-count * bits // 8) if bits in (4, 8) else bits * -(-count // 8)


def emit(tape: Tape, codes: Array, bits: int, name: str) -> ir.Value:
    """Unsigned integers as a uint8 value of the graph: stored in ONNX's own type where it has one, else unpacked."""
    if bits == 8:
        return tape.weight(codes.astype(np.uint8), name)
    if bits == 4:
        value = tape("Cast", tape.weight(codes.astype(ml_dtypes.uint4), name), to=ir.DataType.UINT8)
    else:
        planes = tape.weight(pack(codes, bits), f"{name}_bits")
        value = UNPACK[bits](tape, planes, tape.constant(list(codes.shape), "shape"))
    value.type, value.shape = ir.TensorType(ir.DataType.UINT8), ir.Shape(codes.shape)
    return value
