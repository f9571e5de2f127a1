"""Words as sums of a few vectors that many share, each with a coefficient of its own.

    word v  =  sum_j shares[v, j] atoms[index[v, j]]

The graph holds indices, coefficients and atoms, never the table: a lookup gathers those of the words that are there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..edit import Array, Tape
from .scanning import flat, narrow, summed, unflat


@dataclass(frozen=True)
class Combined:
    """index, shares: [words, nonzeros]; shares are float16. atoms: [atoms, columns]."""

    index: NDArray[np.integer]
    shares: NDArray[np.float16]
    atoms: Array

    @property
    def shape(self) -> tuple[int, int]:
        """Of the table that it stands for."""
        return len(self.index), self.atoms.shape[1]

    def dense(self) -> Array:
        """The table it stands for, in the dtype of the atoms."""
        found = np.zeros(self.shape, np.float64)
        for place in range(self.index.shape[1]):
            found += self.shares[:, place, None].astype(np.float64) * self.atoms[self.index[:, place]]
        dense: Array = found.astype(self.atoms.dtype)
        return dense

    @property
    def bytes(self) -> int:
        """Bytes of indices, coefficients and atoms as stored."""
        return int(narrow(self.index).nbytes + self.shares.nbytes + self.atoms.nbytes)

    def rows(self, tape: Tape, ids: ir.Value, name: str) -> ir.Value:
        """The words of ids [..], as [.., columns]."""
        index = tape("Gather", tape.weight(narrow(self.index), f"{name}_codes"), ids, axis=0)
        shares = tape("Gather", tape.weight(self.shares, f"{name}_shares"), ids, axis=0)
        dtype = ir.DataType.from_numpy(self.atoms.dtype)
        if dtype is not ir.DataType.FLOAT16:
            shares = tape("Cast", shares, to=dtype)
        atoms = tape.weight(self.atoms, f"{name}_atoms")
        found = tape("Gather", atoms, tape("Cast", index, to=ir.DataType.INT32), axis=0)
        # [.., 1, nonzeros] @ [.., nonzeros, columns]
        product = tape("MatMul", tape("Unsqueeze", shares, tape.constant([-2], "axes")), found)
        return tape("Squeeze", product, tape.constant([-2], "axes"))

    def scores(self, tape: Tape, x: ir.Value, name: str) -> ir.Value:
        """Activations [.., columns] times every word, [.., words]."""
        words, columns = self.shape
        dtype = x.dtype or ir.DataType.from_numpy(self.atoms.dtype)
        products = tape("MatMul", tape.weight(self.atoms, f"{name}_atoms"), flat(tape, x, columns))
        codes = narrow(self.index)
        index = tape("Transpose", tape.weight(codes, f"{name}_codes"), perm=[1, 0])
        index.type = ir.TensorType(ir.DataType.from_numpy(codes.dtype))
        kept = tape.weight(self.shares, f"{name}_shares")
        shares = tape("Transpose", kept, perm=[1, 0])
        # what the tape casts is in the type of x
        shares.type = ir.TensorType(kept.dtype or dtype)
        return unflat(tape, x, summed(tape, x, products, index, words, name, dtype=dtype, shares=shares), words)
