"""Tables as tensor networks: rows are found by the digits of their ids, and the table is never made.

    id = (d1 n2 + d2) n3 + d3        row = G1[d1] G2[d2] G3[d3]        one Gather for each core, then small products

Hrinchuk et al., Tensorized Embedding Layers, 2020, equation 4, for tensor trains; Tucker, CP, block-term and Kronecker
tables are looked up the same way. Scores of a tied head are x [.., width] times the network the other way around.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.errors import PassError
from ..edit import Array, Tape
from ..lined import Dim
from ..replacing import counted_from_zero
from .contraction import Contraction, Held, Operand, Plan, cheapest
from .methods.network import Network

#: Rows at a time that the order of contractions is chosen for.
ROWS = 128


@dataclass(frozen=True, eq=False)
class NetworkTable:
    """A table [rows, width] whose rows' digits are `network.ins`."""

    network: Network

    def dense(self) -> Array:
        """The table that it stands for."""
        return self.network.dense()

    @property
    def bytes(self) -> int:
        """Bytes that it takes as stored."""
        return sum(factor.array.nbytes for factor in self.network.factors)

    @property
    def lookup(self) -> Plan:
        """The order in which the cores of a row are multiplied, and multiply-adds for so many rows."""
        ins = frozenset(self.network.ins)
        operands = [
            Operand(tuple(label for label in each.labels if label not in ins), bool(ins & set(each.labels)))
            for each in self.network.factors
        ]
        return self._cheapest(operands, self.network.outs)

    @property
    def scoring(self) -> Plan:
        """The order of a head's contractions."""
        operands = [Operand(self.network.outs, rows=True), *(Operand(each.labels) for each in self.network.factors)]
        return self._cheapest(operands, self.network.ins)

    def rows(self, tape: Tape, ids: ir.Value, name: str) -> ir.Value:
        """A Gather for each core, and the products of what they find."""
        ins, sizes = self.network.ins, self.network.sizes
        counted = counted_from_zero(tape, ids, self.network.shape[0])
        counted.type, counted.shape = ids.type, ids.shape
        lead: list[Dim] = [] if ids.shape is None else list(ids.shape)
        held = []
        for stored in self._stored(tape, name):
            digits = [label for label in stored.groups[0] if label in ins] if stored.groups else []
            if digits:
                at = _digits(tape, counted, [sizes[label] for label in ins], [ins.index(label) for label in digits])
                stored = Held(stored.groups[1:], True, tape("Gather", stored.value, at))
            held.append(stored)
        made = Contraction(tape, lead, self._dtype, sizes).run(held, self.lookup.tree, self.network.outs)
        return self._first(tape, made, self.network.shape[1], self.network.whole[1])

    def scores(self, tape: Tape, x: ir.Value, name: str) -> ir.Value:
        """x times the columns of all rows, [.., rows]."""
        lead: list[Dim] = [] if x.shape is None else list(x.shape)[:-1]
        (rows, width), (every, wide) = self.network.shape, self.network.whole
        dtype = x.dtype or self._dtype
        if wide > width:
            pads = [0] * (2 * len(lead) + 1) + [wide - width]
            zero = tape.constant(np.zeros((), dtype.numpy()), "zero")
            x = tape("Pad", x, tape.constant(pads, "pads"), zero)
        held = [Held((self.network.outs,), True, x), *self._stored(tape, name)]
        made = Contraction(tape, lead, dtype, self.network.sizes).run(held, self.scoring.tree, self.network.ins)
        return self._first(tape, made, rows, every)

    @property
    def _dtype(self) -> ir.DataType:
        return ir.DataType.from_numpy(self.network.factors[0].array.dtype)

    def _cheapest(self, operands: list[Operand], kept: tuple[str, ...]) -> Plan:
        largest = math.prod(self.network.shape) - 1
        found = cheapest(operands, kept, self.network.sizes, rows=ROWS, largest=largest)
        if found is None:
            raise PassError("a table of a tensor format has no order of contractions that does not make the table")
        return found

    def _stored(self, tape: Tape, name: str) -> list[Held]:
        """The cores, their digits first and in one axis: lookups and heads read the same."""
        found = []
        for at, factor in enumerate(self.network.factors):
            digits = tuple(label for label in self.network.ins if label in factor.labels)
            rest = tuple(label for label in factor.labels if label not in digits)
            array = factor.array.transpose([factor.labels.index(label) for label in digits + rest])
            array = array.reshape([-1, *array.shape[len(digits) :]]) if digits else array
            value = tape.weight(np.ascontiguousarray(array), f"{name}_core{at}")
            found.append(Held((*((digits,) if digits else ()), *((label,) for label in rest)), False, value))
        return found

    @staticmethod
    def _first(tape: Tape, value: ir.Value, count: int, every: int) -> ir.Value:
        if every == count:
            return value
        bounds = (tape.constant([number], "bound") for number in (0, count, -1))
        return tape("Slice", value, *bounds)


def _digits(tape: Tape, ids: ir.Value, sizes: list[int], wanted: list[int]) -> ir.Value:
    """The number that some digits of each id make, the slowest first."""
    dtype = (ids.dtype or ir.DataType.INT64).numpy()
    found: ir.Value | None = None
    runs = [at for at in wanted if at + 1 not in wanted]
    for last in runs:
        # neighbouring digits are one digit of a larger base
        first = last
        while first - 1 in wanted:
            first -= 1
        step, base = math.prod(sizes[last + 1 :]), math.prod(sizes[first : last + 1])
        digit = ids if step == 1 else tape("Div", ids, tape.constant(np.array(step, dtype), "step"))
        if first > 0:
            digit = tape("Mod", digit, tape.constant(np.array(base, dtype), "size"))
        if found is not None:
            found = tape("Add", tape("Mul", found, tape.constant(np.array(base, dtype), "size")), digit)
        else:
            found = digit
    assert found is not None  # a factor is looked up by a digit at least
    return found
