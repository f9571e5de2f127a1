"""Floating-point numbers of eight bits, and scales."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ..edit import Array, Tape


@dataclass(frozen=True)
class Floating:
    """weight = values * scale.

    values: float8_e4m3fn or float8_e5m2 of ml_dtypes, any shape. scale: one number, or one for each index along `axis`.
    """

    values: Array
    scale: Array
    axis: int | None = None

    def dense(self) -> Array:
        """The weight it stands for, in the dtype of the scale."""
        shape = [1] * self.values.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        scale = self.scale.reshape(() if self.axis is None else shape)
        # four bits times those of the scale: rounded once
        wide = np.multiply(self.values.astype(np.float64), scale.astype(np.float64))
        dense: Array = wide.astype(self.scale.dtype)
        return dense

    def transposed(self) -> Floating:
        """The same numbers for a matrix that is stored the other way around."""
        axis = None if self.axis is None else self.values.ndim - 1 - self.axis % self.values.ndim
        return replace(self, values=self.values.T, axis=axis)

    @property
    def bytes(self) -> int:
        """Bytes of values and scales as stored."""
        return int(self.values.nbytes + self.scale.nbytes)

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """DequantizeLinear over the stored numbers (opset 19)."""
        values = tape.weight(np.ascontiguousarray(self.values), f"{name}_quantized")
        scale = tape.weight(np.ascontiguousarray(self.scale), f"{name}_scale")
        return tape("DequantizeLinear", values, scale, axis=self.axis)
