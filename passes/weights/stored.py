"""A quantized weight read back from the nodes that `Quantized.emit` wrote, or that an importer brought.

    DequantizeLinear{axis, block_size}(integers, scale, zero)        integers stored, or UnpackBits(planes)

What it looks like is known from shapes and types; its numbers are read when somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.constants import tensor_of
from ..edit import Array, attribute, is_constant, is_op
from . import packing
from .quantized import Quantized

_BITS = {
    ir.DataType.INT4: (4, True),
    ir.DataType.UINT4: (4, False),
    ir.DataType.INT8: (8, True),
    ir.DataType.UINT8: (8, False),
}


@dataclass(frozen=True)
class Stored:
    """A constant behind a DequantizeLinear: shape, bits, and how its scales lie, as `Quantized` has them.

    centred: whether the zero points are known to be the middle of the integers, 0 of signed ones. read: gives the
    numbers, also when the node is gone.
    """

    node: ir.Node
    shape: tuple[int, ...]
    bits: int
    signed: bool
    axis: int | None
    block: int
    centred: bool
    read: Callable[[], Quantized]

    @classmethod
    def of(cls, value: ir.Value | None) -> Stored | None:
        """What a value is dequantized from; None where it is not, or not from constants."""
        node = None if value is None else value.producer()
        if not is_op(node, "DequantizeLinear") or any(each is not None and not _known(each) for each in node.inputs):
            return None
        values, scale = node.inputs[:2]
        kind = _kind(values)
        shape, scales = _shape(values), _shape(scale)
        if kind is None or shape is None or scales is None:
            return None
        axis = None if not scales else attribute(node, "axis", 1) % max(len(shape), 1)
        bits, signed = kind
        block, zero = attribute(node, "block_size", 0), node.inputs[2] if len(node.inputs) > 2 else None
        integers, origin = _integers(values), None if zero is None else _integers(zero)
        numbers = tensor_of(scale)
        assert integers is not None and numbers is not None  # they are known

        def read() -> Quantized:
            return Quantized(integers(), numbers.numpy(), axis, None if origin is None else origin(), block, bits)

        return cls(node, shape, bits, signed, axis, block, signed if zero is None else _is_middle(zero, bits), read)


def _is_middle(zero: ir.Value, bits: int) -> bool:
    """Whether zero points that are all one number are 2^(bits - 1); those that are stored are not read for it."""
    node = zero.producer()
    if not is_op(node, "ConstantOfShape"):
        return False
    return bool(node.attributes["value"].as_tensor().numpy().item() == 1 << (bits - 1))


def _kind(value: ir.Value | None) -> tuple[int, bool] | None:
    """Bits, and whether the integers are signed."""
    if value is None:
        return None
    if is_constant(value):
        return None if value.dtype is None else _BITS.get(value.dtype)
    bits = _planes(value)
    return None if bits is None else (bits, False)


def _planes(value: ir.Value) -> int | None:
    """The bits of integers that are unpacked from planes."""
    node = value.producer()
    return next((bits for bits, function in packing.UNPACK.items() if function.called_by(node)), None)


def _known(value: ir.Value) -> bool:
    node = value.producer()
    if is_constant(value):
        return True
    unpacks = _planes(value) is not None or is_op(node, "ConstantOfShape")
    return unpacks and node is not None and all(each is None or is_constant(each) for each in node.inputs)


def _shape(value: ir.Value | None) -> tuple[int, ...] | None:
    if value is None or value.shape is None or not all(isinstance(dim, int) for dim in value.shape):
        return None
    return tuple(value.shape.numpy())


def _integers(value: ir.Value | None) -> Callable[[], Array] | None:
    """What reads integers of 8 bits, signed or not, from where they are stored."""
    tensor = tensor_of(value)
    if tensor is not None:
        held, dtype = tensor, np.int8 if tensor.dtype in (ir.DataType.INT4, ir.DataType.INT8) else np.uint8
        return lambda: held.numpy().astype(dtype)
    node = None if value is None else value.producer()
    if node is None:
        return None
    constants = [tensor_of(each) for each in node.inputs]
    if is_op(node, "ConstantOfShape"):
        shape, fill = constants[0], node.attributes["value"].as_tensor()
        return None if shape is None else lambda: np.full(tuple(shape.numpy()), fill.numpy().item(), np.uint8)
    planes, sizes = constants[0], constants[1]
    if planes is None or sizes is None:
        return None
    return lambda: packing.unpack(planes.numpy().astype(np.uint8), tuple(map(int, sizes.numpy())))
