"""Indices into a few numbers, or into a few short vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..edit import Array, Tape
from . import packing
from .quantized import Quantized


@dataclass(frozen=True)
class Codebook:
    """weight = scale * sum over books of book[index], with some numbers kept apart as they are.

    indices: uint8, [books, rows, runs]. books: what they stand for, [books, tables * entries, width]: entries are runs
    of `width` neighbouring columns, so that the weight is [rows, runs * width] less what pads the last run.
    shape: the weight's, a matrix. bits: how many an index takes as stored.
    scale: None, or one number for each row, [rows, 1], or for each `block` columns of a row, [rows, blocks], the last
    of which may have fewer; a `Quantized` one holds these numbers in a line, in bytes, with a scale for each block of
    them and no zero points. outliers: positions [n] in the flat weight and their numbers [n], which take the place of
    the rest.
    tile: how many rows and runs share a table, (0, 0) for one table in all and 0 for all rows or all runs; the last of
    either may be fewer. A book holds the tables one after another, those of the first rows first.
    """

    indices: NDArray[np.uint8]
    books: Array
    shape: tuple[int, int]
    bits: int
    scale: Array | Quantized | None = None
    outliers: tuple[NDArray[np.int64], Array] | None = None
    block: int = 0
    tile: tuple[int, int] = (0, 0)

    def dense(self) -> Array:
        """The weight it stands for, in the dtype of the books."""
        rows, columns = self.shape
        entries = self._entries
        found = np.zeros((rows, self.indices.shape[2] * self.books.shape[2]), self.books.dtype)
        for book, index in zip(self.books, self.indices, strict=True):
            at = index if entries == len(book) else index + self._tables * entries
            np.add(found, book[at].reshape(found.shape), out=found)
        dense: Array = found[:, :columns]
        if self.scale is not None:
            scale = self.scale.dense() if isinstance(self.scale, Quantized) else self.scale
            scale = scale.reshape(rows, self._blocks)
            dense = np.multiply(dense, scale.repeat(self.block or max(columns, 1), 1)[:, :columns])
        if self.outliers is not None:
            dense = dense.copy()
            dense.reshape(-1)[self.outliers[0]] = self.outliers[1]
        return dense

    @property
    def bytes(self) -> int:
        """Bytes of indices, books, scales and outliers as stored."""
        indices = sum(packing.stored(index.size, self.bits) for index in self.indices)
        apart = 0 if self.outliers is None else self.outliers[0].size * 4 + self.outliers[1].nbytes
        scale = (
            self.scale.bytes if isinstance(self.scale, Quantized) else 0 if self.scale is None else self.scale.nbytes
        )
        return int(indices + self.books.nbytes + scale + apart)

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """Lookups in the books, their sum, scales, and the outliers put in place."""
        rows, columns = self.shape
        value: ir.Value | None = None
        for number, (book, index) in enumerate(zip(self.books, self.indices, strict=True)):
            part = f"{name}_{number}" if len(self.books) > 1 else name
            codes = tape("Cast", packing.emit(tape, index, self.bits, f"{part}_indices"), to=ir.DataType.INT32)
            narrow = book.shape[1] == 1
            table = tape.weight(np.ascontiguousarray(book[:, 0] if narrow else book), f"{part}_codebook")
            found = tape("Gather", table, self._placed(tape, codes), axis=0)
            if not narrow:
                found = tape("Reshape", found, tape.constant([rows, index.shape[1] * book.shape[1]], "shape"))
            value = found if value is None else tape("Add", value, found)
        assert value is not None  # a codebook has a book
        if self.indices.shape[2] * self.books.shape[2] != columns:
            value = _first(tape, value, columns)
        if self.scale is not None:
            value = tape("Mul", value, self._spread(tape, self.scale, f"{name}_scale"))
        if self.outliers is not None and self.outliers[0].size:
            where, numbers = self.outliers
            flat = tape("Reshape", value, tape.constant([-1], "shape"))
            at = tape("Cast", tape.weight(where.astype(np.int32), f"{name}_outlier_positions"), to=ir.DataType.INT64)
            flat = tape("ScatterElements", flat, at, tape.weight(numbers, f"{name}_outliers"), axis=0)
            value = tape("Reshape", flat, tape.constant(list(self.shape), "shape"))
        value.shape, value.type = ir.Shape(self.shape), ir.TensorType(ir.DataType.from_numpy(self.books.dtype))
        return value

    @property
    def _blocks(self) -> int:
        """Scales of a row."""
        return -(-self.shape[1] // self.block) if self.block else 1

    @property
    def _tiles(self) -> tuple[int, int]:
        """Tables along the rows and along the runs."""
        down, across = (
            -(-size // tile) if tile else 1 for size, tile in zip(self.indices.shape[1:], self.tile, strict=True)
        )
        return down, across

    @property
    def _entries(self) -> int:
        """Entries of a table."""
        down, across = self._tiles
        return int(self.books.shape[1]) // max(down * across, 1)

    @property
    def _tables(self) -> NDArray[np.int32]:
        """The number of the table of each index, [rows, runs]."""
        (tall, wide), (_, rows, runs) = self.tile, self.indices.shape
        down, across = (
            np.arange(size, dtype=np.int32) // (tile or max(size, 1)) for size, tile in ((rows, tall), (runs, wide))
        )
        return down[:, None] * np.int32(self._tiles[1]) + across

    def _placed(self, tape: Tape, codes: ir.Value) -> ir.Value:
        """Indices into a table as indices into the book that holds it."""
        # table (r, c) begins at (r // tall * across + c // wide) * entries
        (tall, wide), (_, rows, runs), (down, across) = self.tile, self.indices.shape, self._tiles
        if down > 1:
            start = _starts(tape, rows, tall, across * self._entries)
            codes = tape("Add", codes, tape("Unsqueeze", start, tape.constant([1], "axes")))
        return tape("Add", codes, _starts(tape, runs, wide, self._entries)) if across > 1 else codes

    def _spread(self, tape: Tape, scale: Array | Quantized, name: str) -> ir.Value:
        """Scales as they meet each column: [rows, 1] or [rows, columns]."""
        (rows, columns), blocks = self.shape, self._blocks
        shape = [rows, blocks, 1] if blocks > 1 else [rows, 1]
        if isinstance(scale, Quantized):
            # not DequantizeLinear: runtimes leave it to kernels, and would compute the weight anew at every run
            count, dtype = scale.values.size, ir.DataType.from_numpy(scale.scale.dtype)
            values = tape("Cast", tape.weight(scale.values.reshape(1, -1), f"{name}_quantized"), to=dtype)
            steps = tape.weight(scale.scale.reshape(1, -1, 1), f"{name}_scale")
            wide = _repeated(tape, steps, [1, scale.scale.size, scale.block], count)
            held = tape("Reshape", tape("Mul", values, wide), tape.constant(shape, "shape"))
        else:
            held = tape.weight(np.ascontiguousarray(scale.reshape(shape)), name)
        return held if blocks == 1 else _repeated(tape, held, [rows, blocks, self.block], columns)


def _repeated(tape: Tape, value: ir.Value, shape: list[int], columns: int) -> ir.Value:
    """[rows, blocks, 1] as the first columns of [rows, blocks * block]; shape: [rows, blocks, block]."""
    rows, blocks, block = shape
    wide = tape("Expand", value, tape.constant(shape, "shape"))
    flat = tape("Reshape", wide, tape.constant([rows, blocks * block], "shape"))
    return flat if blocks * block == columns else _first(tape, flat, columns)


def _first(tape: Tape, value: ir.Value, columns: int) -> ir.Value:
    """The first columns of a matrix."""
    first, last, axis = (tape.constant([number], "bound") for number in (0, columns, 1))
    return tape("Slice", value, first, last, axis)


def _starts(tape: Tape, count: int, each: int, step: int) -> ir.Value:
    """i // each * step for i below count, as int32."""
    first, last, one, size, far = (tape.constant(np.array(n, np.int32), "bound") for n in (0, count, 1, each, step))
    return tape("Mul", tape("Div", tape("Range", first, last, one), size), far)
