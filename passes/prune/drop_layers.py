"""Take whole repeated blocks out: the residual stream goes past them.

    before   s1 = s0 + f(s0),  s2 = s1 + g(s1),  s3 = s2 + h(s2)
    after    s1 = s0 + f(s0),  s3 = s1 + h(s1)                          without the second

Lossy. Blocks are those that `ir.block` finds repeated, whatever their names. A block is taken out between the sums of
the stream, before a norm that follows them, so that its own last norm stays; the first block, which has no sum before
it, between its input and its output. With data the projection that now ends where the block ended is fitted to the
stream of the original there (`passes.fitting`). Left alone: blocks whose inner values something else reads, such as the
caches of a decoder. Blocks have the numbers that they had at first, also where some are gone (`prune.gone`).

Sources: Fan et al., Reducing Transformer Depth on Demand with Structured Dropout, 2020 (`every-other`); Sajjad et al.,
On the Effect of Dropping Layers of Pre-trained Transformer Models, 2023 (`top`, `bottom`); Men et al., ShortGPT, 2024
(`influence`); Yang et al., LaCo: Large Language Model Pruning via Layer Collapse, 2024, equation 1 (`merge`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.block import Block, blocks
from ...ir.errors import OptionError
from ...ir.provenance import scope, sources
from ..answers import Answers
from ..base import Context, Contract, Finding, Lossy, Miss, Outcome, Pass
from ..drop import Form
from ..fitting import again, repairable, scarce, write
from ..moments import key_of, moments
from ..statistics import Calibration
from .collapse import collapse
from .gone import Gone
from .stream import Stack, branches, read_outside, stacks, turning, value_of

#: Batches that greedy choices are tried on.
_TRIED = 16


@dataclass(frozen=True, kw_only=True)
class DropLayers(Pass):
    """whole repeated blocks out, the projection before each fitted

    count: how many go of each stack of blocks, those that went before counted in.
    score: which go. `output`: one after the other those whose loss changes the answers least, tried on calibration
        data; `influence`: those that turn the stream least; `every-other`; `top`: the last; `bottom`: the first.
        `auto` is output with data and every-other without.
    layers: exactly these, counted from zero over all stacks as the model had them at first, in the place of count and
        score.
    merge: add to the weights of the block before, what each block that goes has more than it.
    drop: what answers lose: 1 - `cosine` of the rows of outputs, or the `kl` divergence of their softmax.
    repair: fit the projection that ends where a block ended to the original's stream, where there are data.
    """

    name: ClassVar[str] = "drop-layers"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    count: int = 1
    score: Literal["auto", "output", "influence", "every-other", "top", "bottom"] = "auto"
    layers: tuple[int, ...] = ()
    merge: bool = False
    drop: Form = "cosine"
    repair: bool = True

    def __post_init__(self) -> None:
        if self.count < 0:
            raise OptionError(f"{self.name}: expected a count of at least 0, found {self.count}")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        if self.count == 0 and not self.layers:
            return Outcome()
        now = stacks(model)
        gone = Gone.of(model, now)
        if not gone.sizes:
            return _nothing(Miss("blocks", "none", "blocks that repeat; see tersor inspect"))
        self._check(gone)
        stacked = gone.numbered(now)
        if stacked is None:
            found = " and ".join(str(len(stack.numbers)) for stack in now) or "none"
            return _nothing(Miss("blocks", f"stacks of {found}", "blocks as they were left; drop layers before units"))
        numbers = [number for _, stack in stacked for number in stack.numbers]
        known = dict(zip(numbers, blocks(model), strict=True))
        held = {number: miss for number, block in known.items() if (miss := read_outside(block)) is not None}
        findings = [_finding(known[number], number, miss) for number, miss in held.items()]
        original, done = model.clone(), list[int]()
        for first, stack in stacked:
            order = self._order(original, first, stack, held, gone, context)
            _, told = self._take(model, stack, order, original, context.calibration)
            findings += [_finding(known[number], number, None, told[number]) for number in order]
            done += order
        if done:
            gone.note(model, done)
        elif not findings:
            return _nothing(Miss("count", f"{len(gone.numbers)} gone", "more blocks to go than have gone"))
        return Outcome(tuple(findings))

    def _check(self, gone: Gone) -> None:
        """Raises OptionError for what cannot be of the model as it was."""
        total = sum(gone.sizes)
        wrong = [number for number in self.layers if not 0 <= number < total]
        if wrong:
            raise OptionError(f"{self.name}: there is no block {wrong[0]}; the model has {total}, counted from 0")
        if self.layers:
            if any(not set(gone.left(first)) - set(self.layers) for first in gone.first):
                raise OptionError(
                    f"{self.name}: expected a block to stay, found layers={list(self.layers)}: all that is left of a "
                    "stack"
                )
            return
        least = min(gone.sizes)
        if self.count >= least:
            raise OptionError(
                f"{self.name}: expected a count below the {least} blocks of a stack, found {self.count}; nothing would "
                "be left of it"
            )

    def _order(
        self,
        original: ir.Model,
        first: Sequence[int],
        stack: Stack,
        held: Mapping[int, Miss],
        gone: Gone,
        context: Context,
    ) -> list[int]:
        """The numbers of the blocks that go, in the order in which they do. first: those that the stack had."""
        able = [number for number in stack.numbers if number not in held]
        if self.layers:
            return [number for number in dict.fromkeys(self.layers) if number in able]
        count = max(self.count - (len(first) - len(stack.numbers)), 0)
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

    def _greedy(
        self, original: ir.Model, stack: Stack, able: list[int], count: int, calibration: Calibration
    ) -> list[int]:
        """One after the other the block without which, repaired, the answers change least."""
        if not count:
            return []
        answers = Answers.of(original, calibration, batches=_TRIED, form=self.drop)
        model, now, order = original, stack, list[int]()
        for _ in range(min(count, len(able))):
            tried: dict[int, tuple[float, ir.Model, Stack]] = {}
            for number in (number for number in able if number not in order):
                # what blocks are merged into follows from all that go
                going = [*order, number] if self.merge else [number]
                copied = (original if self.merge else model).clone()
                left, _ = self._take(copied, stack if self.merge else now, going, original, answers.rest)
                tried[number] = answers.loss(copied), copied, left
            best = min(tried, key=lambda number: tried[number][0])
            _, model, now = tried[best]
            order.append(best)
        return order

    def _take(
        self, model: ir.Model, stack: Stack, order: Sequence[int], original: ir.Model, calibration: Calibration | None
    ) -> tuple[Stack, dict[int, str]]:
        """Take blocks out, one after the other: the stack then, and what was done of each."""
        merged: dict[int, bool] = {}
        if self.merge and order:
            ending = {block.output.name: block for block in blocks(model)}
            known = {number: ending[end] for number, end in zip(stack.numbers, stack.ends, strict=True)}
            merged = collapse(known, stack.numbers, order)
        told = {}
        for number in order:
            stack, end = stack.drop(model, stack.numbers.index(number))
            parts = ["dropped", self._repaired(model, end, original, calibration)]
            if number in merged:
                parts.append("merged" if merged[number] else "not merged: no block like it stays before it")
            told[number] = ", ".join(parts)
        return stack, told

    def _repaired(self, model: ir.Model, end: str | None, original: ir.Model, calibration: Calibration | None) -> str:
        """Fit the projection that ends in the stream's value `end`; what was done."""
        if not self.repair:
            return "not repaired"
        if calibration is None:
            return "no data to repair on"
        ending = [branch.site for branch in branches(model) if branch.target.stream == end]
        if not ending:
            return "not repaired: no projection ends there"
        site = ending[-1]
        reason = f"a weight that {site.tied[0]} has too" if site.tied else repairable(site)
        if reason is not None:
            return f"not repaired: {reason}"
        seen = moments(original, model, calibration, [site])[key_of(site)]
        found = again(site, seen)
        few = scarce(seen)
        if found.ridge is None:
            return "not repaired: no fit does better on unseen data" + (f" ({few})" if few else "")
        write(site, found)
        return "repaired" + (f" ({few}, ridge {found.ridge:.2g})" if few else "")


def _influence(original: ir.Model, stack: Stack, calibration: Calibration) -> dict[int, float]:
    """How far each block turns the stream."""
    ends = zip(stack.numbers, (stack.start, *stack.ends), stack.ends, strict=False)
    return {number: turning(original, calibration, start, end, value_of(original, end)) for number, start, end in ends}


def _nothing(miss: Miss) -> Outcome:
    return Outcome((Finding("the graph", miss=miss),))


def _finding(block: Block, number: int, miss: Miss | None, chosen: str = "") -> Finding:
    node = block.nodes[0]
    return Finding(f"block {number}", sources(node), miss, scope(node), chosen)
