"""A weight with zeros: the numbers that are kept, and which those are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..edit import Array, Tape
from ..functions import Function
from . import packing

Bools = NDArray[np.bool_]

#: Kept numbers lie behind one that is zero: the k-th cell that is kept is number k, every other one is number 0.
UNMASK = Function(
    "Unmask (kept, mask) => (cells) {\n"
    "  last = Constant <value_ints: ints = [-1]> ()\n"
    "  first = Constant <value_int: int = 0> ()\n"
    "  flat = Reshape (mask, last)\n"
    "  wide = Cast <to: int = 6> (flat)\n"
    "  count = CumSum (wide, first)\n"
    "  at = Mul (count, wide)\n"
    "  cells = Gather <axis: int = 0> (kept, at)\n"
    "}"
)
#: Codes of more bits would be bytes, which constant folding takes for numbers like any others.
_MOST_BITS = 7


@dataclass(frozen=True)
class Masked:
    """weight = values where the mask is set, and zero elsewhere.

    mask: which cells are kept, [rows / tall, columns / wide]; a cell is a tile of `tall` x `wide` neighbours. values:
    what is in the kept cells, in the order of the mask, [kept, tall, wide].
    group: (N, M) where just N of every M neighbouring cells along `axis` are kept: the file then has the number of each
    group's pattern among all there are, where that is shorter than M bits.
    """

    values: Array
    mask: Bools
    group: tuple[int, int] = (0, 0)
    axis: int = 0

    @classmethod
    def of(
        cls,
        weight: Array,
        mask: Bools,
        *,
        tile: tuple[int, int] = (1, 1),
        group: tuple[int, int] = (0, 0),
        axis: int = 0,
    ) -> Masked:
        """The numbers of a weight [rows, columns] in the cells that a mask keeps, [rows / tall, columns / wide].

        Raises ValueError where tiles do not fill the weight, or groups do not have what they are said to have.
        """
        (tall, wide), (down, across) = tile, mask.shape
        if weight.shape != (down * tall, across * wide):
            raise ValueError(
                f"expected a weight {(down * tall, across * wide)} for {down} x {across} tiles of {tall} x {wide}, "
                f"found {weight.shape}"
            )
        kept, size = group
        if size and (mask.shape[axis] % size or (_grouped(mask, size, axis).sum(-1) != kept).any()):
            raise ValueError(
                f"expected {kept} of every {size} cells along axis {axis} of a mask {mask.shape} to be set"
            )
        cells = weight.reshape(down, tall, across, wide).transpose(0, 2, 1, 3)
        return cls(cells[mask], mask, group, axis)

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a cell."""
        tall, wide = self.values.shape[1:]
        return tall, wide

    @property
    def shape(self) -> tuple[int, int]:
        """The weight's."""
        (tall, wide), (down, across) = self.tile, self.mask.shape
        return down * tall, across * wide

    def dense(self) -> Array:
        """The weight it stands for."""
        cells: Array = np.zeros((*self.mask.shape, *self.tile), self.values.dtype)
        cells[self.mask] = self.values
        dense: Array = cells.transpose(0, 2, 1, 3).reshape(self.shape)
        return dense

    def transposed(self) -> Masked:
        """The same numbers for a matrix that is stored the other way around."""
        return Masked.of(self.dense().T, self.mask.T, tile=self.tile[::-1], group=self.group, axis=1 - self.axis)

    @property
    def bits(self) -> int:
        """Bits of a group's pattern, 0 where the mask is stored bit by bit."""
        kept, size = self.group
        # there are at most 2^(size - 1) patterns
        bits = (comb(size, kept) - 1).bit_length() if size else 0
        return bits if bits <= _MOST_BITS else 0

    @property
    def bytes(self) -> int:
        """Bytes of the kept numbers, of one zero before them and of the mask as stored."""
        kept, size = self.group
        cell = self.values.itemsize * self.tile[0] * self.tile[1]
        if not self.bits:
            mask = packing.stored(self.mask.size, 1)
        else:
            mask = packing.stored(self.mask.size // size, self.bits) + comb(size, kept) * size
        return int((len(self.values) + 1) * cell + mask)

    def emit(self, tape: Tape, name: str) -> ir.Value:
        """The mask unpacked, and each kept number fetched to where it belongs."""
        (tall, wide), (down, across) = self.tile, self.mask.shape
        nothing = np.zeros((1, tall, wide), self.values.dtype)
        numbers = np.concatenate([nothing, self.values])
        single = tall * wide == 1
        kept = tape.weight(numbers.reshape(-1) if single else numbers, f"{name}_kept")
        mask = self._patterns(tape, name) if self.bits else packing.emit(tape, self.mask, 1, f"{name}_mask")
        value = UNMASK(tape, kept, mask)
        if not single:
            value = tape("Reshape", value, tape.constant([down, across, tall, wide], "shape"))
            value = tape("Transpose", value, perm=[0, 2, 1, 3])
        value = tape("Reshape", value, tape.constant(list(self.shape), "shape"))
        value.shape, value.type = ir.Shape(self.shape), ir.TensorType(ir.DataType.from_numpy(self.values.dtype))
        return value

    def _patterns(self, tape: Tape, name: str) -> ir.Value:
        """The mask, looked up for each group by the number of its pattern."""
        kept, size = self.group
        table = _table(kept, size)
        place = 1 << np.arange(size)
        # sorted by what the pattern is as a number, so that it is found again by that
        numbers = np.searchsorted(table @ place, _grouped(self.mask, size, self.axis) @ place)
        codes = packing.emit(tape, numbers.astype(np.uint8), self.bits, f"{name}_mask")
        at = tape("Cast", codes, to=ir.DataType.INT32)
        mask = tape("Gather", tape.weight(table, f"{name}_patterns"), at, axis=0)
        return mask if self.axis else tape("Transpose", mask, perm=[0, 2, 1])


def _grouped(mask: Bools, size: int, axis: int) -> Bools:
    """The groups of a mask, [rows, columns / size, size], or [rows / size, columns, size] of those along axis 0."""
    rows, columns = mask.shape
    if axis:
        return mask.reshape(rows, columns // size, size)
    return mask.reshape(rows // size, size, columns).transpose(0, 2, 1)


@cache
def _table(kept: int, size: int) -> NDArray[np.uint8]:
    """Every pattern of `kept` among `size`, [patterns, size], in the order of the numbers whose bits they are."""
    found = np.zeros((comb(size, kept), size), np.uint8)
    for row, places in enumerate(combinations(range(size), kept)):
        found[row, list(places)] = 1
    order = np.argsort(found @ (1 << np.arange(size)))
    return found[order]
