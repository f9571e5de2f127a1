"""Units of blocks that may be put in any order, so that the weights of two blocks can be compared unit by unit.

    block 0   W0 [384, 1536], b0 [1536], V0 [1536, 384]            one family: 1,536 neurons, and where in each
    block 1   W1 [384, 1536], b1 [1536], V1 [1536, 384]            constant of each block they lie

Neurons and heads, with the queries that share each one's keys and values, are what `ir.axes` ties together and nothing
holds: a permutation of them changes no answer. What a cache among the model's inputs and outputs has, what an op
without a rule reads, and what blocks share already stays in its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.axes import Axis, Dependencies, Group, Role, places
from ...ir.constants import constant_of, tensor_of
from ..edit import Array
from ..numerics.assignment import Order
from ..twins import Read

#: Where two blocks read what belongs together.
Twins = Mapping[Read, Read]


@dataclass(frozen=True)
class Slot:
    """Where units lie along an axis of a constant; rows: the places of each, [units, places]."""

    value: ir.Value
    at: int
    rows: NDArray[np.intp]

    def by_unit(self, array: Array) -> Array:
        """The numbers of each unit, [units, numbers], of a constant as it is stored."""
        found: Array = np.moveaxis(array, self.at, 0)[self.rows].reshape(len(self.rows), -1)
        return found

    def moved(self, array: Array, order: Order) -> Array:
        """The constant with unit `order[k]` at place k."""
        index = np.arange(array.shape[self.at])
        index[self.rows] = self.rows[order]
        return np.take(array, index, axis=self.at)


@dataclass(frozen=True)
class Family:
    """Units that every one of some blocks has: of each block the slots, in the same order."""

    size: int
    heads: bool
    slots: tuple[tuple[Slot, ...], ...]

    def reorder(self, block: int, order: Order) -> None:
        """Put the units of a block in another order; what it computes stays."""
        for slot in self.slots[block]:
            tensor = tensor_of(slot.value)
            assert tensor is not None
            moved = slot.moved(tensor.numpy(), order)
            slot.value.const_value = ir.Tensor(moved, dtype=tensor.dtype, name=slot.value.name)


def families(found: Dependencies, twins: Sequence[Twins]) -> list[Family]:
    """What may be reordered in all of some blocks; twins: of the first with each of them, itself among them."""
    inside = [{*each.values()} for each in twins]
    made = []
    for group in found.groups:
        if not _movable(group, inside[0]):
            continue
        slots = [_slots(found, group, each, reads) for each, reads in zip(twins, inside, strict=True)]
        known = tuple(each for each in slots if each is not None)
        if len(known) == len(twins):
            made.append(Family(group.size, Role.HEADS in group.roles, known))
    return made


def _movable(group: Group, inside: set[Read]) -> bool:
    """Whether nothing but the order of a group's units changes with it, and one block alone has it."""
    return (
        group.size > 1
        and group.free
        and not group.roles & {Role.HEAD_FEATURES, Role.UNITS}
        and all(value.is_initializer() and _within(value, inside) for value, _ in group.weights)
    )


def _within(value: ir.Value, inside: set[Read]) -> bool:
    return not value.is_graph_output() and all((use.node, use.idx) in inside for use in value.uses())


def _slots(found: Dependencies, group: Group, twins: Twins, inside: set[Read]) -> tuple[Slot, ...] | None:
    """Where the units that are to a block what a group is to the first one lie; None where they are none."""
    made, leaves = [], set[Axis]()
    for value, at in group.weights:
        use = next(iter(value.uses()))
        node, index = twins[use.node, use.idx]
        twin, mine = node.inputs[index], found.axis(value, at)
        theirs = None if twin is None else found.axis(twin, at)
        if twin is None or mine is None or theirs is None:
            return None
        number = list(mine.leaves()).index(group.axis)
        others = list(theirs.leaves())
        if number >= len(others):
            return None
        leaf = others[number]
        leaves.add(leaf)
        rows = _rows(theirs, leaf, group.size)
        if rows is None:
            return None
        made.append(Slot(twin, at, rows))
    other = found.group(leaves.pop()) if len(leaves) == 1 else None
    same = other is not None and other.size == group.size and len(other.weights) == len(group.weights)
    return tuple(made) if other is not None and same and _movable(other, inside) else None


def _rows(axis: Axis, leaf: Axis, size: int) -> NDArray[np.intp] | None:
    owners = places(axis, leaf)
    if owners is None:
        return None
    order = np.argsort(owners, kind="stable")[np.count_nonzero(owners < 0) :]
    return order.reshape(size, -1) if len(order) % size == 0 else None


def rows_of(family: Family, block: int, values: set[ir.Value]) -> Array:
    """The numbers of each unit in those constants of a block, [units, numbers]."""
    parts = [slot.by_unit(_numbers(slot.value)) for slot in family.slots[block] if slot.value in values]
    return np.concatenate(parts, axis=1) if parts else np.zeros((family.size, 0), np.float32)


def _numbers(value: ir.Value) -> Array:
    array = constant_of(value)
    assert array is not None
    return array.astype(np.float32) if array.dtype.itemsize < 4 else array
