"""In which order a tensor network meets an activation, and the nodes that do it.

    x [rows, i1 i2] . A [i1, j1, r] . B [r, i2, j2]        x A first: rows * i1 * i2 * j1 * r, ..; or A B first, once

A contraction of two tensors takes as many multiply-adds as there are values of all labels that either has: rows times
as many where an activation is in it. Of all orders by pairs the cheapest is found by dynamic programming over subsets
(Pfeifer, Haegeman and Verstraete, Faster identification of optimal contraction sequences for tensor networks, 2014,
section II). Two constants may be multiplied first, once a run or when a runtime opens the model; what comes of it
holds no more numbers than `largest` allows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import onnx_ir as ir

from ...ir.constants import STORED
from ..edit import Array, Tape
from ..lined import Dim
from .methods.network import Factor, Labels

#: An operand by its number, or two that are contracted.
Tree = int | tuple["Tree", "Tree"]
Group = tuple[str, ...]


@dataclass(frozen=True)
class Operand:
    """The labels of a tensor; one of an activation has `rows` of it."""

    labels: Labels
    rows: bool = False


@dataclass(frozen=True)
class Plan:
    """The cheapest order, and the multiply-adds that it takes."""

    tree: Tree
    cost: int


def cheapest(
    operands: Sequence[Operand], kept: Labels, sizes: Mapping[str, int], *, rows: int, largest: float = math.inf
) -> Plan | None:
    """The order of least multiply-adds; None where `largest` leaves none.

    kept: labels of the result. rows: of the activation.
    """
    every = (1 << len(operands)) - 1
    labels = [frozenset(operand.labels) for operand in operands]

    def left(part: int) -> frozenset[str]:
        inside = _union(labels, part)
        return inside & (_union(labels, every & ~part) | frozenset(kept))

    best: dict[int, tuple[int, Tree]] = {1 << at: (0, at) for at in range(len(operands))}
    remaining = {1 << at: labels[at] for at in range(len(operands))}
    for count in range(2, len(operands) + 1):
        for chosen in combinations(range(len(operands)), count):
            part = sum(1 << at for at in chosen)
            remaining[part] = left(part)
            rowed = any(operands[at].rows for at in chosen)
            if not rowed and _size(remaining[part], sizes) > largest:
                continue
            found: tuple[int, Tree] | None = None
            first = part & -part
            other = (part - 1) & part
            while other:
                # each pair of halves once: the one that holds the first operand leads
                if other & first and other in best and part ^ other in best:
                    both = remaining[other] | remaining[part ^ other]
                    cost = best[other][0] + best[part ^ other][0] + (rows if rowed else 1) * _size(both, sizes)
                    if found is None or cost < found[0]:
                        found = cost, (best[other][1], best[part ^ other][1])
                other = (other - 1) & part
            if found is not None:
                best[part] = found
    return Plan(best[every][1], best[every][0]) if every in best else None


def _union(labels: Sequence[frozenset[str]], part: int) -> frozenset[str]:
    return frozenset().union(*(each for at, each in enumerate(labels) if part >> at & 1))


def _size(labels: Iterable[str], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[label] for label in labels)


@dataclass(frozen=True)
class Held:
    """A tensor while a network is contracted: its axes, each a run of labels, behind those of the rows if it has any.

    An axis of no label has one value. A constant that nothing was done to yet is an array.
    """

    groups: tuple[Group, ...]
    rows: bool
    value: ir.Value | None = None
    array: Array | None = None
    name: str = ""

    @property
    def order(self) -> Labels:
        """The labels in the order of memory."""
        return tuple(label for group in self.groups for label in group)

    @classmethod
    def of(cls, factor: Factor, name: str) -> Held:
        return cls(tuple((label,) for label in factor.labels), False, array=factor.array, name=name)


@dataclass
class Contraction:
    """Writes the nodes of a plan.

    lead: the sizes of the rows' axes, which stay as they are. dtype: of all numbers. sizes: of the labels.
    """

    tape: Tape
    lead: Sequence[Dim]
    dtype: ir.DataType
    sizes: Mapping[str, int]

    def run(self, operands: Sequence[Held], tree: Tree, kept: Labels) -> ir.Value:
        """What is left of all operands, [*lead, kept]."""
        left = [frozenset(operand.order) for operand in operands]

        def walk(part: Tree) -> tuple[Held, frozenset[int]]:
            if isinstance(part, int):
                return operands[part], frozenset([part])
            (first, held), (second, more) = walk(part[0]), walk(part[1])
            inside = held | more
            needed = frozenset(kept).union(*(each for at, each in enumerate(left) if at not in inside))
            return self._join(first, second, needed), inside

        return self.arranged(walk(tree)[0], [tuple(kept)])

    def _join(self, first: Held, second: Held, needed: frozenset[str]) -> Held:
        if second.rows and not first.rows:
            first, second = second, first
        shared = [label for label in first.order if label in second.order]
        batch = tuple(label for label in shared if label in needed)
        summed = tuple(label for label in shared if label not in needed)
        own = tuple(label for label in first.order if label not in shared)
        other = tuple(label for label in second.order if label not in shared)
        rows = first.rows or second.rows
        if batch and not other:
            # sum over s of x[.., p, h, s] a[h, s]
            lined = [own] if own else []
            a = self.arranged(first, [*lined, batch, *([summed] if summed else [])])
            b = self.arranged(second, [*([()] if own and second.rows else []), batch, *([summed] if summed else [])])
            found = self._made("Mul", [a, b], (*lined, batch, *([summed] if summed else [])), rows)
            if summed:
                axes = self.tape.constant([-1], "axes")
                found = self._made("ReduceSum", [found.value, axes], (*lined, batch), rows, keepdims=0)
            return found
        if batch and not summed and not own:
            # x[.., 1, h] b[n, h]
            a = self.arranged(first, [(), batch])
            return self._made("Mul", [a, self.arranged(second, [other, batch])], (other, batch), rows)
        if not batch and not second.rows:
            # x[.., p, s] b[s, n]; a vector of rows needs no axis of its own
            lined = [own] if own or not first.rows else []
            a, b = self.arranged(first, [*lined, summed]), self.arranged(second, [summed, other])
            return self._made("MatMul", [a, b], (*lined, other), rows)
        a = self.arranged(first, [*([batch] if batch else []), own, summed])
        b = self.arranged(second, [*([batch] if batch else []), summed, other])
        return self._made("MatMul", [a, b], (*([batch] if batch else []), own, other), rows)

    def arranged(self, held: Held, groups: Sequence[Group]) -> ir.Value:
        """The tensor with its labels in these runs."""
        wanted = tuple(groups)
        order = tuple(label for group in wanted for label in group)
        if held.array is not None:
            axes = [held.order.index(label) for label in order]
            array = held.array.transpose(axes).reshape([_size(group, self.sizes) for group in wanted])
            return self.tape.weight(np.ascontiguousarray(array), held.name)
        if held.order != order:
            held = self._reshaped(held, tuple((label,) for label in held.order))
            skipped = len(self.lead) if held.rows else 0
            perm = [*range(skipped), *(skipped + held.order.index(label) for label in order)]
            held = self._made("Transpose", [held.value], tuple((each,) for each in order), held.rows, perm=perm)
        value = self._reshaped(held, wanted).value
        assert value is not None  # only constants are arrays
        return value

    def _reshaped(self, held: Held, groups: tuple[Group, ...]) -> Held:
        if held.groups == groups:
            return held
        # a zero keeps the size of an axis that is in the same place
        lead = [0] * len(self.lead) if held.rows else []
        shape = self.tape.constant([*lead, *(_size(group, self.sizes) for group in groups)], "shape")
        return self._made("Reshape", [held.value, shape], groups, held.rows)

    def _made(
        self, op: str, inputs: Sequence[ir.Value | None], groups: tuple[Group, ...], rows: bool,
        perm: Sequence[int] | None = None, keepdims: int | None = None,
    ) -> Held:  # fmt: skip
        value = self.tape(op, *inputs, perm=perm, keepdims=keepdims)
        if not rows:
            # folding it would store what the factors are there for
            producer(value).metadata_props[STORED] = "weight"
        value.type = ir.TensorType(self.dtype)
        lead = list(self.lead) if rows else []
        value.shape = ir.Shape([*lead, *(_size(group, self.sizes) for group in groups)])
        return Held(groups, rows, value)


def producer(value: ir.Value) -> ir.Node:
    """The node that a recorded value comes from."""
    node = value.producer()
    assert node is not None  # recorded values are outputs
    return node
