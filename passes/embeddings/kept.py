"""Some words with vectors of their own, and the others by what they share.

    word v  =  own[place(v)] where it has one, else the lookup of the rest

Which of them it is stands beside the codes, as does the place: the table is never made whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..edit import Array, Tape
from .composed import Composed
from .scanning import narrow


@dataclass(frozen=True)
class Kept:
    """common: numbers of the words whose vectors are `own`, [common, columns]. rest: stands for all words."""

    common: NDArray[np.int64]
    own: Array
    rest: Composed

    def dense(self) -> Array:
        """The table it stands for."""
        found = self.rest.dense().copy()
        found[self.common] = self.own
        return found

    @property
    def bytes(self) -> int:
        """Bytes of vectors, of places and of the rest as stored."""
        return int(self.own.nbytes + self._places.nbytes) + self.rest.bytes

    def rows(self, tape: Tape, ids: ir.Value, name: str) -> ir.Value:
        """The words of ids [..], as [.., columns]."""
        place = tape("Gather", tape.weight(self._places, f"{name}_places"), ids, axis=0)
        place = tape("Cast", place, to=ir.DataType.INT32)
        count = tape.constant(np.array(len(self.own), np.int32), "count")
        last = tape.constant(np.array(len(self.own) - 1, np.int32), "last")
        within = tape("Min", place, last)
        # one place for each word: an axis too many
        axis = tape.constant([-2], "axes")
        own = tape("Squeeze", tape("Gather", tape.weight(self.own, f"{name}_own"), within, axis=0), axis)
        return tape("Where", tape("Less", place, count), own, self.rest.rows(tape, ids, name))

    def scores(self, tape: Tape, x: ir.Value, name: str) -> ir.Value:
        """Activations [.., columns] times every word, [.., words]."""
        own = tape("Transpose", tape.weight(self.own, f"{name}_own"), perm=[1, 0])
        kept, rest = tape("MatMul", x, own), self.rest.scores(tape, x, name)
        places = tape("Cast", tape.weight(self._places, f"{name}_places"), to=ir.DataType.INT32)
        last = tape.constant(np.array(len(self.own) - 1, np.int32), "last")
        flat = tape("Squeeze", tape("Min", places, last), tape.constant([-1], "axes"))
        here = tape("Gather", kept, flat, axis=-1)
        count = tape.constant(np.array(len(self.own), np.int32), "count")
        has = tape("Squeeze", tape("Less", places, count), tape.constant([-1], "axes"))
        return tape("Where", has, here, rest)

    @property
    def _places(self) -> NDArray[np.generic]:
        """[words, 1]: where the vector of a word is, or how many there are for a word without."""
        places = np.full((self.rest.shape[0], 1), len(self.own), np.int64)
        places[self.common, 0] = np.arange(len(self.own))
        return narrow(places)
