"""Let the layers of a stack share their weights: all of them, attention or feed-forward, in groups of neighbours.

    before   s1 = s0 + f(s0; W0)    s2 = s1 + f(s1; W1)    s3 = s2 + f(s2; W2)    s4 = s3 + f(s3; W3)
    after    s1 = s0 + f(s0; W)     s2 = s1 + f(s1; W)     s3 = s2 + f(s2; V)     s4 = s3 + f(s3; V)

Lossy: a start for training, not its end. Which constants belong together follows from the paths that lead from them to
a block's end (`passes.twins`). Neurons and heads are put into the order in which the layers of a group agree best, a
change of no answer, before their weights become one: the mean, or those of the first. What layers keep for themselves,
biases and norms, is fitted to the original's values where there are data (`share.repairing`), once all stacks share,
from the first layer that does on: layers behind it that share nothing too. As a Loop, layers with nothing of their own
are stored and written once (pass `loop-layers`). Left alone: blocks whose attributes or other constants differ from
those of the first, weights that are quantized, not finite, inputs or outputs of the model, and layers that share
already.

Sources: Lan et al., ALBERT: A Lite BERT, 2020, section 3.1; Dehghani et al., Universal Transformers, 2019; Kornblith
et al., Similarity of Neural Network Representations Revisited, 2019 (`cka`); Ainsworth et al., Git Re-Basin, 2022.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.block import Block
from ...ir.errors import OptionError
from ...ir.provenance import scope, sources
from ..base import Context, Contract, Finding, Lossy, Miss, Outcome, Pass
from ..trail import Trail
from .grouping import by_output, by_weight
from .looping import Run, loop
from .methods.partition import even, partition, spread
from .repairing import kept, repair
from .stacks import Stack, odd, stacks


@dataclass(frozen=True, kw_only=True)
class ShareLayers(Pass):
    """one set of weights for several layers

    what: `all`; `attention`: what leads to an attention and from it; `ffn`: what lies beside.
    groups: how many sets of weights are left of each stack of blocks; 1 for all of it, as ALBERT has it.
    choose: where one group ends and the next begins. `adjacent`: groups of equal length; `cka`: where blocks' outputs
        differ most on calibration data, by centred kernel alignment; `alignment`: where their weights do, neurons and
        heads aligned if `align` is.
    align: put neurons and heads, with the queries of a head of keys, in the order in which the weights agree best.
    merge: what the weights of a group become: their `mean`, or the `first`.
    keep: what each layer keeps of its own beside the rest: `vectors` for biases and norms, `biases`, `norms`, `none`.
    repair: fit the norms and biases that are kept to the original's values, where there are data.
    depth: `shared` leaves the layers one after the other; `loop` writes those of a group, and those that are equal
        already, as a Loop (keep=none, what=all).
    """

    name: ClassVar[str] = "share-layers"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    what: Literal["all", "attention", "ffn"] = "all"
    groups: int = 1
    choose: Literal["adjacent", "cka", "alignment"] = "adjacent"
    align: bool = True
    merge: Literal["mean", "first"] = "mean"
    keep: Literal["none", "norms", "biases", "vectors"] = "vectors"
    repair: bool = True
    depth: Literal["shared", "loop"] = "shared"

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise OptionError(f"{self.name}: expected at least 1 group, found {self.groups}")
        if self.depth == "loop" and (self.keep != "none" or self.what != "all"):
            raise OptionError(
                f"{self.name}: expected depth=loop with keep=none and what=all, for what runs as one has nothing of "
                f"its own; found keep={self.keep}, what={self.what}"
            )
        if self.choose != "adjacent" and self.groups == 1:
            raise OptionError(f"{self.name}: choose={self.choose} is where groups end, and there is one; give groups")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        now = stacks(model, self.what, self.keep)
        findings = [_finding(block, miss) for block, miss in odd(model, now)]
        taken: list[tuple[Stack, list[range]]] = []
        for stack in now:
            findings += [_finding(block, miss) for block, miss in stack.left]
            miss = stack.miss(self.groups)
            if miss is None:
                taken.append((stack, self._runs(model, stack, context)))
            else:
                findings.append(_finding(stack.members[0], miss) if stack.members else _nothing(miss))
        findings += self._share(model, taken, context)
        if self.depth == "loop":
            findings = _looped(findings, loop(model))
        return Outcome(tuple(findings) or (_nothing(Miss("blocks", "none", "blocks that repeat; see tersor inspect")),))

    def _share(
        self, model: ir.Model, taken: Sequence[tuple[Stack, Sequence[range]]], context: Context
    ) -> list[Finding]:
        moved = [stack.align(model, runs, self.merge) if self.align else {} for stack, runs in taken]
        calibration = context.calibration if self.repair and self.keep != "none" else None
        # neurons and heads are in their new order, and so are the values that are compared
        original = model.clone() if calibration is not None and taken else model
        told = [self._merge(stack, runs, places) for (stack, runs), places in zip(taken, moved, strict=True)]
        alone, findings, changed = Miss("group", "alone", "another block in its group"), list[Finding](), False
        for (stack, _), merged in zip(taken, told, strict=True):
            trail = Trail()
            for at, block in enumerate(stack.members):
                changed |= at in merged
                said = merged.get(at, [])
                # what lies in front of all that shares computes as before
                if calibration is not None and changed:
                    count = repair(model, original, calibration, kept(block, stack.own(at)), trail)
                    if count:
                        said = [*(said or ["alone in its group"]), f"{count} repaired"]
                    elif said:
                        said = [*said, "nothing to repair"]
                findings.append(_finding(block, None if said else alone, ", ".join(said)))
        return findings

    def _merge(self, stack: Stack, runs: Sequence[range], moved: Mapping[int, list[str]]) -> dict[int, list[str]]:
        """Let the members of each run share; what became of each that does."""
        told: dict[int, list[str]] = {}
        for run in runs:
            for at, apart in stack.merge(run, self.merge).items() if len(run) > 1 else ():
                told[at] = [f"{self.what} of {_named(stack, run)}", f"apart {apart:.2g}", *moved.get(at, [])]
        return told

    def _runs(self, model: ir.Model, stack: Stack, context: Context) -> list[range]:
        size = len(stack.members)
        if self.choose == "cka":
            context.statistics(model, ())  # says so where there are no data
            assert context.calibration is not None
            distances = by_output(model, [block.output for block in stack.members], context.calibration)
            return partition(spread(distances), self.groups)
        if self.choose == "alignment":
            return partition(spread(by_weight(model, stack, align=self.align)), self.groups)
        return even(size, self.groups)


def _looped(findings: Sequence[Finding], listed: Sequence[Run]) -> list[Finding]:
    """The findings, where blocks that were not merged are written as a Loop all the same: they share already."""
    trips = {f"block {run.members[0].index}": len(run.members) for run in listed if len(run.members) > 1}
    return [
        replace(each, miss=None, chosen=f"{trips[each.place]} trips") if each.miss and each.place in trips else each
        for each in findings
    ]


def _named(stack: Stack, run: range) -> str:
    return f"blocks {stack.members[run[0]].index} to {stack.members[run[-1]].index}"


def _nothing(miss: Miss) -> Finding:
    return Finding("the graph", miss=miss)


def _finding(block: Block, miss: Miss | None, chosen: str = "") -> Finding:
    node = block.nodes[0]
    return Finding(f"block {block.index}", sources(node), miss, scope(node), chosen)
