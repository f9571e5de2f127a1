"""Products and tables with weights of a few bits: constants in blocks, each with a scale, behind DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ....ir.constants import is_constant, tensor_of
from ...base import Miss
from ...edit import Array, Tape
from .call import Build, Call, Table, named, size

_TYPES = {4: ir.DataType.UINT4, 8: ir.DataType.UINT8}


def _matmul_nbits(call: Call) -> Build | Miss:
    """x [..., k] times integers [n, blocks, bytes], packed low bits first; raised with the weight as [k, n]."""
    bits, block = call.integer("bits", 4), call.integer("block_size")
    k, n = call.integer("K"), call.integer("N")
    packed, scales, zeros = call.need(1), call.need(2), call[3]
    if bits not in _TYPES:
        return Miss("bits", str(bits), "4 or 8 bits")
    if call.integer("weight_prepacked"):
        return Miss("layout", "weight_prepacked", "the op's own layout of its weight")
    if call[4] is not None:
        return Miss("groups", call.need(4).name or "", "blocks in their order")
    constants = [value for value in (packed, scales, zeros) if value is not None]
    if not all(is_constant(value) for value in constants):
        return Miss("weight", packed.name or "", "constant integers, scales and zero points")
    blocks = -(-k // block)
    if block < 1 or _count(packed) * 8 != n * blocks * block * bits or _count(scales) != n * blocks:
        return Miss("weight", packed.name or "", f"{blocks} blocks of {block} for each of {n} columns")
    if zeros is not None and zeros.dtype != ir.DataType.UINT8:
        return Miss("zeros", f"{zeros.name}: {zeros.dtype}", "zero points of integers")
    dtype = _TYPES[bits]

    def build(tape: Tape) -> list[ir.Value]:
        name = packed.name or "weight"
        weight = _derived(
            tape, packed, dtype, (k, n), lambda array: _unpacked(array.reshape(n, -1), bits)[:, :k].T, name
        )
        scale = _derived(tape, scales, None, (blocks, n), lambda array: array.reshape(n, blocks).T, f"{name}_scale")
        if zeros is None:
            middle: Array = np.full((blocks, n), 1 << (bits - 1), np.uint8)
            zero = tape.lazy(ir.Tensor(middle.astype(_numpy(dtype)), dtype=dtype, name=f"{name}_zero"))
        else:
            zero = _derived(
                tape, zeros, dtype, (blocks, n),
                lambda array: _unpacked(array.reshape(n, -1), bits)[:, :blocks].T, f"{name}_zero",
            )  # fmt: skip
        wide = tape("DequantizeLinear", weight, scale, zero, axis=0, block_size=block)
        wide.type, wide.shape = scales.type, ir.Shape([k, n])
        y = tape("MatMul", call.need(0), wide)
        return [y if call[5] is None else tape("Add", y, call.need(5))]

    return build


def _count(value: ir.Value) -> int:
    tensor = tensor_of(value)
    return 0 if tensor is None else tensor.size


def _numpy(dtype: ir.DataType) -> type:
    return ml_dtypes.uint4 if dtype == ir.DataType.UINT4 else np.uint8


def _unpacked(stored: Array, bits: int) -> Array:
    """Bytes as the integers in them, low bits first, along the last axis."""
    packed: NDArray[np.uint8] = stored.view(np.uint8)
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)


def _derived(
    tape: Tape,
    value: ir.Value,
    dtype: ir.DataType | None,
    shape: tuple[int, ...],
    function: Callable[[Array], Array],
    name: str,
) -> ir.Value:
    """A constant computed from another when its bytes are read, in the type of that or another."""
    tensor = tensor_of(value)
    assert tensor is not None
    return tape.derived(name, shape, dtype or tensor.dtype, lambda: function(tensor.numpy()))


def _gather_block_quantized(call: Call) -> Build | Miss:
    """Rows of a dequantized table."""
    data, scales, zeros = call.need(0), call.need(2), call[3]
    bits, block, axis = call.integer("bits", 4), call.integer("block_size", 128), call.integer("quantize_axis", 1)
    shape = data.shape
    if shape is None or not all(isinstance(dim, int) for dim in shape) or scales.shape is None:
        return Miss("table", data.name or "", "a table and scales of known shape")
    packed = data.dtype == ir.DataType.UINT8 and bits == 4
    if packed and not (is_constant(data) and (zeros is None or is_constant(zeros))):
        return Miss("table", data.name or "", "constant integers, two to a byte")
    if data.dtype == ir.DataType.UINT8 and bits not in _TYPES:
        return Miss("bits", str(bits), "4 or 8 bits")
    wide = [int(dim) for dim in shape.numpy()]
    wide[-1] *= 2 if packed else 1
    along = axis % len(wide)
    if block < 1 or size(scales, along) != -(-wide[along] // block):
        return Miss(
            "blocks", f"blocks of {block}", f"as many scales as blocks of the {wide[along]} values of axis {axis}"
        )
    dims = tuple(int(dim) for dim in scales.shape.numpy())

    def build(tape: Tape) -> list[ir.Value]:
        table, zero = data, zeros
        if packed:
            name = data.name or "table"
            uint4 = ir.DataType.UINT4
            table = _derived(tape, data, uint4, tuple(wide), lambda array: _unpacked(array, 4), name)
            if zeros is not None:
                cut = dims[-1]
                zero = _derived(tape, zeros, uint4, dims, lambda array: _unpacked(array, 4)[..., :cut], f"{name}_zero")
        if zero is None and data.dtype == ir.DataType.UINT8:
            kind = ir.DataType.UINT4 if packed else ir.DataType.UINT8
            middle: Array = np.full(dims, 1 << (bits - 1), np.uint8)
            zero = tape.lazy(ir.Tensor(middle.astype(_numpy(kind)), dtype=kind, name=f"{data.name}_zero"))
        given = [table, scales, *([] if zero is None else [zero])]
        rows = tape("DequantizeLinear", *given, axis=axis, block_size=block)
        rows.type, rows.shape = scales.type, ir.Shape(wide)
        return [tape("Gather", rows, call.need(1), axis=call.integer("gather_axis"))]

    return build


BITS: Table = named({"MatMulNBits": _matmul_nbits, "GatherBlockQuantized": _gather_block_quantized})
