"""Write runs of equal blocks as a Loop over one of them: a model of recurrent depth.

    before   s1 = s0 + f(s0; W)    s2 = s1 + f(s1; W)    s3 = s2 + f(s2; W)
    after    s3 = Loop(3, true, s0) { s' = s + f(s; W) }

Exact: each trip computes what a block did. The graph shrinks to one block; its weights, equal bytes or one initializer,
are stored once. Left alone: blocks whose constants or attributes differ, or that read different values beside the
stream, as the caches of a decoder; and blocks of which something else reads a value, such as the hidden states of all
layers. A runtime optimizes a Loop's body less than a graph: for speed leave the blocks unrolled, they share their
weights as well.

Source: Dehghani et al., Universal Transformers, 2019, section 2.1 (recurrence over depth).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.block import Block
from ...ir.errors import OptionError
from ...ir.provenance import scope, sources
from ..base import Context, Finding, Miss, Outcome, Pass
from .looping import Run, loop, runs


@dataclass(frozen=True, kw_only=True)
class LoopLayers(Pass):
    """runs of equal blocks as a Loop

    least: fewest blocks of a run.
    """

    name: ClassVar[str] = "loop-layers"
    least: int = 2

    def __post_init__(self) -> None:
        if self.least < 2:
            raise OptionError(f"{self.name}: expected least of at least 2 blocks, found {self.least}")

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        return self._outcome(loop(model, self.least))

    def explain(self, model: ir.Model, context: Context) -> Outcome:
        """What `apply` would find, leaving `model` as it is."""
        return self._outcome(runs(model))

    def _outcome(self, listed: list[Run]) -> Outcome:
        findings = [finding for run in listed for finding in self._findings(run)]
        nothing = Finding("the graph", miss=Miss("blocks", "none", "blocks that repeat; see tersor inspect"))
        return Outcome(tuple(findings) or (nothing,))

    def _findings(self, run: Run) -> list[Finding]:
        count = len(run.members)
        if count >= self.least:
            first, last = run.members[0], run.members[-1]
            return [_finding(first, None, f"{count} trips, to block {last.index}")]
        few = Miss("least", f"{count} equal blocks", f"a run of {self.least}")
        return [_finding(block, run.miss or few) for block in run.members]


def _finding(block: Block, miss: Miss | None, chosen: str = "") -> Finding:
    node = block.nodes[0]
    return Finding(f"block {block.index}", sources(node), miss, scope(node), chosen)
