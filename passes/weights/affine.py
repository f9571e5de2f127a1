"""Integers of few bits, scales and offsets: zero points that are real numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ..edit import Array, Tape
from .quantized import Quantized


@dataclass(frozen=True)
class Affine:
    """weight = values * scale + offset.

    levels: values * scale, a matrix without zero points. offset: one number for each scale, of its shape and dtype; a
    real zero point z is the offset -z * scale.
    """

    levels: Quantized
    offset: Array

    def dense(self) -> Array:
        """The weight it stands for, in the dtype of the scale."""
        dense: Array = np.add(self.levels.dense(), self.levels.spread(self.offset), dtype=self.levels.scale.dtype)
        return dense

    def transposed(self) -> Affine:
        """The same numbers for a matrix that is stored the other way around."""
        return Affine(self.levels.transposed(), self.offset.T if self.levels.block else self.offset)

    @property
    def bytes(self) -> int:
        """Bytes of values, scales and offsets as stored; values that fill up the last block count."""
        return self._filled().bytes + int(self.offset.nbytes)

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """DequantizeLinear over the stored integers, and an Add that sees each block on an axis of its own."""
        shape, axis, block = self.levels.values.shape, self._axis, self.levels.block
        value = self._filled().emit(tape, name)
        spread = np.expand_dims(self.offset, axis + 1) if block else np.asarray(self.levels.spread(self.offset))
        offset = tape.weight(np.ascontiguousarray(spread), f"{name}_offset")
        if not block:
            value = tape("Add", value, offset)
        else:
            filled = (*shape[:axis], self.offset.shape[axis] * block, *shape[axis + 1 :])
            apart = [*shape[:axis], self.offset.shape[axis], block, *shape[axis + 1 :]]
            value = tape("Add", tape("Reshape", value, tape.constant(apart, "shape")), offset)
            value = tape("Reshape", value, tape.constant(list(filled), "shape"))
            if filled != shape:
                bounds = (tape.constant([number], "bound") for number in (0, shape[axis], axis))
                value = tape("Slice", value, *bounds)
        value.shape, value.type = ir.Shape(shape), ir.TensorType(ir.DataType.from_numpy(self.offset.dtype))
        return value

    @property
    def _axis(self) -> int:
        return (self.levels.axis or 0) % self.levels.values.ndim

    def _filled(self) -> Quantized:
        """The integers with zeros that make the last block as long as the others."""
        levels, axis = self.levels, self._axis
        short = self.offset.shape[axis] * levels.block - levels.values.shape[axis] if levels.block else 0
        if not short:
            return levels
        widths = [(0, short if index == axis else 0) for index in range(levels.values.ndim)]
        return replace(levels, values=np.pad(levels.values, widths))
