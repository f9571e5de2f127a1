"""Which constants of two blocks of one shape belong together, whatever the order of their nodes.

Weights, biases and scales are twins where the same path leads from them to the block's end.
"""

from __future__ import annotations

from itertools import permutations

import onnx_ir as ir

from ..ir.block import Block
from ..ir.constants import tensor_of

#: A node and which of its inputs.
Read = tuple[ir.Node, int]

_COMMUTATIVE = frozenset(("Add", "Mul", "Max", "Min", "Sum"))


def twins(one: Block, other: Block) -> dict[Read, Read] | None:
    """Where two blocks read the constants of floats that belong together; None where the blocks are not alike."""
    matched = _Matching(one, other).values(one.output, other.output, {})
    if matched is None:
        return None
    found: dict[Read, Read] = {}
    for node, (twin, order) in matched.items():
        for at, there in enumerate(order):
            tensor = tensor_of(node.inputs[at])
            if tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1:
                found[node, at] = twin, there
    return found


#: Nodes of one block, each with that of the other and the order in which its inputs are there.
_Matched = dict[ir.Node, tuple[ir.Node, tuple[int, ...]]]


class _Matching:
    """Walks two blocks from their ends to their starts at once."""

    def __init__(self, one: Block, other: Block) -> None:
        self.blocks = one, other
        self.inside = set(one.nodes), set(other.nodes)

    def values(self, mine: ir.Value | None, theirs: ir.Value | None, known: _Matched) -> _Matched | None:
        """`known` with what two values are computed from; None where that differs."""
        if mine is None or theirs is None:
            return known if mine is theirs else None
        held = tensor_of(mine), tensor_of(theirs)
        if held[0] is not None or held[1] is not None:
            alike = held[0] is not None and held[1] is not None and held[0].shape == held[1].shape
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

    def _nodes(self, mine: ir.Node, theirs: ir.Node, known: _Matched) -> _Matched | None:
        if _kind(mine) != _kind(theirs):
            return None
        count = len(mine.inputs)
        orders = permutations(range(count)) if mine.op_type in _COMMUTATIVE and count == 2 else [tuple(range(count))]
        for order in orders:
            found: _Matched | None = known
            for at, there in enumerate(order):
                found = None if found is None else self.values(mine.inputs[at], theirs.inputs[there], found)
            if found is not None:
                return {**found, mine: (theirs, order)}
        return None


def _kind(node: ir.Node) -> tuple[object, ...]:
    attributes = sorted((name, str(attr.type), str(attr.value)) for name, attr in node.attributes.items())
    return node.domain, node.op_type, node.overload, len(node.inputs), len(node.outputs), attributes
