"""Take whole repeated blocks out: the residual stream goes past them.

    before   s1 = s0 + f(s0),  s2 = s1 + g(s1),  s3 = s2 + h(s2)
    after    s1 = s0 + f(s0),  s3 = s1 + h(s1)                          without the second

Lossy. Blocks are those that `ir.block` finds repeated, whatever their names. A block is taken out between the sums of
the stream, before a norm that follows them, so that its own last norm stays; the first block, which has no sum before
it, between its input and its output. With data the projection that now ends where the block ended is fitted to the
stream of the original there (`prune.fitting`). Left alone: blocks whose inner values something else reads, such as the
caches of a decoder.

Sources: Fan et al., Reducing Transformer Depth on Demand with Structured Dropout, 2020 (`every-other`); Sajjad et al.,
On the Effect of Dropping Layers of Pre-trained Transformer Models, 2023 (`top`, `bottom`); Men et al., ShortGPT, 2024
(`influence`); Yang et al., LaCo: Large Language Model Pruning via Layer Collapse, 2024, equation 1 (`merge`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...ir.block import Block, blocks
from ...ir.constants import constant_of
from ...ir.errors import OptionError
from ...ir.provenance import scope, sources
from ..base import Context, Contract, Finding, Lossy, Miss, Outcome, Pass
from ..edit import Array, rewrite_constant
from ..numerics.arrays import Floats
from ..statistics import Calibration
from .answers import Answers
from .fitting import refit
from .stream import Stack, branches, read_outside, stacks, turning, value_of

#: In the metadata of a model: how many blocks of each stack are gone.
_GONE = "tersor.layers.gone"

#: Batches that greedy choices are tried on.
_TRIED = 16


@dataclass(frozen=True, kw_only=True)
class DropLayers(Pass):
    """whole repeated blocks out, the projection before each fitted

    count: how many go of each stack of blocks, those that went before counted in.
    score: which go. `output`: one after the other those whose loss changes the answers least, tried on calibration
        data; `influence`: those that turn the stream least; `every-other`; `top`: the last; `bottom`: the first.
        `auto` is output with data and every-other without.
    layers: exactly these, counted from zero over all stacks, in the place of count and score.
    merge: add to the weights of the block before, what each block that goes has more than it.
    repair: fit the projection that ends where a block ended to the original's stream, where there are data.
    """

    name: ClassVar[str] = "drop-layers"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    count: int = 1
    score: Literal["auto", "output", "influence", "every-other", "top", "bottom"] = "auto"
    layers: tuple[int, ...] = ()
    merge: bool = False
    repair: bool = True

    def __post_init__(self) -> None:
        if self.count < 0:
            raise OptionError(f"{self.name}: expected a count of at least 0, found {self.count}")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        known = blocks(model)
        if self.count == 0 and not self.layers:
            return Outcome()
        if not known:
            return Outcome(
                (Finding("the graph", miss=Miss("blocks", "none", "blocks that repeat; see tersor inspect")),)
            )
        held = {block.index: miss for block in known if (miss := read_outside(block)) is not None}
        findings = [_finding(known[index], miss) for index, miss in held.items()]
        calibration = context.calibration
        original = model.clone()
        already = int(model.metadata_props.get(_GONE, 0))
        if already and already >= max(self.count, len(self.layers)):
            return Outcome((Finding("the graph", miss=Miss("count", f"{already} gone", "more blocks to go")),))
        for stack in stacks(model):
            order = self._order(original, stack, held, context, already)
            if self.merge:
                _merge(known, stack, order)
            for number in order:
                at = stack.numbers.index(number)
                fitted = _drop(model, stack, at, original if self.repair else None, calibration)
                stack = stack.without(at)
                findings.append(_finding(known[number], None, "dropped, repaired" if fitted else "dropped"))
                model.metadata_props[_GONE] = str(already + order.index(number) + 1)
        return Outcome(tuple(findings))

    def _order(
        self, original: ir.Model, stack: Stack, held: Mapping[int, Miss], context: Context, already: int
    ) -> list[int]:
        """The numbers of the blocks that go, in the order in which they do."""
        if self.layers:
            return self._named(stack, held, len(blocks(original)))
        able = [number for number in stack.numbers if number not in held]
        count = self.count - already
        if count >= len(stack.numbers):
            raise OptionError(
                f"{self.name}: expected a count below the {len(stack.numbers) + already} blocks of a stack, found "
                f"{self.count}; nothing would be left of it"
            )
        score = self.score if self.score != "auto" else "every-other" if context.calibration is None else "output"
        if score in ("output", "influence"):
            context.statistics(original, ())  # says so where there are no data
            assert context.calibration is not None
            if score == "influence":
                turned = _influence(original, stack, context.calibration)
                return sorted(able, key=lambda number: turned[number])[:count]
            return self._greedy(original, stack, able, count, context.calibration)
        if score == "every-other":
            # from the second on, then what is left from the end
            able = [*able[1::2], *able[::2][::-1]]
        return (able[::-1] if score == "top" else able)[:count]

    def _named(self, stack: Stack, held: Mapping[int, Miss], count: int) -> list[int]:
        wrong = [number for number in self.layers if not 0 <= number < count]
        if wrong:
            raise OptionError(f"{self.name}: there is no block {wrong[0]}; the model has {count}, counted from 0")
        chosen = [number for number in self.layers if number in stack.numbers and number not in held]
        if len(chosen) == len(stack.numbers):
            raise OptionError(
                f"{self.name}: expected a block to stay, found layers={list(self.layers)}: all of a stack"
            )
        return chosen

    def _greedy(
        self, original: ir.Model, stack: Stack, able: list[int], count: int, calibration: Calibration
    ) -> list[int]:
        """One after the other the block without which, repaired, the answers change least."""
        answers = Answers.of(original, calibration, batches=_TRIED)
        model, order = original.clone(), list[int]()
        for _ in range(min(count, len(able))):
            tried = {}
            for number in (number for number in able if number not in order):
                copied = model.clone()
                _drop(copied, stack, stack.numbers.index(number), original if self.repair else None, answers.rest)
                tried[number] = answers.loss(copied), copied
            best = min(tried, key=lambda number: tried[number][0])
            model = tried[best][1]
            stack = stack.without(stack.numbers.index(best))
            order.append(best)
        return order


def _drop(model: ir.Model, stack: Stack, at: int, original: ir.Model | None, calibration: Calibration | None) -> bool:
    """Take one block out; whether the projection before it could be fitted."""
    end = stack.drop(model, at)
    if end is None or original is None or calibration is None:
        return False
    ending = [branch.site for branch in branches(model) if branch.target.stream == end]
    return bool(ending) and refit(model, original, calibration, ending[-1])


def _influence(original: ir.Model, stack: Stack, calibration: Calibration) -> dict[int, float]:
    """How far each block turns the stream."""
    ends = zip(stack.numbers, (stack.start, *stack.ends), stack.ends, strict=False)
    return {number: turning(original, calibration, start, end, value_of(original, end)) for number, start, end in ends}


def _merge(known: Sequence[Block], stack: Stack, gone: Sequence[int]) -> None:
    """W_l + sum of (W_(l + k) - W_l) over the blocks behind l that go, up to the next that stays."""
    base: Block | None = None
    differences: dict[int, Floats] = {}
    for number in stack.numbers:
        if number not in gone:
            _add(base, differences)
            base, differences = known[number], {}
        elif base is not None:
            for index, (mine, theirs) in enumerate(zip(_weights(base), _weights(known[number]), strict=True)):
                more = theirs[2].astype(np.float64) - mine[2].astype(np.float64)
                differences[index] = differences.get(index, np.zeros(1)) + more
    _add(base, differences)


def _add(base: Block | None, differences: Mapping[int, Floats]) -> None:
    if base is None or not differences:
        return
    for index, (node, value, held) in enumerate(_weights(base)):
        rewrite_constant(node, value, (held.astype(np.float64) + differences[index]).astype(held.dtype))


def _weights(block: Block) -> list[tuple[ir.Node, ir.Value, Array]]:
    """The constants of floats that the nodes of a block read, in the order of its nodes."""
    found = []
    for node in block.nodes:
        for value in node.inputs:
            array = constant_of(value)
            if value is not None and array is not None and np.issubdtype(array.dtype, np.floating) and array.size > 1:
                found.append((node, value, array))
    return found


def _finding(block: Block, miss: Miss | None, chosen: str = "") -> Finding:
    node = block.nodes[0]
    return Finding(f"block {block.index}", sources(node), miss, scope(node), chosen)
