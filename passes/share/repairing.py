"""Closed-form repair of what blocks keep for themselves when they share weights: biases and norms, feature by feature.

    y' = s z + c               what a norm gives now                  a y' + d has the mean and the deviation of y
    s <- a s, c <- a c + d     d = 0 where the norm has no bias       y: what it gave in the original
    b <- b + mean(t - t')      a bias, t the sum that it ends in, or its own where it ends in none

Layer after layer, each on what those before it now give. A mean of weights computes with less deviation than any of
them; least squares would shrink it further. Sources: Jordan et al., REPAIR: REnormalizing Permuted Activations for
Interpolation Repair, 2022, section 3; Nagel et al., Data-Free Quantization through Weight Equalization and Bias
Correction, 2019, section 4.2, for biases.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ...ir.block import Block
from ...ir.constants import constant_of, tensor_of
from ..edit import Array, is_op, only_reader, rewrite_constant
from ..numerics.arrays import Floats
from ..statistics import Calibration, Part
from ..trail import Trail
from ..twins import Read

NORMS = ("LayerNormalization", "RMSNormalization")
_Change = Callable[[Floats], Floats]
#: Tokens below which nothing is repaired.
ENOUGH = 64
#: The least share of its own mean square that a feature must vary by to be scaled.
_STILL = 1e-6


@dataclass(frozen=True)
class Kept:
    """A vector that a block keeps: what of the model it moves, and how.

    scale, bias: where it is read, None where it is not kept. value: what is compared with the original's of its name.
    start: what its block reads, from which the next run starts.
    """

    node: ir.Node
    start: ir.Value
    value: ir.Value
    scale: Read | None
    bias: Read | None


def kept(block: Block, reads: Collection[Read]) -> list[list[Kept]]:
    """What can be repaired of a block's vectors, in the order of the graph; side by side what has one source."""
    found = []
    for node in block.nodes:
        own = [read for read in reads if read[0] is node]
        made = _kept(node, block.input, own) if own else None
        found += [] if made is None else [made]
    groups: list[list[Kept]] = []
    for each in found:
        # of one input: queries, keys and values
        beside = groups and _source(groups[-1][0].node) is _source(each.node) and _source(each.node) is not None
        if beside:
            groups[-1].append(each)
        else:
            groups.append([each])
    return groups


def repair(
    model: ir.Model,
    original: ir.Model,
    calibration: Calibration,
    groups: Sequence[Sequence[Kept]],
    trail: Trail | None = None,
) -> int:
    """Fit vectors to what the original gives on data; how many were.

    original: with the same names of values. trail: where the runs for blocks before these are remembered.
    """
    done = 0
    for group in groups:
        sums = [_Sums() for _ in group]
        parts = [part for each in group for part in _parts(model, original, each)]
        for rows in calibration.together(parts, trail):
            for at, total in enumerate(sums):
                total.add(rows[4 * at], rows[4 * at + 1])
        for each, seen in zip(group, sums, strict=True):
            done += _write(each, seen)
    return done


class _Sums:
    """Sums over tokens of what features are now, and were."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Floats = np.zeros((4, 1))

    def add(self, now: Array, then: Array) -> None:
        mine, theirs = np.asarray(now, np.float64), np.asarray(then, np.float64)
        self.count += len(mine)
        every = (mine, theirs, mine * mine, theirs * theirs)
        self.total = self.total + np.stack([each.sum(0) for each in every])

    def means(self) -> Floats:
        found: Floats = self.total / max(self.count, 1)
        return found


def renormalized(means: Floats, *, shift: bool) -> tuple[Floats, Floats]:
    """a and d, [features], by which a x + d has the mean and the deviation of t, from the means of x, t, x^2 and t^2.

    shift: whether there is a d; without one, a x has the mean square of t. A feature that stays the same, now or in
    the original, is not scaled.
    """
    now, then, square, wanted = means
    mine, theirs = (square - now * now, wanted - then * then) if shift else (square, wanted)
    moving = (mine > _STILL * square) & (theirs > _STILL * wanted)
    scale: Floats = np.sqrt(np.divide(theirs, mine, out=np.ones_like(now), where=moving))
    return scale, then - scale * now if shift else np.zeros_like(now)


def _parts(model: ir.Model, original: ir.Model, each: Kept) -> Iterator[Part]:
    for value in (each.value, each.start):
        for side in (model, original):
            yield Part(side, value.name or "", value, keep=True)


def _write(each: Kept, seen: _Sums) -> bool:
    if seen.count < ENOUGH or not np.isfinite(seen.total).all():
        return False
    if each.scale is None:
        assert each.bias is not None
        now, then = seen.means()[:2]
        _store(each.bias, lambda held: held + (then - now))
        return True
    scale, shift = renormalized(seen.means(), shift=each.bias is not None)
    _store(each.scale, lambda held: held * scale)
    if each.bias is not None:
        _store(each.bias, lambda held: held * scale + shift)
    return True


def _store(read: Read, change: _Change) -> None:
    node, at = read
    value, held = node.inputs[at], constant_of(node.inputs[at])
    assert value is not None and held is not None
    made: Array = change(held.astype(np.float64).reshape(-1)).reshape(held.shape).astype(held.dtype)
    rewrite_constant(node, value, made)


def _kept(node: ir.Node, start: ir.Value, reads: Sequence[Read]) -> Kept | None:
    made = node.outputs[0]
    width = made.shape[-1] if made.shape else None
    if not all(_fits(read, width) for read in reads):
        return None
    if is_op(node, *NORMS):
        axis = node.attributes.get("axis")
        last = axis is None or axis.as_int() in (-1, len(made.shape or ()) - 1)
        of = {at: (node, at) for _, at in reads}
        # a bias alone would be fitted to what the scale of others gives
        return Kept(node, start, made, of.get(1), of.get(2)) if last and (1 in of or 2 in of) else None
    if is_op(node, "Add") and len(reads) == 1:
        return Kept(node, start, _ends(made), None, reads[0])
    if is_op(node, "Gemm") and len(reads) == 1 and reads[0][1] == 2 and not node.attributes.get("beta"):
        return Kept(node, start, _ends(made), None, reads[0])
    return None


def _fits(read: Read, width: object) -> bool:
    """Whether a constant has one number for each feature of the last axis."""
    tensor = tensor_of(read[0].inputs[read[1]])
    return tensor is not None and tensor.size == width and bool(tensor.shape) and tensor.shape[-1] == width


def _ends(value: ir.Value) -> ir.Value:
    """The sum that a value goes into alone, or itself."""
    reader = only_reader(value)
    if not is_op(reader, "Add"):
        return value
    others = [each for each in reader.inputs if each is not value]
    plain = len(others) == 1 and others[0] is not None and others[0].shape == value.shape and value.shape is not None
    return reader.outputs[0] if plain and constant_of(others[0]) is None else value


def _source(node: ir.Node) -> ir.Value | None:
    """What the layer behind a bias reads."""
    made = next((value.producer() for value in node.inputs if value is not None and value.producer()), None)
    return made.inputs[0] if is_op(node, "Add") and is_op(made, "MatMul") else None
