"""Rows of few bits as ONNX Runtime's kernels want them: unsigned, the first of a byte lowest, scales by block.

Weights are [rows, columns] here, with blocks along the columns. Kernels take 2, 4 and 8 bits; other widths are stored
as they are and widened to the next by nodes that depend on constants alone, which ONNX Runtime computes at load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ....passes.edit import Array, Tape
from ....passes.weights import Quantized, packing

Bytes = NDArray[np.uint8]

#: What the kernels take for weights of so many bits.
KERNEL: Mapping[int, int] = {2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}
BLOCKS = (16, 32, 64, 128, 256)


def codes(weight: Quantized, block: int) -> Bytes:
    """The integers without sign, [rows, columns]; columns are filled up to whole blocks."""
    shifted = weight.values.astype(np.int16) + _middle(weight)
    return np.pad(shifted, ((0, 0), (0, -shifted.shape[1] % block))).astype(np.uint8)


def packed(weight: Quantized, block: int) -> Bytes:
    """The integers, [rows, bytes of the columns]; columns are filled up to whole blocks."""
    return _bytes(codes(weight, block), weight.bits)


def widened(tape: Tape, name: str, bits: int, shape: list[int], numbers: Callable[[], Array]) -> ir.Value:
    """Integers of 3, 5, 6 or 7 bits, [.., columns] as `numbers` gives them, in as many bytes as the kernel reads."""
    share = 8 // KERNEL[bits]
    *outer, columns = shape
    # all that lie low in a byte come first, so that each part is a run
    apart = [share, *outer, columns // share]
    size = int(np.prod(shape))

    def planes() -> Array:
        parts = np.moveaxis(numbers().reshape(*outer, columns // share, share), -1, 0)
        return packing.pack(parts, bits)

    stored = tape.derived(f"{name}_bits", [bits, -(-size // 8)], ir.DataType.UINT8, planes, weight=True)
    unpacked = packing.UNPACK[bits](tape, stored, tape.constant(apart, "shape"))
    if share == 1:
        return tape("Reshape", unpacked, tape.constant(shape, "shape"))
    low, high = (tape("Gather", unpacked, tape.constant(index, "part"), axis=0) for index in range(2))
    lifted = tape("BitShift", high, tape.constant(np.array([4], np.uint8), "bits"), direction="LEFT")
    return tape("BitwiseOr", low, lifted)


def middles(tape: Tape, bits: int, shape: list[int]) -> ir.Value:
    """Zero points in the middle of integers of `bits` bits, [rows, bytes], where the kernel's own middle is another."""
    middle = 1 << (bits - 1)
    byte = middle | middle << 4 if KERNEL[bits] == 4 else middle
    return tape("ConstantOfShape", tape.constant(shape, "shape"), value=ir.tensor([byte], ir.DataType.UINT8))


def scales(weight: Quantized, count: int) -> NDArray[np.float32]:
    """[rows, blocks], `count` of them; a row's or the weight's one scale is repeated."""
    given = weight.scale if weight.block else weight.scale.reshape(-1, 1)
    return np.ascontiguousarray(np.broadcast_to(given, (len(weight.values), count)), np.float32)


def zeros(weight: Quantized, count: int) -> Bytes:
    """[rows, bytes of the zero points of all blocks]."""
    zero = np.zeros(1, np.int16) if weight.zero is None else weight.zero.astype(np.int16)
    given = zero if weight.block and zero.ndim == 2 else zero.reshape(-1, 1)
    every = np.broadcast_to(given + _middle(weight), (len(weight.values), count)).astype(np.uint8)
    kernel = KERNEL[weight.bits]
    return _bytes(np.pad(every, ((0, 0), (0, -count % (8 // kernel)))), kernel)


def _middle(weight: Quantized) -> int:
    """What makes signed integers unsigned."""
    return 1 << (weight.bits - 1) if weight.values.dtype.kind == "i" else 0


def _bytes(codes: Bytes, bits: int) -> Bytes:
    """Codes of the last axis, as many in a byte as fit."""
    share = 8 // bits
    apart = codes.reshape(*codes.shape[:-1], -1, share) << (bits * np.arange(share, dtype=np.uint8))
    return np.asarray(np.bitwise_or.reduce(apart, axis=-1), np.uint8)
