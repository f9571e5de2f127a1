"""What factors do to the speed of a recurrent layer, to be timed: it computes through so many features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ...ir.site import Kind, sites
from ..base import Context, Contract, Lossy, Outcome, Pass
from ..choosing import outcome
from ..edit import declare_functions
from .projected import unprojected
from .projecting import Projecting
from .recurrences import items


@dataclass(frozen=True, kw_only=True)
class Thin(Pass):
    """inputs of recurrent layers, or their states with the steps written out, through so many features"""

    name: ClassVar[str] = "factorize-recurrent"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=2.0)
    rank: int
    hidden: bool

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        kind = Kind.RECURRENT_HIDDEN if self.hidden else Kind.RECURRENT_INPUT
        every = {site.weight: site for site in reversed(sites(model)) if site.kind is kind}
        able = [site for site in every.values() if not self.hidden or unprojected(site.node) is None]
        taken = [(item, min(self.rank, item.most)) for item in items(able, shared=False)]
        stepped = {item.node for item, _ in taken} if self.hidden else set()
        Projecting({}, leading=False, damping=0.0, stepped=stepped).run(taken)
        declare_functions(model)
        return outcome([(site, None) for site in able])
