"""Let the layers of a stack share their weights: all of them, attention or feed-forward, in groups of neighbours.

    before   s1 = s0 + f(s0; W0)    s2 = s1 + f(s1; W1)    s3 = s2 + f(s2; W2)    s4 = s3 + f(s3; W3)
    after    s1 = s0 + f(s0; W)     s2 = s1 + f(s1; W)     s3 = s2 + f(s2; V)     s4 = s3 + f(s3; V)

Lossy: a start for training, not its end. Which constants belong together follows from the paths that lead from them to
a block's end (`passes.twins`). Neurons and heads are put into the order in which the layers of a group agree best, a
change of no answer, before their weights become one: the mean, or those of the first. What layers keep for themselves,
biases and norms, is fitted to the original's values where there are data (`share.repairing`). As a Loop, layers with
nothing of their own are stored and written once (pass `loop-layers`). Left alone: blocks whose attributes or other
constants differ from those of the first, weights that are quantized, not finite, inputs or outputs of the model, and
layers that share already.

Sources: Lan et al., ALBERT: A Lite BERT, 2020, section 3.1; Dehghani et al., Universal Transformers, 2019; Kornblith
et al., Similarity of Neural Network Representations Revisited, 2019 (`cka`); Ainsworth et al., Git Re-Basin, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.block import Block
from ...ir.errors import OptionError
from ...ir.provenance import scope, sources
from ..base import Context, Contract, Finding, Lossy, Miss, Outcome, Pass
from ..trail import Trail
from .grouping import by_output, by_weight
from .looping import loop
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
    depth: `shared` leaves the layers one after the other; `loop` writes those of a group as a Loop (keep=none,
        what=all).
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

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        now = stacks(model, self.what, self.keep)
        findings = [_finding(block, miss) for block, miss in odd(model, now)]
        done = False
        for stack in now:
            findings += [_finding(block, miss) for block, miss in stack.left]
            miss = stack.miss(self.groups)
            if miss is not None:
                findings.append(_finding(stack.members[0], miss) if stack.members else _nothing(miss))
                continue
            findings += self._share(model, stack, context)
            done = True
        if done and self.depth == "loop":
            loop(model)
        return Outcome(tuple(findings) or (_nothing(Miss("blocks", "none", "blocks that repeat; see tersor inspect")),))

    def _share(self, model: ir.Model, stack: Stack, context: Context) -> list[Finding]:
        runs = self._runs(model, stack, context)
        moved = stack.align(model, runs, self.merge) if self.align else {}
        calibration = context.calibration if self.repair and self.keep != "none" else None
        # neurons and heads are in their new order, and so are the values that are compared
        original, trail = (model.clone() if calibration is not None else model), Trail()
        told: dict[int, list[str]] = {}
        for run in runs:
            for at, apart in stack.merge(run, self.merge).items() if len(run) > 1 else ():
                told[at] = [f"{self.what} of {_named(stack, run)}", f"apart {apart:.2g}", *moved.get(at, [])]
        for at, block in enumerate(stack.members) if calibration is not None else ():
            assert calibration is not None
            count = repair(model, original, calibration, kept(block, stack.own(at)), trail)
            told.get(at, []).append(f"{count} repaired" if count else "nothing to repair")
        alone = Miss("group", "alone", "another block in its group")
        return [
            _finding(block, None, ", ".join(told[at])) if at in told else _finding(block, alone)
            for at, block in enumerate(stack.members)
        ]

    def _runs(self, model: ir.Model, stack: Stack, context: Context) -> list[range]:
        size = len(stack.members)
        if self.choose == "cka":
            context.statistics(model, ())  # says so where there are no data
            assert context.calibration is not None
            if self.groups > 1:
                distances = by_output(model, [block.output for block in stack.members], context.calibration)
                return partition(spread(distances), self.groups)
        if self.choose == "alignment" and self.groups > 1:
            return partition(spread(by_weight(model, stack, align=self.align)), self.groups)
        return even(size, self.groups)


def _named(stack: Stack, run: range) -> str:
    return f"blocks {stack.members[run[0]].index} to {stack.members[run[-1]].index}"


def _nothing(miss: Miss) -> Finding:
    return Finding("the graph", miss=miss)


def _finding(block: Block, miss: Miss | None, chosen: str = "") -> Finding:
    node = block.nodes[0]
    return Finding(f"block {block.index}", sources(node), miss, scope(node), chosen)
