"""Stacks of blocks that are alike, and which of their constants become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir

from ...ir.axes import dependencies
from ...ir.block import Block, blocks
from ...ir.constants import constant_of, tensor_of
from ...ir.text import place
from ..base import Miss
from ..choosing import FLOATS
from ..edit import Array, drop, is_op, rewrite_constant
from ..numerics.arrays import Floats
from ..numerics.assignment import Order
from ..twins import Matched, Read, matched, unlike
from .aligning import Family, Twins, families, rows_of
from .methods.rebasin import match, together
from .repairing import NORMS
from .sublayers import Part, parts

What = Literal["all", "attention", "ffn"]
Keep = Literal["none", "norms", "biases", "vectors"]
Merge = Literal["mean", "first"]


@dataclass(frozen=True, eq=False)
class Stack:
    """Blocks that are alike, with where the first of them reads constants, and each other in their place.

    members: in order. left: blocks of the stack that stay out, and why. twins: of the first with each member. shared:
    where the first reads what becomes one; kept: where it reads vectors that do not.
    """

    members: tuple[Block, ...]
    left: tuple[tuple[Block, Miss], ...]
    twins: tuple[Twins, ...]
    shared: tuple[Read, ...]
    kept: tuple[Read, ...]
    what: What

    def miss(self, groups: int) -> Miss | None:
        """Why nothing is to be done."""
        count = len(self.members)
        if count < 2:
            return Miss("blocks", f"{count} of the stack can share", "two at least")
        if not self.shared:
            return Miss("what", f"no weights of {self.what}", "blocks that have some")
        if groups >= count:
            return Miss("groups", f"{count} blocks", f"more than {groups}, the groups that are left")
        kinds = len({tuple(self.value(at, read) for read in self.shared) for at in range(count)})
        if kinds <= groups:
            return Miss("shared", f"{kinds} sets of weights", f"more than {groups}, the groups that are left")
        return None

    def value(self, at: int, read: Read) -> ir.Value:
        """The constant that a member reads where the first one has `read`."""
        node, index = self.twins[at][read]
        value = node.inputs[index]
        assert value is not None
        return value

    def own(self, at: int) -> list[Read]:
        """Where a member reads the vectors that it keeps."""
        return [self.twins[at][read] for read in self.kept]

    def numbers(self, at: int, read: Read) -> Array:
        array = constant_of(self.value(at, read))
        assert array is not None
        return array

    def rows(self, at: int, family: Family) -> Array:
        """The shared numbers of a member's units, [units, numbers]."""
        return rows_of(family, at, {self.value(at, read) for read in self.shared})

    def families(self, model: ir.Model) -> list[Family]:
        """What of the members may be reordered and has weights that become one."""
        found = families(dependencies(model), self.twins)
        return [family for family in found if self.rows(0, family).shape[1]]

    def align(self, model: ir.Model, runs: Sequence[range], merge: Merge) -> dict[int, list[str]]:
        """Put the units of each run's members in the order in which they agree best; of each what was moved."""
        told: dict[int, list[str]] = {}
        for family in self.families(model):
            for run in runs:
                rows = [self.rows(at, family) for at in run]
                orders: list[Order] = together(rows) if merge == "mean" else [match(rows[0], each) for each in rows]
                for at, order in zip(run, orders, strict=True):
                    count = int(np.count_nonzero(order != np.arange(family.size)))
                    if count:
                        family.reorder(at, order)
                        told.setdefault(at, []).append(f"{count:,} {'heads' if family.heads else 'neurons'} moved")
        return told

    def merge(self, run: range, how: Merge) -> dict[int, float]:
        """Let the members of a run read one constant in each place; of each |W - W'| / |W| over all of them."""
        lost, whole = dict.fromkeys(run, 0.0), dict.fromkeys(run, 0.0)
        together: dict[tuple[ir.Value, ...], list[Read]] = {}
        for read in self.shared:
            # a constant that a block reads twice stays one
            together.setdefault(tuple(self.value(at, read) for at in run), []).append(read)
        for values, reads in together.items():
            arrays = [self.numbers(at, reads[0]) for at in run]
            made = _merged(arrays, how)
            for at, array in zip(run, arrays, strict=True):
                lost[at] += _energy(array.astype(np.float64) - made.astype(np.float64))
                whole[at] += _energy(array.astype(np.float64))
            if len(set(values)) > 1:
                _put(values, [self.twins[at][read] for at in run for read in reads], made)
        return {at: float(np.sqrt(lost[at] / whole[at])) if whole[at] else 0.0 for at in run}


def _put(values: Sequence[ir.Value], reads: Sequence[Read], made: Array) -> None:
    """Let all of these read one constant, the first of the values where nobody else reads that."""
    stands = values[0]
    if all((use.node, use.idx) in reads for use in stands.uses()):
        stands.const_value = ir.Tensor(made, name=stands.name)
    else:
        stands = rewrite_constant(reads[0][0], stands, made)
    for node, index in reads:
        if node.inputs[index] is not stands:
            node.replace_input_with(index, stands)
    for value in values:
        if value is not stands:
            drop(value)


