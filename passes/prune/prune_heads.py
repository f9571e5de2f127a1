"""Take heads of attention out, with the queries that share each one's keys and values.

    before   y = Attention{12 heads}(x @ Q, x @ K, x @ V) @ O
    after    y = Attention{9 heads}(x @ Q', x @ K', x @ V') @ O'

Lossy. A head is what has keys of its own: where groups of queries share them, the group goes as one. The projection
that reads the rest is fitted to the original's stream (`passes.fitting`). Left alone: heads that a cache makes part of
inputs and outputs of the model, whose shapes stay as callers know them, and attention that was not raised to one op.

Sources: Michel et al., Are Sixteen Heads Really Better than One?, 2019; Voita et al., Analyzing Multi-Head
Self-Attention, 2019; Kwon et al., A Fast Post-Training Pruning Framework for Transformers, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from ...ir.axes import Role, Why
from ...ir.walk import every_node
from ..base import Contract, Finding, Lossy, Miss
from ..edit import is_op
from .ranking import Score
from .unit_pass import UnitPass, movable
from .units import Units


@dataclass(frozen=True, kw_only=True)
class PruneHeads(UnitPass):
    """heads out of attention, and the projection that reads the rest fitted

    ratio: the share of the heads that a layer had at first that go, at least 0 and less than 1.
    score: which go. `obs`: those that the rest makes up for best; `magnitude`, `inorm`, `onorm`: of least weights, of
        both sides, of what makes them, of what reads them; `activation`: of the least part in what is given on;
        `confidence`: that attend to nothing in particular; `taylor`, `fisher`: of the least derivative of the answers,
        or its square. `auto` is obs with data and magnitude without.
    scope: `layer` takes that share of each layer; `global` takes it of all together, those that matter least.
    multiple: what stays of a layer is a multiple of so many heads, and at least that.
    drop: what taylor and fisher are derivatives of: 1 - `cosine` of the rows of outputs, or the `kl` divergence of
        their softmax.
    repair: fit the projection that reads the rest to the original's stream, by least squares, where there are data.
    only, ignore: glob patterns over the names of the projections.
    """

    name: ClassVar[str] = "prune-heads"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.2)
    score: Literal["auto", "obs", "magnitude", "inorm", "onorm", "activation", "confidence", "taylor", "fisher"] = (
        "auto"
    )

    def _scored(self) -> Score:
        return self.score

    def verdict(self, each: Units) -> Miss | None:
        if Role.HEADS not in each.group.roles:
            return Miss("kind", "neurons", "heads", far=True)
        miss = movable(each)
        if miss is not None and movable(each, frozenset((Why.INPUT, Why.OUTPUT))) is None:
            need = "heads that no cache among the model's inputs and outputs has: prune it as it is without a cache"
            return Miss(miss.rule, miss.value, need, near=True)
        return miss

    def _others(self, model: ir.Model) -> list[Finding]:
        """Softmax of a product, multiplied with another: attention that was not raised has no heads to be seen."""
        return [
            Finding.at(
                node,
                Miss("attention", "a softmax of scores", "attention as one op; explain raise-attention", near=True),
            )
            for node in every_node(model.graph)
            if is_op(node, "Softmax") and any(is_op(reader, "MatMul") for reader in node.outputs[0].consumers())
        ]
