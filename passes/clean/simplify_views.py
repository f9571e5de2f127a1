"""Do with the fewest reshapes and transposes what a chain of them does.

    before   x --> Transpose (1, 0) --> Reshape --> Unsqueeze --> Transpose --> y
    after    x --> Reshape --> y                    or what else of Reshape, Transpose, Reshape it comes down to

Exact: a chain is one rearrangement of what it starts from (`ir.layout`), however it is spelled; the fewest steps that
make it are written instead where they are fewer nodes, or as many and fewer transposes or computed targets. What gives
back what it started from goes. Left alone: chains through sizes that are not known to be products of each other, and
steps whose results something else reads, which would have to be made anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.arrangement import Arrangement, Kept, arrange
from ...ir.constants import is_constant
from ...ir.layout import View, views, whole
from ..arrange import arranged
from ..base import Match, Miss, Rewrite
from ..edit import Tape, is_op, replace, stand_in

#: Nodes, how many of them are transposes, and how many have a computed target.
Cost = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Chain(Match):
    """What makes the result of a chain, and the nodes that it makes superfluous."""

    plan: Arrangement
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True, kw_only=True)
class SimplifyViews(Rewrite):
    """Reshapes and transposes in a row -> the fewest that do the same"""

    name: ClassVar[str] = "simplify-views"
    anchors: ClassVar[tuple[str, ...]] = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")

    def match(self, node: ir.Node) -> Match | Miss:
        value = node.outputs[0]
        best: Chain | None = None
        least: Cost = (0, 0, 0)
        count = 0
        for view, nodes in _chains(node):
            count += 1
            root = whole(view.root)
            plan = None if root is None else arrange(view.root, root, view.axes, positive=view.positive)
            if plan is None:
                continue
            after, before = _cost(plan, value), _spent(nodes)
            gain = after[0] - before[0], after[1] - before[1], after[2] - before[2]
            if gain < least:
                best, least = Chain(node=node, plan=plan, nodes=nodes), gain
        if best is not None:
            return best
        if not count:
            return Miss("sizes", value.name or "", "sizes that are known to be products of each other")
        return Miss("steps", value.name or "", "a chain of more reshapes and transposes than it takes", far=True)

    def rewrite(self, found: Match) -> None:
        assert isinstance(found, Chain)
        value, tape = found.node.outputs[0], Tape()
        made = arranged(tape, found.plan)
        if not found.plan.steps and value.is_graph_output():
            if _takes_name(made, value):
                stand_in(value, made)
            else:
                made = tape("Identity", made)
        replace(tape, [value], [made], matched=found.nodes)


def _chains(node: ir.Node) -> Iterator[tuple[View, tuple[ir.Node, ...]]]:
    """What feeds a node, nearest first, with the nodes from there on that nothing else needs.

    Nodes outside the graph of `node` count as needed: what they make once is not made anew in a loop.
    """
    value = below = node.outputs[0]
    above = node
    dead: list[ir.Node] = []
    alone = True
    for view in views(value):
        while below is not view.root:
            producer = below.producer()
            assert producer is not None and producer.inputs[0] is not None
            unread = below is value or _read_by(below, above)
            alone = alone and unread and producer.graph is node.graph
            if alone:
                dead.append(producer)
            below, above = producer.inputs[0], producer
        if dead:
            yield view, tuple(dead)


def _read_by(value: ir.Value, node: ir.Node) -> bool:
    """Whether nothing but `node` needs a value: it reads it, or is given sizes of it."""
    if value.is_graph_output():
        return False
    return all(user is node or _sizes(user, node) for user in value.consumers())


def _sizes(user: ir.Node, node: ir.Node) -> bool:
    """Whether `user` is a Shape that is read for the target of `node` alone, by itself or joined with other sizes."""
    if not is_op(user, "Shape") or user.outputs[0].is_graph_output():
        return False
    for reader in user.outputs[0].consumers():
        target = reader.outputs[0] if is_op(reader, "Concat") else None
        alone = target is not None and not target.is_graph_output() and all(end is node for end in target.consumers())
        if reader is not node and not alone:
            return False
    return True


def _cost(plan: Arrangement, value: ir.Value) -> Cost:
    nodes = 0
    for step in plan.steps:
        computed = [isinstance(dim, Kept) for dim in step.target or ()]
        # each run of constants is a part of its own; more than one part are joined
        nodes += 1 + sum(computed) + (any(computed) and len(computed) > 1)
    if not plan.steps and value.is_graph_output() and not _takes_name(plan.value, value):
        nodes += 1
    targets = sum(any(isinstance(dim, Kept) for dim in step.target or ()) for step in plan.steps)
    return nodes, sum(step.perm is not None for step in plan.steps), targets


def _spent(nodes: tuple[ir.Node, ...]) -> Cost:
    transposes = sum(node.op_type == "Transpose" for node in nodes)
    return len(nodes), transposes, sum(node.op_type == "Reshape" and not is_constant(node.inputs[1]) for node in nodes)


def _takes_name(root: ir.Value, value: ir.Value) -> bool:
    """Whether what a chain starts from can be the graph output itself."""
    made, node = root.producer(), value.producer()
    return made is not None and node is not None and made.graph is node.graph and not root.is_graph_output()
