"""A table as blocks of words, each the product of two thinner matrices, looked up and scored without making it.

    one block    e = Gather(left, ids) @ right                                 [*ids, rank] @ [rank, width]
                 s = (x @ right.T) @ left.T

    several      p = Gather(place, ids)                                        where the word lies, [words] once
                 c_b = Gather(left_b, Clip(p - start_b, 0, words of b + 1))    its numbers in each block
                 e = Concat(c_1, c_2, ..) @ right                              [*ids, ranks] @ [ranks, width]
                 s = Gather(Concat(h_1 @ left_1.T, h_2 @ left_2.T, ..), place)     h = Split(x @ right.T)

A block's matrix has a row of zeros before its words and one behind: words of other blocks are clipped to these, so that
no mask is computed and each lookup copies rows. The alternative, one line of numbers read at offsets, would read them
number by number. A block that stays as it is adds its rows to the product; in scores it is one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..edit import Array, Tape
from .methods.blocks import Part

#: Rows of zeros that each of several blocks stores beside its words.
BESIDE = 2
#: Numbers of places that 16 bits hold.
_SHORT = 1 << 16


def place_bytes(words: int, count: int) -> int:
    """Bytes of the place of a word among so many blocks."""
    return 2 if words + BESIDE * count <= _SHORT else 4


@dataclass(frozen=True)
class Blocked:
    """place: for each word where it lies among the rows of all blocks, [words], less `least`; None for one block, whose
    rows are the words. lefts: [words of the block + 2, rank], those of a block that stays as it is [.., width]. right:
    the right sides of the others, one below the other, [ranks, width]. whole: which blocks stay as they are.
    """

    place: Array | None
    lefts: tuple[Array, ...]
    right: Array
    whole: tuple[bool, ...]

    @classmethod
    def of(cls, parts: Sequence[Part], words: int, dtype: np.dtype[np.generic]) -> Blocked:
        """Numbers become `dtype`."""
        rights = [part.right for part in parts if part.right is not None]
        width = (parts[0].left if parts[0].right is None else parts[0].right).shape[1]
        right = np.concatenate(rights) if rights else np.zeros((0, width))
        if len(parts) == 1 and rights:
            left = np.empty_like(parts[0].left)
            left[parts[0].members] = parts[0].left
            return cls(None, (left.astype(dtype),), right.astype(dtype), (False,))
        lefts = [np.pad(part.left, ((1, 1), (0, 0))).astype(dtype) for part in parts]
        place = np.zeros(words, np.int64)
        start = 1
        for part in parts:
            place[part.members] = start + np.arange(len(part.members))
            start += len(part.members) + BESIDE
        kind = np.int16 if place_bytes(words, len(parts)) == 2 else np.int32
        places = (place + np.iinfo(kind).min * (kind is np.int16)).astype(kind)
        return cls(places, tuple(lefts), right.astype(dtype), tuple(part.right is None for part in parts))

    @property
    def least(self) -> int:
        """What places are counted from: the least number of 16 bits, or 0."""
        return int(np.iinfo(np.int16).min) if self.place is not None and self.place.dtype == np.int16 else 0

    def dense(self) -> Array:
        """The table that it stands for."""
        if self.place is None:
            return _product(self.lefts[0], self.right)
        made, at = list[Array](), 0
        for left, whole in zip(self.lefts, self.whole, strict=True):
            if whole:
                made.append(left)
                continue
            made.append(_product(left, self.right[at : at + left.shape[1]]))
            at += left.shape[1]
        rows: Array = np.concatenate(made)
        return rows[self.place.astype(np.int64) - self.least]

    @property
    def bytes(self) -> int:
        """Bytes of both sides and of the places."""
        place = 0 if self.place is None else self.place.nbytes
        return sum(left.nbytes for left in self.lefts) + self.right.nbytes + place

    def rows(self, tape: Tape, ids: ir.Value, name: str) -> ir.Value:
        """Numbers of the words in all blocks, then one product."""
        lefts = self._lefts(tape, name)
        if self.place is None:
            return tape("MatMul", tape("Gather", lefts[0], ids, axis=0), self._right(tape, name))
        place = tape("Gather", tape.weight(self.place, f"{name}_place"), ids, axis=0)
        if self.place.dtype != np.int32:
            place = tape("Cast", place, to=ir.DataType.INT32)
        start, found = self.least, list[ir.Value]()
        for array, left in zip(self.lefts, lefts, strict=True):
            begin, none, last = (
                tape.constant(np.array(number, np.int32), "bound") for number in (start, 0, len(array) - 1)
            )
            at = tape("Clip", tape("Sub", place, begin), none, last)
            found.append(tape("Gather", left, at, axis=0))
            start += len(array)
        thin = [value for value, whole in zip(found, self.whole, strict=True) if not whole]
        sums = [value for value, whole in zip(found, self.whole, strict=True) if whole]
        if thin:
            joined = thin[0] if len(thin) == 1 else tape("Concat", *thin, axis=-1)
            sums.insert(0, tape("MatMul", joined, self._right(tape, name)))
        total = sums[0]
        for each in sums[1:]:
            total = tape("Add", total, each)
        return total

    def scores(self, tape: Tape, x: ir.Value, name: str) -> ir.Value:
        """Scores of each block, in the order of the words."""
        turned = [tape("Transpose", left, perm=[1, 0]) for left in self._lefts(tape, name)]
        thin = [array.shape[1] for array, whole in zip(self.lefts, self.whole, strict=True) if not whole]
        features = list[ir.Value]()
        if thin:
            narrow = tape("MatMul", x, tape("Transpose", self._right(tape, name), perm=[1, 0]))
            features = [narrow] if len(thin) == 1 else self._split(tape, narrow, thin)
        left_over = iter(features)
        found = [
            tape("MatMul", x if whole else next(left_over), side)
            for whole, side in zip(self.whole, turned, strict=True)
        ]
        if self.place is None:
            return found[0]
        place = tape.weight(self.place, f"{name}_place")
        if self.place.dtype != np.int32:
            first = tape.constant(np.array(self.least, np.int32), "bound")
            place = tape("Sub", tape("Cast", place, to=ir.DataType.INT32), first)
        joined = found[0] if len(found) == 1 else tape("Concat", *found, axis=-1)
        return tape("Gather", joined, place, axis=-1)

    def _lefts(self, tape: Tape, name: str) -> list[ir.Value]:
        several = len(self.lefts) > 1
        return [
            tape.weight(left, f"{name}_left{at}" if several else f"{name}_left") for at, left in enumerate(self.lefts)
        ]

    def _right(self, tape: Tape, name: str) -> ir.Value:
        return tape.weight(self.right, f"{name}_right")

    @staticmethod
    def _split(tape: Tape, value: ir.Value, sizes: Sequence[int]) -> list[ir.Value]:
        given = tape.constant(list(sizes), "split")
        return list(tape.node("Split", [value, given], {"axis": -1}, outputs=len(sizes)).outputs)


def _product(left: Array, right: Array) -> Array:
    return (left.astype(np.float64) @ right.astype(np.float64)).astype(left.dtype)
