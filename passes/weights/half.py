"""Floating-point numbers of sixteen bits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ...ir.constants import STORED
from ..edit import Array, Tape


@dataclass(frozen=True)
class Half:
    """weight = values, in a type of more bits.

    values: float16, or bfloat16 of ml_dtypes, any shape. dtype: what they are read as.
    """

    values: Array
    dtype: np.dtype[np.generic]

    def dense(self) -> Array:
        """The weight it stands for."""
        dense: Array = self.values.astype(self.dtype)
        return dense

    def transposed(self) -> Half:
        """The same numbers for a matrix that is stored the other way around."""
        return replace(self, values=self.values.T)

    @property
    def bytes(self) -> int:
        """Bytes of the values as stored."""
        return int(self.values.nbytes)

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """A Cast of the stored numbers."""
        stored = tape.weight(np.ascontiguousarray(self.values), f"{name}_quantized")
        node = tape.node("Cast", [stored], {"to": ir.DataType.from_numpy(self.dtype)})
        node.metadata_props[STORED] = "weight"
        return node.outputs[0]
