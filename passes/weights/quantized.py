"""Structured weights: what stands between a method's numbers and the nodes that carry them.

Each says what it stands for (`dense`), what it costs (`bytes`), and how it is written with standard ops (`emit`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from .edit import Array, Tape


@dataclass(frozen=True)
class Quantized:
    """Integers and scales: weight = values * scale, zero at zero.

    values: int8, any shape. scale: one number, or one for each index along `axis`.
    """

    values: Array
    scale: Array
    axis: int | None = None

    def dense(self) -> Array:
        """The weight it stands for, in the dtype of the scale."""
        scale = self.scale
        if self.axis is not None:
            shape = [1] * self.values.ndim
            shape[self.axis] = -1
            scale = scale.reshape(shape)
        dense: Array = np.multiply(self.values, scale, dtype=self.scale.dtype)
        return dense

    @property
    def bytes(self) -> int:
        """Bytes of values and scales as stored."""
        return int(self.values.nbytes + self.scale.nbytes)

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """DequantizeLinear over the stored integers."""
        values = tape.weight(self.values, f"{name}_quantized")
        scale = tape.weight(self.scale, f"{name}_scale")
        return tape("DequantizeLinear", values, scale, axis=self.axis)
