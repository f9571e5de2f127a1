"""Sums of a few scaled signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..edit import Array, Tape
from . import packing


@dataclass(frozen=True)
class Planes:
    """weight = sum over planes of scale * sign.

    signs: True for +1 and False for -1, [planes, rows, columns]. scale: one number for each plane and row,
    [planes, rows, 1], or for each plane and column, [planes, 1, columns].
    """

    signs: NDArray[np.bool_]
    scale: Array

    def dense(self) -> Array:
        """The weight it stands for, [rows, columns], in the dtype of the scale, added plane by plane."""
        dense: Array = np.zeros(self.signs.shape[1:], self.scale.dtype)
        for signs, scale in zip(self.signs, self.scale, strict=True):
            dense = np.add(dense, np.where(signs, scale, np.negative(scale)))
        return dense

    def transposed(self) -> Planes:
        """The same numbers for a matrix that is stored the other way around."""
        return Planes(self.signs.transpose(0, 2, 1), self.scale.transpose(0, 2, 1))

    @property
    def bytes(self) -> int:
        """Bytes of signs and scales as stored."""
        return int(len(self.signs) * -(-self.signs[0].size // 8) + self.scale.nbytes)

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """Each plane as its scale where the bit is set and less its scale elsewhere, and their sum."""
        value: ir.Value | None = None
        for number, (signs, scale) in enumerate(zip(self.signs, self.scale, strict=True)):
            part = f"{name}_plane{number}"
            bits = tape("Cast", packing.emit(tape, signs, 1, part), to=ir.DataType.BOOL)
            stored = tape.weight(np.ascontiguousarray(scale), f"{part}_scale")
            plane = tape("Where", bits, stored, tape("Neg", stored))
            value = plane if value is None else tape("Add", value, plane)
        assert value is not None  # there is a plane
        value.shape = ir.Shape(self.signs.shape[1:])
        value.type = ir.TensorType(ir.DataType.from_numpy(self.scale.dtype))
        return value
