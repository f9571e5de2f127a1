"""What a gated recurrence does to its state, read off the arithmetic whatever its order.

    c' = f * c + i * g         f, i sigmoids or one minus a sigmoid, g a tanh, c the state
    h' = (1 - z) * n + z * h   the same with one sigmoid: also n + z * (h - n), h - z * (h - n), ...

The sums and products between are multiplied out to a polynomial, so that only what is computed counts. Which value is
the state is found by trying: with the right one the polynomial is one of these forms, with any other it is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ...edit import is_op, scalar_of
from .blocks import Range, part, width

#: A polynomial: products of values, each with its factor.
Polynomial = dict[frozenset[ir.Value], float]

_ARITHMETIC = ("Add", "Sub", "Mul", "Neg", "Sum", "Identity")
_DEPTH = 5
_MONOMIALS = 8
_TRIED = 16


@dataclass(frozen=True)
class Gate:
    """`value` is function(whole[columns]), or one minus that where it is `flipped`."""

    value: ir.Value
    whole: ir.Value
    columns: Range
    flipped: bool = False


@dataclass(frozen=True)
class Update:
    """result = keep * state + take * new"""

    result: ir.Value
    state: ir.Value
    new: Gate
    keep: Gate
    take: Gate

    @property
    def coupled(self) -> bool:
        """Whether keep = 1 - take."""
        return self.keep.value is self.take.value and self.keep.flipped != self.take.flipped


def gate(value: ir.Value | None, function: str) -> Gate | None:
    """The nonlinearity behind a value, applied to all gates before they are cut apart or to this one after."""
    if value is None:
        return None
    node, columns = value.producer(), None
    cut = part(value)
    if cut is not None:
        node, columns = cut[0].producer(), cut[1]
    if not is_op(node, function) or node.inputs[0] is None:
        return None
    size = width(value)
    if columns is None and size is not None:
        columns = (0, size)
    return None if columns is None else Gate(value, node.inputs[0], columns)


def updates(result: ir.Value) -> Iterator[Update]:
    """The ways to read `result` as the next state of a gated recurrence; one at most, but for symmetric graphs."""
    for state in ingredients(result):
        expanded = _expand(result, state, _DEPTH)
        found = None if expanded is None else _read(result, expanded, state)
        if found is not None:
            yield found


def arithmetic_readers(value: ir.Value) -> Iterator[ir.Value]:
    """What sums and products make of a value, nearest first."""
    frontier = [value]
    for _ in range(_DEPTH):
        nodes = dict.fromkeys(node for item in frontier for node in item.consumers() if is_op(node, *_ARITHMETIC))
        frontier = [node.outputs[0] for node in nodes][:_TRIED]
        yield from frontier


def between(result: ir.Value, tops: set[ir.Value]) -> set[ir.Node]:
    """The arithmetic that makes `result` of `tops`."""
    found: set[ir.Node] = set()
    frontier = [result]
    for _ in range(_DEPTH + 1):
        nodes = [value.producer() for value in frontier if value not in tops]
        inner = [node for node in nodes if is_op(node, *_ARITHMETIC) and node not in found]
        found.update(inner)
        frontier = [value for node in inner for value in node.inputs if value is not None]
    return found


def ingredients(result: ir.Value) -> list[ir.Value]:
    """The values that may be the state: those that sums and products make `result` of."""
    found: dict[ir.Value, None] = {}
    frontier = [result]
    for _ in range(_DEPTH):
        nodes = [node for value in frontier if is_op(node := value.producer(), *_ARITHMETIC)]
        inputs = [value for node in nodes for value in node.inputs if value is not None and scalar_of(value) is None]
        frontier = [value for value in inputs if value not in found][:_TRIED]
        found.update(dict.fromkeys(frontier))
    return list(found)[:_TRIED]


def _expand(value: ir.Value, state: ir.Value, depth: int) -> Polynomial | None:
    if value is state:
        return {frozenset((value,)): 1.0}
    number = scalar_of(value)
    if number is not None:
        return {frozenset(): number}
    node = value.producer()
    if not is_op(node, *_ARITHMETIC) or depth == 0:
        return {frozenset((value,)): 1.0}
    inputs = [None if item is None else _expand(item, state, depth - 1) for item in node.inputs]
    known = [item for item in inputs if item is not None]
    if len(known) != len(inputs) or not known:
        return None
    if node.op_type == "Mul":
        return _multiplied(known[0], known[1])
    signs = [-1.0 if node.op_type == "Neg" or (node.op_type == "Sub" and index) else 1.0 for index in range(len(known))]
    return _summed(known, signs)


def _summed(parts: list[Polynomial], signs: list[float]) -> Polynomial | None:
    total: Polynomial = {}
    for terms, sign in zip(parts, signs, strict=True):
        for values, factor in terms.items():
            total[values] = total.get(values, 0.0) + sign * factor
    total = {values: factor for values, factor in total.items() if factor != 0.0}
    return total if len(total) <= _MONOMIALS else None


def _multiplied(left: Polynomial, right: Polynomial) -> Polynomial | None:
    total: Polynomial = {}
    for values, factor in left.items():
        for others, other in right.items():
            if values & others:
                return None  # a square is in none of the forms
            total[values | others] = total.get(values | others, 0.0) + factor * other
    return total if len(total) <= _MONOMIALS else None


def _read(result: ir.Value, expanded: Polynomial, state: ir.Value) -> Update | None:
    kept = {values - {state}: factor for values, factor in expanded.items() if state in values}
    rest = {values: factor for values, factor in expanded.items() if state not in values}
    common = frozenset.intersection(*rest) if rest else frozenset()
    keep = _coefficient(kept)
    for value in common:
        new = gate(value, "Tanh")
        take = _coefficient({values - {value}: factor for values, factor in rest.items()})
        if new is not None and keep is not None and take is not None:
            return Update(result, state, new, keep, take)
    return None


def _coefficient(terms: Mapping[frozenset[ir.Value], float]) -> Gate | None:
    """s or 1 - s, for a sigmoid s."""
    single = [values for values in terms if values]
    if len(single) != 1 or len(single[0]) != 1:
        return None
    (value,) = single[0]
    found, factor, one = gate(value, "Sigmoid"), terms[single[0]], terms.get(frozenset())
    if found is None or (factor, one) not in ((1.0, None), (-1.0, 1.0)):
        return None
    return found if one is None else Gate(value, found.whole, found.columns, flipped=True)
