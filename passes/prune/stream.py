"""The residual stream as pruning sees it: branches that are added to it, and blocks that it can go past.

s --> f --> (+) --> s'          a branch: f is added to the residual s
s0 --> block --> s1 --> block --> s2
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from ...ir.block import Block, blocks
from ...ir.site import Kind, Site, sites
from ..base import Miss
from ..drop import cosine
from ..edit import Tape, is_op, replace, reroute, stand_in, sweep
from ..moments import Target, target_of
from ..numerics.arrays import Floats
from ..statistics import Calibration, Part

T = TypeVar("T")

_NORMS = ("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")


@dataclass(frozen=True)
class Branch:
    """A projection whose output is added to the residual stream; add: the node that does."""

    site: Site
    add: ir.Node
    target: Target


def branches(model: ir.Model) -> list[Branch]:
    """Projections of the main graph that end a branch, in its order."""
    found = []
    for site in sites(model):
        target = target_of(site)
        if site.kind is Kind.LINEAR and target.residual is not None and site.node.graph is model.graph:
            add = next(iter(site.output.uses())).node
            found.append(Branch(site, add, target))
    return found


def value_of(model: ir.Model, name: str) -> ir.Value:
    """The value of that name in the main graph."""
    for node in model.graph:
        for value in node.outputs:
            if value.name == name:
                return value
    return next(value for value in model.graph.inputs if value.name == name)


def bypass(model: ir.Model, before: str, after: str) -> str:
    """Let the stream's value `before` stand for `after`, and sweep what lay between; the name that it then has."""
    return _go_past(value_of(model, before), value_of(model, after))


def _go_past(first: ir.Value, last: ir.Value) -> str:
    """Let `first` be read where `last` is, under the name of `last`; that name.

    Inputs and outputs of the model keep theirs: where both are one, an Identity bears the second.
    """
    producer = last.producer()
    kept = first.is_graph_input() or first.is_graph_output()
    for use in list(last.uses()):
        use.node.replace_input_with(use.idx, first)
    if kept and last.is_graph_output():
        tape = Tape()
        replace(tape, [last], [tape("Identity", first)])
        return first.name or ""
    graph = None if producer is None else producer.graph
    assert isinstance(graph, ir.Graph)
    for index, value in enumerate(graph.outputs):
        if value is last:
            graph.outputs[index] = first
    if not kept:
        stand_in(last, first)
    if producer is not None:
        sweep([producer])
    return first.name or ""


def leave_out(branch: Branch, constant: Floats | None) -> None:
    """Let the residual go on alone, with a constant [features] in the branch's place where one is given."""
    add, site = branch.add, branch.site
    other = next(value for value in add.inputs if value is not site.output)
    assert other is not None
    if constant is None:
        _go_past(other, add.outputs[0])
        return
    tape, dtype = Tape(), site.output.dtype
    numbers = constant.astype(np.float32 if dtype is None else dtype.numpy())
    # along the axis of the features, whatever lies behind it
    behind = -site.output_axis if site.output_axis < 0 else len(site.output.shape or ()) - site.output_axis
    numbers = numbers.reshape(-1, *[1] * (behind - 1))
    made = tape.weight(numbers, f"{site.weight.name}_mean")
    old = site.output.producer()
    reroute(tape, add, site.output, made)
    if old is not None:
        sweep([old])


def turning(
    model: ir.Model, calibration: Calibration, before: str, after: str, like: ir.Value, axis: int = -1
) -> float:
    """1 - cos of two values of the stream, averaged over tokens: Men et al., ShortGPT, 2024, equation 1.

    like: a value that has their dimensions.
    """
    total, count = 0.0, 0
    for rows in calibration.together([Part(model, name, like, axis) for name in (before, after)]):
        drops = cosine(*(np.asarray(each, np.float64) for each in rows))
        total, count = total + float(drops.sum()), count + len(drops)
    return total / max(count, 1)


@dataclass(frozen=True)
class Stack:
    """Blocks one after the other by the names of the values between them.

    numbers: which blocks of the model these are. ends: of each the value at its end; sums: the sum of the stream that
    it ends in, before a norm; start: what the first block reads.
    """

    numbers: tuple[int, ...]
    start: str
    ends: tuple[str, ...]
    sums: tuple[str | None, ...]

    def drop(self, model: ir.Model, at: int) -> tuple[Stack, str | None]:
        """Take a block out of the model: the stack then, and the sum that now ends where the block ended.

        None where it ends in no sum, or in one that is an output of the model and so stays what it is.
        """
        summed = at > 0 and None not in self.sums[at - 1 : at + 1]
        before = self.sums[at - 1] if summed else self.ends[at - 1] if at else self.start
        after = self.sums[at] if summed else self.ends[at]
        now = bypass(model, before or "", after or "")

        def named(parts: tuple[T, ...], gone: int) -> tuple[T, ...]:
            return tuple(now if part == after else part for part in _rest(parts, gone))  # type: ignore[misc]

        # of two blocks that meet in one sum the norm behind the second stays
        left = Stack(
            _rest(self.numbers, at),
            self.start if at else now,
            named(self.ends, max(at - 1, 0)),
            named(self.sums, at - 1 if summed else at),
        )
        return left, after if summed and now == after else None


def _rest(parts: tuple[T, ...], gone: int) -> tuple[T, ...]:
    return (*parts[:gone], *parts[gone + 1 :])


def stacks(model: ir.Model) -> list[Stack]:
    """The stacks of blocks of a model."""
    found: dict[int, list[Block]] = {}
    for block in blocks(model):
        found.setdefault(block.stack, []).append(block)
    return [
        Stack(
            tuple(block.index for block in members),
            members[0].input.name or "",
            tuple(block.output.name or "" for block in members),
            tuple(_sum(block) for block in members),
        )
        for members in found.values()
    ]


def _sum(block: Block) -> str | None:
    """The sum that a block ends in, None where it ends in something else."""
    value, inside = block.output, set(block.nodes)
    node = value.producer()
    if node is not None and node in inside and is_op(node, *_NORMS) and node.inputs[0] is not None:
        value = node.inputs[0]
        if len(value.uses()) > 1 or value.is_graph_output():
            return None
        node = value.producer()
    return value.name if is_op(node, "Add") and node in inside else None


def read_outside(block: Block) -> Miss | None:
    """Why a block cannot go: something else reads a value inside of it."""
    inside = set(block.nodes)
    for node in block.nodes:
        for value in node.outputs:
            if value is block.output:
                continue
            if value.is_graph_output():
                return Miss(
                    "inside", f"{value.name}, an output of the model", "a block that only the stream leaves", near=True
                )
            if any(reader not in inside for reader in value.consumers()):
                return Miss("inside", f"{value.name}, read elsewhere", "a block that only the stream leaves", near=True)
    return None
