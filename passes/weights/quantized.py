"""Integers of few bits, scales and zero points."""

from __future__ import annotations

from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ..edit import Array, Tape
from . import packing


@dataclass(frozen=True)
class Quantized:
    """weight = (values - zero) * scale.

    values: int8 or uint8, any shape. scale: one number; one for each index along `axis`; or with `block` an array of
    the weight's rank, whose size along `axis` is the number of runs of `block` indices there (the last may be shorter).
    zero: of the type of `values` and the shape of `scale`; None is zero. bits: how many a value takes as stored;
    `values` lie in [-2^(bits-1), 2^(bits-1) - 1], or in [0, 2^bits - 1] where they are unsigned.
    """

    values: Array
    scale: Array
    axis: int | None = None
    zero: Array | None = None
    block: int = 0
    bits: int = 8

    def dense(self) -> Array:
        """The weight it stands for, in the dtype of the scale."""
        values: Array = self.values
        if self.zero is not None:
            values = np.subtract(self.values, self.spread(self.zero), dtype=np.int16)
        # integers of 9 bits are exact in every type of scales but bfloat16, where ONNX rounds them too
        dense: Array = np.multiply(values.astype(self.scale.dtype), self.spread(self.scale))
        return dense

    def spread(self, parameter: Array) -> Array:
        """A scale or zero point, as it meets each value."""
        if self.axis is None:
            return parameter.reshape(())
        if self.block:
            return parameter.repeat(self.block, self.axis).take(range(self.values.shape[self.axis]), self.axis)
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        return parameter.reshape(shape)

    def transposed(self) -> Quantized:
        """The same numbers for a matrix that is stored the other way around."""
        axis = None if self.axis is None else self.values.ndim - 1 - self.axis % self.values.ndim
        scale, zero = self.scale, self.zero
        if self.block:
            scale, zero = scale.T, None if zero is None else zero.T
        return replace(self, values=self.values.T, scale=scale, zero=zero, axis=axis)

    @property
    def bytes(self) -> int:
        """Bytes of values, scales and zero points as stored."""
        zero = 0 if self.zero is None else _bytes(self.zero.size, self.bits)
        return _bytes(self.values.size, self.bits) + int(self.scale.nbytes) + zero

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """DequantizeLinear over the stored integers, which are unpacked first where ONNX has no type of their bits."""
        scale = tape.weight(np.asarray(self.scale, order="C"), f"{name}_scale")
        values = self._stored(tape, self.values, f"{name}_quantized")
        zero = self._zero(tape, f"{name}_zero")
        return tape("DequantizeLinear", values, scale, zero, axis=self.axis, block_size=self.block or None)

    @property
    def _shift(self) -> int:
        """What is added to signed integers whose bits are packed: a packed integer is unsigned."""
        return 1 << (self.bits - 1) if self.bits not in (4, 8) and self.values.dtype.kind == "i" else 0

    def _zero(self, tape: Tape, name: str) -> ir.Value | None:
        if self.zero is not None:
            return self._stored(tape, self.zero, name)
        if not self._shift:
            return None
        # the same for every scale, so only its shape is stored
        shape = tape.constant(list(self.scale.shape), "shape")
        return tape("ConstantOfShape", shape, value=ir.tensor([self._shift], ir.DataType.UINT8))

    def _stored(self, tape: Tape, integers: Array, name: str) -> ir.Value:
        if self.bits in (4, 8):
            dtype = _TYPES[self.bits, self.values.dtype.kind == "i"]
            return tape.weight(np.asarray(integers, dtype, order="C"), name)
        return packing.emit(tape, integers.astype(np.int16) + self._shift, self.bits, name)


def _bytes(count: int, bits: int) -> int:
    """What integers take as stored: whole bytes of each bit where bits are packed."""
    return -(-count * bits // 8) if bits in (4, 8) else -(-count // 8) * bits


_TYPES = {
    (4, True): np.dtype(ml_dtypes.int4),
    (4, False): np.dtype(ml_dtypes.uint4),
    (8, True): np.dtype(np.int8),
    (8, False): np.dtype(np.uint8),
}