def stacks(model: ir.Model, what: What, keep: Keep) -> list[Stack]:
    """The stacks of a model, in its order."""
    found: dict[int, list[Block]] = {}
    for block in blocks(model):
        found.setdefault(block.stack, []).append(block)
    return [_stack(members, what, keep) for members in found.values()]


def odd(model: ir.Model, now: Sequence[Stack]) -> list[tuple[Block, Miss]]:
    """Blocks that would be of a stack but for an attribute, and which."""
    known = {
        node for stack in now for block in (*stack.members, *(each for each, _ in stack.left)) for node in block.nodes
    }
    loose: dict[int, list[Block]] = {}
    for block in blocks(model, attributes=False):
        loose.setdefault(block.stack, []).append(block)
    found = []
    for members in loose.values():
        inside = [block for block in members if known.issuperset(block.nodes)]
        first = (inside or members)[0]
        for block in members:
            why = None if block is first or known & {*block.nodes} else unlike(block, first)
            if why is not None:
                found.append(
                    (block, Miss("attributes", why, "blocks that differ in nothing but their weights", near=True))
                )
    return found


def _stack(members: Sequence[Block], what: What, keep: Keep) -> Stack:
    left: list[tuple[Block, Miss]] = []
    taken: list[tuple[Block, Matched]] = []
    for block in members:
        first = taken[0][0] if taken else block
        same = matched(first, block)
        miss = _differs(unlike(block, first)) if same is None else _unfit(same)
        if same is None or miss is not None:
            left.append((block, miss or _differs(None)))
        else:
            taken.append((block, same))
    if not taken:
        return Stack((), tuple(left), (), (), (), what)
    twins = tuple(_twins(same) for _, same in taken)
    of = parts(taken[0][0])
    fits = [read for read in twins[0] if what == "all" or of.get(read[0], Part.FFN).value == what]
    kept = [read for read in fits if _stays(read, keep)]
    shared = [read for read in fits if read not in kept]
    return Stack(tuple(block for block, _ in taken), tuple(left), twins, tuple(shared), tuple(kept), what)


def _differs(why: str | None) -> Miss:
    return Miss("alike", why or "other nodes", "blocks that differ in nothing but their weights", near=True)


def _twins(same: Matched) -> Twins:
    """Where both read constants of floats."""
    found: dict[Read, Read] = {}
    for node, (twin, order) in same.items():
        for at, there in enumerate(order):
            if _varies(node.inputs[at]):
                found[node, at] = twin, there
    return found


def _varies(value: ir.Value | None) -> bool:
    """Whether a constant is a weight: of several floats."""
    tensor = tensor_of(value)
    return tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1


def _unfit(same: Matched) -> Miss | None:
    """Why a block cannot share with the first one."""
    for node, (twin, order) in same.items():
        for at, there in enumerate(order):
            mine, theirs = node.inputs[at], twin.inputs[there]
            tensors = tensor_of(mine), tensor_of(theirs)
            if tensors[0] is None or tensors[1] is None or theirs is None:
                continue
            if not _varies(theirs):
                if tensors[0].dtype != tensors[1].dtype or tensors[0].tobytes() != tensors[1].tobytes():
                    need = "the number of the first block; weights are shared before they are quantized"
                    return Miss("constant", f"{theirs.name} at {place(twin)}", need, near=True)
                continue
            miss = _weight(theirs, tensors[1])
            if miss is None and tensors[0].dtype != tensors[1].dtype:
                miss = Miss("dtype", f"{theirs.name}: {tensors[1].dtype.name.lower()}", "one type in all blocks")
            if miss is not None:
                return miss
    return None


def _weight(value: ir.Value, tensor: ir.TensorProtocol) -> Miss | None:
    if not value.is_initializer():
        return Miss("weight", value.name or "", "an initializer; run fold-constants first")
    if value.is_graph_output():
        return Miss("output", value.name or "", "weights that are no outputs of the model")
    if tensor.dtype not in (*FLOATS, ir.DataType.DOUBLE):
        return Miss("dtype", f"{value.name}: {tensor.dtype.name.lower()}", "floats of 16 bits or more")
    if not np.isfinite(tensor.numpy().astype(np.float64)).all():
        return Miss("finite", value.name or "", "weights without NaN and infinity")
    return None


def _stays(read: Read, keep: Keep) -> bool:
    """Whether blocks keep what they read there."""
    tensor = tensor_of(read[0].inputs[read[1]])
    assert tensor is not None
    if tensor.size > max(tensor.shape.numpy(), default=1):
        return False
    return keep == "vectors" or keep == ("norms" if is_op(read[0], *NORMS) else "biases")


def _merged(arrays: Sequence[Array], how: Merge) -> Array:
    if how == "first":
        return arrays[0]
    mean: Floats = sum((array.astype(np.float64) for array in arrays), np.zeros(())) / len(arrays)
    return mean.astype(arrays[0].dtype)


def _energy(array: Array) -> float:
    return float(np.sum(np.square(array, dtype=np.float64)))
