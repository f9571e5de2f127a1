"""Which constants of two blocks of one shape belong together, whatever the order of their nodes.

Weights, biases and scales are twins where the same path leads from them to the block's end.
"""

from __future__ import annotations

from itertools import permutations
from typing import NamedTuple

import onnx_ir as ir

from ..ir.block import Block
from ..ir.constants import tensor_of
from ..ir.text import place

#: A node and which of its inputs.
Read = tuple[ir.Node, int]
#: Nodes of one block, each with that of the other and the order in which its inputs are there.
Matched = dict[ir.Node, tuple[ir.Node, tuple[int, ...]]]

_COMMUTATIVE = frozenset(("Add", "Mul", "Max", "Min", "Sum"))


def twins(one: Block, other: Block) -> dict[Read, Read] | None:
    """Where two blocks read the constants of floats that belong together; None where the blocks are not alike."""
    found: dict[Read, Read] = {}
    pairs = matched(one, other)
    if pairs is None:
        return None
    for node, (twin, order) in pairs.items():
        for at, there in enumerate(order):
            tensor = tensor_of(node.inputs[at])
            if tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1:
                found[node, at] = twin, there
    return found


def matched(one: Block, other: Block) -> Matched | None:
    """The nodes that lead to the end of one block, with those of the other; None where the blocks are not alike."""
    return _Matching(one, other).values(one.output, other.output, {})


def unlike(one: Block, other: Block) -> str | None:
    """In what two blocks differ first, an attribute if there is one; None where they are alike."""
    walk = _Matching(one, other)
    if walk.values(one.output, other.output, {}) is not None:
        return None
    return next((why for why in walk.why if why.attribute), walk.why[0]).text if walk.why else "other nodes"


class _Why(NamedTuple):
    text: str
    attribute: bool = False


class _Matching:
    """Walks two blocks from their ends to their starts at once; why: in what they were seen to differ."""

    def __init__(self, one: Block, other: Block) -> None:
        self.blocks = one, other
        self.inside = set(one.nodes), set(other.nodes)
        self.why: list[_Why] = []

    def values(self, mine: ir.Value | None, theirs: ir.Value | None, known: Matched) -> Matched | None:
        """`known` with what two values are computed from; None where that differs."""
        if mine is None or theirs is None:
            return known if mine is theirs else None
        held = tensor_of(mine), tensor_of(theirs)
        if held[0] is not None or held[1] is not None:
            alike = held[0] is not None and held[1] is not None and held[0].shape == held[1].shape
            if not alike:
                sizes = ["computed" if each is None else str(list(each.shape)) for each in held]
                self.why.append(_Why(f"a constant of {sizes[0]}, of {sizes[1]} there"))
            return known if alike else None
        begins = mine is self.blocks[0].input, theirs is self.blocks[1].input
        nodes = mine.producer(), theirs.producer()
        inside = nodes[0] in self.inside[0], nodes[1] in self.inside[1]
        if True in begins or inside != (True, True) or nodes[0] is None or nodes[1] is None:
            return known if begins[0] == begins[1] and inside[0] == inside[1] else None
        if mine.index() != theirs.index():
            return None
        if nodes[0] in known:
            return known if known[nodes[0]][0] is nodes[1] else None
        return self._nodes(nodes[0], nodes[1], known)

    def _nodes(self, mine: ir.Node, theirs: ir.Node, known: Matched) -> Matched | None:
        if _kind(mine) != _kind(theirs):
            self.why.append(_difference(mine, theirs))
            return None
        count = len(mine.inputs)
        orders = permutations(range(count)) if mine.op_type in _COMMUTATIVE and count == 2 else [tuple(range(count))]
        for order in orders:
            found: Matched | None = known
            for at, there in enumerate(order):
                found = None if found is None else self.values(mine.inputs[at], theirs.inputs[there], found)
            if found is not None:
                return {**found, mine: (theirs, order)}
        return None


def _difference(mine: ir.Node, theirs: ir.Node) -> _Why:
    """In what two nodes differ."""
    if mine.op_identifier() != theirs.op_identifier():
        return _Why(f"{place(mine)}, {theirs.op_type} there")
    for name in sorted({*mine.attributes, *theirs.attributes}):
        found = [node.attributes[name].value if name in node.attributes else None for node in (mine, theirs)]
        if str(found[0]) != str(found[1]):
            return _Why(f"{name}={found[0]} of {place(mine)}, {name}={found[1]} there", attribute=True)
    return _Why(f"{place(mine)}, other inputs there")


def _kind(node: ir.Node) -> tuple[object, ...]:
    attributes = sorted((name, str(attr.type), str(attr.value)) for name, attr in node.attributes.items())
    return node.domain, node.op_type, node.overload, len(node.inputs), len(node.outputs), attributes
