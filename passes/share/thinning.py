"""What sharing a basis does to the speed of layers, to be timed: they compute through so many features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.site import Kind, sites
from ..base import Context, Contract, Lossy, Outcome, Pass
from ..choosing import outcome
from ..pairs import siblings, split


@dataclass(frozen=True, kw_only=True)
class Thin(Pass):
    """sites that read one activation through so many features of it, whatever they compute"""

    name: ClassVar[str] = "share-basis"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=2.0)
    rank: int

    def apply(self, model: ir.Model, context: Context) -> Outcome:
        chosen = [site for site in sites(model) if site.kind is Kind.LINEAR]
        for layer in siblings(chosen):
            # how long a product takes does not hang on the numbers, so long as they are ordinary ones
            left = np.full((layer[0].in_features, self.rank), 1 / layer[0].in_features)
            split(layer, left, np.full((self.rank, sum(site.out_features for site in layer)), 1 / self.rank))
        return outcome([(site, None) for site in chosen])
