"""Runs of equal blocks as a Loop over one of them.

    s1 = f(s0)    s2 = f(s1)    s3 = f(s2)            s3 = Loop(3, true, s0) { s' = f(s) }

Weights stay initializers of the graph, which the body reads from there: an int8 layer, a table and a norm do so alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ...ir.block import Block, blocks
from ...ir.constants import tensor_of
from ...ir.text import place
from ..base import Miss
from ..edit import Ledger, Tape, declare_functions, replace
from ..twins import Matched, matched, unlike


@dataclass(frozen=True)
class Run:
    """Blocks one after the other that a Loop can take the place of; or one, and why none before it joined it."""

    members: tuple[Block, ...]
    miss: Miss | None = None


def runs(model: ir.Model) -> list[Run]:
    """The blocks of a model in runs of equal ones, in its order."""
    found: list[Run] = []
    for block in blocks(model):
        held = _held(block)
        last = found[-1].members[-1] if found else None
        if last is None or last.stack != block.stack or held is not None:
            found.append(Run((block,), held))
            continue
        miss = _held(last) or _apart(last, block)
        found.append(Run((block,), miss) if miss is not None else Run((*found.pop().members, block)))
    return found


def loop(model: ir.Model, least: int = 2) -> list[Run]:
    """Write every run of so many blocks and more as a Loop; all runs as they were, with why single ones stay."""
    listed = runs(model)
    # a run begins with what the one before ends in
    for run in reversed(listed):
        if len(run.members) >= least:
            _write(run.members)
    declare_functions(model)
    return listed


def _held(block: Block) -> Miss | None:
    """Why a block runs on its own: something else reads a value of it before its end."""
    inside = set(block.nodes)
    for node in block.nodes:
        for value in node.outputs:
            outside = [reader for reader in value.consumers() if reader not in inside]
            if value is not block.output and (value.is_graph_output() or outside):
                there = "an output of the model" if value.is_graph_output() else f"read at {place(outside[0])}"
                return Miss("inside", f"{value.name}, {there}", "blocks that the stream alone leaves", near=True)
    return None


def _apart(one: Block, other: Block) -> Miss | None:
    """Why the second of two blocks is no repetition of the first."""
    value = one.output
    if value is not other.input:
        return Miss("stream", other.input.name or "", "a block that reads what the one before gives")
    beside = [reader for reader in value.consumers() if reader not in set(other.nodes)]
    if value.is_graph_output() or beside:
        there = f"read at {place(beside[0])} too" if beside else "an output of the model"
        return Miss("stream", f"{value.name}, {there}", "a stream between blocks that they alone read", near=True)
    if one.input.dtype != value.dtype or not _alike(one.input.shape, value.shape):
        return Miss("type", f"{value.name}: {value.type} {value.shape}", "the type and shape of what the block reads")
    same = matched(one, other)
    if same is None:
        return Miss("alike", unlike(other, one) or "other nodes", "blocks that are equal", near=True)
    return _differing(same, one, other)


def _alike(one: ir.Shape | None, other: ir.Shape | None) -> bool:
    return one is not None and other is not None and list(one) == list(other)


def _differing(same: Matched, one: Block, other: Block) -> Miss | None:
    """What two blocks read that is not the same: a constant, or something from the side such as a cache."""
    inside = set(one.nodes)
    for node, (twin, order) in same.items():
        for at, there in enumerate(order):
            mine, theirs = node.inputs[at], twin.inputs[there]
            if mine is theirs or mine is None or theirs is None:
                continue
            held = tensor_of(mine), tensor_of(theirs)
            if held[0] is not None and held[1] is not None:
                equal = held[0].dtype == held[1].dtype and held[0].tobytes() == held[1].tobytes()
                if not equal:
                    need = "equal constants in all blocks; share-layers{keep=none} makes them so"
                    return Miss("constants", f"{theirs.name} at {place(twin)}", need, near=True)
            elif mine is not one.input and mine.producer() not in inside:
                need = "blocks that read the same beside the stream; a model without caches has none"
                return Miss("beside", f"{theirs.name} at {place(twin)}", need, near=True)
    return None


class _Copy(NamedTuple):
    graph: ir.Graph
    names: list[tuple[ir.Value, str | None]]


def _write(members: Sequence[Block]) -> None:
    first, last = members[0], members[-1]
    graph = first.nodes[0].graph
    assert isinstance(graph, ir.Graph)
    made = _body(first, Ledger.of(graph))
    tape = Tape()
    trips = tape.constant(np.array(len(members), np.int64), "trips")
    going = tape.constant(np.array(True), "going")
    attribute = ir.AttrGraph("body", made.graph)
    node = tape.node("Loop", [trips, going, first.input], {"body": attribute})
    replaced = [each for block in members for each in block.nodes]
    replace(tape, [last.output], [node.outputs[0]], matched=replaced)
    # the originals are gone, so that their names are free
    for value, name in made.names:
        value.name = name


def _body(block: Block, ledger: Ledger) -> _Copy:
    """The graph of one trip: a copy of the block's nodes between a stream and the next."""
    step = ir.Value(name=ledger.unique("trip"), type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([]))
    going = ir.Value(name=ledger.unique("go"), type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    stream = ir.Value(name=ledger.unique("stream"), type=block.input.type, shape=block.input.shape)
    known: dict[ir.Value, ir.Value] = {block.input: stream}
    names: list[tuple[ir.Value, str | None]] = []
    nodes = []
    for node in block.nodes:
        made = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else known.get(value, value) for value in node.inputs],
            list(node.attributes.values()),
            overload=node.overload,
            num_outputs=len(node.outputs),
            name=node.name,
            metadata_props=dict(node.metadata_props),
        )
        for old, new in zip(node.outputs, made.outputs, strict=True):
            new.type, new.shape = old.type, old.shape
            new.name = ledger.unique(f"{old.name}/body") if old.name else ""
            known[old] = new
            if old is not block.output and old.name:
                names.append((new, old.name))
        nodes.append(made)
    on = ir.Node("", "Identity", [going], num_outputs=1)
    on.outputs[0].name = ledger.unique("goes_on")
    on.outputs[0].type, on.outputs[0].shape = going.type, going.shape
    graph = ir.Graph(
        [step, going, stream],
        [on.outputs[0], known[block.output]],
        nodes=[on, *nodes],
        name=f"{block.output.name}/body",
    )
    return _Copy(graph, names)
