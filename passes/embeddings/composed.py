"""Words by codes: each is made of a few vectors that many share, side by side, added up, or both.

    word v  =  [ sum_s books[s, 0][code(v, s, 0)] | sum_s books[s, 1][code(v, s, 1)] | .. ]         runs of columns

The graph holds codes and books, never the table: a lookup gathers the codes of the words that are there, casts those,
and gathers their vectors. Scores of all words are products with the books, gathered by the codes and added up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..edit import Array, Tape
from .scanning import flat, narrow, summed, unflat

#: How many bits of a code are packed into a byte; others take one or two bytes each.
_PACKED = (1, 2, 4)


@dataclass(frozen=True)
class Composed:
    """codes: [words, stages, runs]. books: [stages * runs, entries, width], or of one stage [1, entries, width] where
    all runs share one.

    columns: of the table; runs * width less what fills up the last run.
    """

    codes: NDArray[np.integer]
    books: Array
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """Of the table that it stands for."""
        return len(self.codes), self.columns

    def dense(self) -> Array:
        """The table it stands for, in the dtype of the books."""
        words, stages, runs = self.codes.shape
        found = np.zeros((words, runs, self.books.shape[2]), np.float64)
        for stage in range(stages):
            for run in range(runs):
                book = self.books[stage * runs + run if len(self.books) > 1 else 0]
                found[:, run] += book[self.codes[:, stage, run]]
        dense: Array = found.reshape(words, -1)[:, : self.columns].astype(self.books.dtype)
        return dense

    @property
    def bits(self) -> int:
        """How many a code takes."""
        return max((int(self.books.shape[1]) - 1).bit_length(), 1)

    @property
    def bytes(self) -> int:
        """Bytes of codes and books as stored."""
        return int(self._packed.nbytes) + int(self.books.nbytes)

    def rows(self, tape: Tape, ids: ir.Value, name: str) -> ir.Value:
        """The words of ids [..], as [.., columns]."""
        _, stages, runs = self.codes.shape
        tables, entries, width = self.books.shape
        count = stages * runs
        codes = tape("Gather", self._stored(tape, name), ids, axis=0)
        index = tape("Cast", self._unpacked(tape, codes, ids), to=ir.DataType.INT32)
        if tables > 1:
            starts = np.arange(count, dtype=np.int32) * np.int32(entries)
            index = tape("Add", index, tape.constant(starts, "starts"))
        found = tape("Gather", self._book(tape, name), index, axis=0)
        if stages > 1:
            found = tape("Reshape", found, _shape(tape, ids, [stages, runs * width]))
            found = tape("ReduceSum", found, tape.constant([-2], "axes"), keepdims=0)
        else:
            found = tape("Reshape", found, _shape(tape, ids, [runs * width]))
        if runs * width != self.columns:
            first, last, axis = (tape.constant([number], "bound") for number in (0, self.columns, -1))
            found = tape("Slice", found, first, last, axis)
        return found

    def scores(self, tape: Tape, x: ir.Value, name: str) -> ir.Value:
        """Activations [.., columns] times every word, [.., words]."""
        words, stages, runs = self.codes.shape
        tables, entries, width = self.books.shape
        turned = flat(tape, x, self.columns)
        if runs * width != self.columns:
            ends = tape.constant([0, 0, runs * width - self.columns, 0], "pads")
            turned = tape("Pad", turned, ends)
        turned = tape("Reshape", turned, tape.constant([runs, width, -1], "shape"))
        if stages > 1:
            turned = tape("Concat", *([turned] * stages), axis=0)
        stored, book, own = self._stored(tape, name), self._book(tape, name), None
        if tables > 1:
            book, own = tape("Reshape", book, tape.constant([tables, entries, width], "shape")), entries
        codes = tape("Transpose", self._unpacked(tape, stored, None), perm=[1, 0])
        codes.type = stored.type
        dtype = x.dtype or ir.DataType.from_numpy(self.books.dtype)
        found = summed(tape, x, book, codes, words, name, dtype=dtype, entries=own, columns=turned)
        return unflat(tape, x, found, words)

    @property
    def _lanes(self) -> int:
        """Codes of a byte."""
        return 8 // self.bits if self.bits in _PACKED else 1

    @property
    def _packed(self) -> NDArray[np.generic]:
        codes = narrow(self.codes.reshape(len(self.codes), -1))
        return pack(codes, self.bits) if self._lanes > 1 else codes

    def _stored(self, tape: Tape, name: str) -> ir.Value:
        return tape.weight(self._packed, f"{name}_codes")

    def _book(self, tape: Tape, name: str) -> ir.Value:
        return tape.weight(np.ascontiguousarray(self.books.reshape(-1, self.books.shape[2])), f"{name}_books")

    def _unpacked(self, tape: Tape, codes: ir.Value, ids: ir.Value | None) -> ir.Value:
        """Codes apart, [.., codes]: of ids, or of all words."""
        lanes, (words, stages, runs) = self._lanes, self.codes.shape
        if lanes == 1:
            return codes
        count = stages * runs
        filled = -(-count // lanes) * lanes
        shifts = np.arange(lanes, dtype=np.uint8) * np.uint8(self.bits)
        masks = np.left_shift(np.uint8((1 << self.bits) - 1), shifts)
        apart = tape("Unsqueeze", codes, tape.constant([-1], "axes"))
        kept = tape("BitwiseAnd", apart, tape.constant(masks, "masks"))
        shape = tape.constant([words, filled], "shape") if ids is None else _shape(tape, ids, [filled])
        moved = tape("BitShift", kept, tape.constant(shifts, "shifts"), direction="RIGHT")
        found = tape("Reshape", moved, shape)
        if filled == count:
            return found
        first, last, axis = (tape.constant([number], "bound") for number in (0, count, -1))
        return tape("Slice", found, first, last, axis)


def code_bytes(count: int, entries: int) -> int:
    """Bytes that so many codes of a word take."""
    bits = max((entries - 1).bit_length(), 1)
    if bits in _PACKED:
        return -(-count * bits // 8)
    return count * (1 if bits <= 8 else 2 if bits <= 16 else 4)


def pack(codes: Array, bits: int) -> NDArray[np.uint8]:
    """Codes [words, count] of 1, 2 or 4 bits, several in a byte, lowest bits first.

    >>> pack(np.array([[1, 2, 3]]), 4).tolist()
    [[33, 3]]
    """
    lanes = 8 // bits
    filled = np.pad(np.asarray(codes, np.uint8), ((0, 0), (0, -codes.shape[1] % lanes)))
    apart = filled.reshape(len(filled), -1, lanes) << (np.arange(lanes, dtype=np.uint8) * np.uint8(bits))
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(apart, axis=2)
    return packed


def _shape(tape: Tape, ids: ir.Value, last: list[int]) -> ir.Value:
    """The shape [.., *last] of what ids look up."""
    if ids.shape is not None:
        return tape.constant([0] * len(ids.shape) + last, "shape")
    return tape("Concat", tape("Shape", ids), tape.constant(last, "last"), axis=0)
