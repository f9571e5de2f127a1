"""A weight that is stored short, quantized or with zeros, and factors that are added to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..edit import Array, Tape
from .masked import Masked
from .quantized import Quantized


@dataclass(frozen=True)
class Corrected:
    """weight = base + left @ right.

    base: [in, out]. left: [in, rank] and right: [rank, out], as they are or quantized themselves. `emit` writes the sum
    as one weight. Surgery at a linear site can keep the parts apart instead, x Q + (x A) B: a product with a quantized
    base then runs on integers, and the factors cost rank * (in + out) more multiplications a row.
    """

    base: Quantized | Masked
    left: Array | Quantized
    right: Array | Quantized

    def dense(self) -> Array:
        """The weight it stands for, in the dtype of the base."""
        base = self.base.dense()
        left, right = _dense(self.left), _dense(self.right)
        # numpy's matmul knows no bfloat16
        wide = left.dtype if left.dtype.kind == "f" else np.dtype(np.float32)
        dense: Array = np.add(base, np.matmul(left.astype(wide), right.astype(wide)).astype(base.dtype))
        return dense

    def transposed(self) -> Corrected:
        """The same numbers for a matrix that is stored the other way around."""
        # (Q + A B).T == Q.T + B.T A.T
        return Corrected(self.base.transposed(), _transposed(self.right), _transposed(self.left))

    @property
    def rank(self) -> int:
        """Columns of the left factor and rows of the right one."""
        return int((self.left.values if isinstance(self.left, Quantized) else self.left).shape[1])

    @property
    def bytes(self) -> int:
        """Bytes of the base and of both factors as stored."""
        return self.base.bytes + sum(
            factor.bytes if isinstance(factor, Quantized) else int(factor.nbytes) for factor in (self.left, self.right)
        )

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """The base as its nodes compute it, plus the product of the factors."""
        base = self.base.emit(tape, name)
        if not self.rank:
            return base
        correction = tape("MatMul", _emit(self.left, tape, f"{name}_left"), _emit(self.right, tape, f"{name}_right"))
        value = tape("Add", base, correction)
        value.shape, value.type = base.shape, base.type
        return value


def _dense(factor: Array | Quantized) -> Array:
    return factor.dense() if isinstance(factor, Quantized) else factor


def _transposed(factor: Array | Quantized) -> Array | Quantized:
    return factor.transposed() if isinstance(factor, Quantized) else factor.T


def _emit(factor: Array | Quantized, tape: Tape, name: str) -> ir.Value:
    return factor.emit(tape, name) if isinstance(factor, Quantized) else tape.weight(np.ascontiguousarray(factor), name)
