"""What stands for a stored table, and the way into the graph.

    e = Gather(table, ids)                      e = lookup.rows(ids)
    logits = x @ table.T + b                    logits = lookup.scores(x) + b

A pass finds tables (`passes.lookups`), makes a `Lookup` of each that it takes on and `put`s it there: lookups and heads
read the same numbers, stored once, and the table is never made whole.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import onnx_ir as ir

from ..ir.site import Site
from .edit import Array, Ledger, Tape, replace
from .lined import lined, unlined
from .lookups import Table, mark


class Lookup(Protocol):
    """What stands for a table [rows, width]: numbers whose rows are found, and scored, without making the table.

    Arrays go into the graph by `tape.weight(array, name)`, with names that begin with the one that is given: what is
    stored by one name with the same numbers is stored once, whoever asks. Floats are of the type that the table is
    stored in. Results need neither type nor shape.
    """

    def dense(self) -> Array:
        """The table that it stands for."""

    @property
    def bytes(self) -> int:
        """Bytes that it takes as stored."""

    def rows(self, tape: Tape, ids: ir.Value, name: str) -> ir.Value:
        """Record the nodes that find rows, [*ids, width].

        ids: int32 or int64 of any shape, from -rows to rows - 1 as in ONNX's Gather (see `counted_from_zero`).
        """

    def scores(self, tape: Tape, x: ir.Value, name: str) -> ir.Value:
        """Record the nodes that compute x @ table.T, [.., rows], for x [.., width], typed as far as the activation is.

        Floats that the tape stores here are read in the type of x.
        """


def put(table: Table, lookup: Lookup) -> None:
    """Let `lookup` stand for a table that is not held, and note that it does; what nobody reads then goes.

    Types and shapes of what lies between are left to `ir.shape_annotate.annotate`, once for a model.
    """
    home = table.weight.graph
    assert isinstance(home, ir.Graph)  # a table that is not held is an initializer
    shelf, name = _Shelf(home), table.weight.name or "table"
    for site in table.lookups:
        tape = _Stored(shelf)
        ids = site.node.inputs[1]
        assert ids is not None
        found = lookup.rows(tape, ids, name)
        read = _read(site)
        if read is not None and read != table.weight.dtype:
            found = tape("Cast", found, to=read)
        mark(tape.nodes)
        replace(tape, [site.node.outputs[0]], [found], matched=[site.node])
    for site in table.heads:
        tape = _Stored(shelf, site.activation.dtype)
        found = _scored(tape, site, lookup, name)
        mark(tape.nodes)
        replace(tape, [site.node.outputs[0]], [found], matched=[site.node])


def counted_from_zero(tape: Tape, ids: ir.Value, rows: int) -> ir.Value:
    """Ids as they count from 0, for what reads them otherwise than Gather does."""
    zero, all_of_them = (tape.constant(np.array(number, _integers(ids)), "bound") for number in (0, rows))
    return tape("Where", tape("Less", ids, zero), tape("Add", ids, all_of_them), ids)


def _scored(tape: Tape, site: Site, lookup: Lookup, name: str) -> ir.Value:
    """What the node of a head computes, by the scores of what stands for the table."""
    found = lookup.scores(tape, lined(tape, site), name)
    if site.alpha != 1:
        scalar = (site.activation.dtype or ir.DataType.FLOAT).numpy()
        found = tape("Mul", found, tape.constant(np.array(site.alpha, scalar), "alpha"))
    return unlined(tape, site, found)


def _read(site: Site) -> ir.DataType | None:
    """The type that a lookup gives rows in."""
    table = site.node.inputs[0]
    return site.node.outputs[0].dtype or (None if table is None else table.dtype)


def _integers(ids: ir.Value) -> np.dtype[np.generic]:
    return (ids.dtype or ir.DataType.INT64).numpy()


@dataclass(eq=False)
class _Shelf:
    """Arrays that stand for a table, in the graph that it is stored in: each is there once."""

    home: ir.Graph
    held: dict[str, list[tuple[Array, ir.Value]]] = field(default_factory=dict)

    def value(self, array: Array, name: str) -> ir.Value:
        known = self.held.setdefault(name, [])
        for other, value in known:
            if other is array or (other.dtype == array.dtype and np.array_equal(other, array)):
                return value
        value = Tape().weight(array, Ledger.of(self.home).unique(name))
        self.home.register_initializer(value)
        known.append((array, value))
        return value


class _Stored(Tape):
    """A tape whose weights are kept on a shelf. read: the type that floats are read in, where that is not their own."""

    def __init__(self, shelf: _Shelf, read: ir.DataType | None = None) -> None:
        super().__init__()
        self.shelf, self.read = shelf, read
        self.cast: dict[ir.Value, ir.Value] = {}

    def weight(self, array: Array, name: str) -> ir.Value:
        value = self.shelf.value(array, name)
        dtype = value.dtype
        if self.read is None or dtype is None or not dtype.is_floating_point() or dtype == self.read:
            return value
        if value not in self.cast:
            self.cast[value] = self("Cast", value, to=self.read)
        return self.cast[value]
