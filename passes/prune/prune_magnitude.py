"""Set the weights of the least magnitudes to zero.

    before   y = x @ W                                      W [384, 1536]
    after    y = x @ Unmask(kept, mask)                     kept: the half of W that is largest; a bit for each weight

Lossy. Needs no data. Which weights are compared says `scope`; where zeros may lie says `pattern`: 2:4 leaves two of
every four neighbouring inputs of an output. The mask and the numbers that are kept are stored (`weights.masked`) where
that is smaller; runtimes decode them once, when they load the model, and multiply dense. Left alone: weights read in
two ways, small, not finite, computed or quantized, that a pattern does not divide, of which nothing would be left or
which have these zeros already, and sites that the options leave out. With scope=global, what a first run left dense
counts anew in a second one.

Sources: See et al., Compression of Neural Machine Translation Models via Pruning, 2016 (scopes); Narang et al., 2017
(tiles); Cao et al., 2019 (banks). Numbers: `methods.magnitude`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ...ir.errors import OptionError
from ...ir.site import Site
from ..base import Context, Contract, Lossy
from ..edit import Array
from ..placing import matrix
from .methods.magnitude import Scope, magnitude
from .sparse_pass import SparsePass


@dataclass(frozen=True, kw_only=True)
class PruneMagnitude(SparsePass):
    """the smallest weights to zero

    sparsity: the share of weights that become zero, at least 0 and less than 1; 0.5 unless told, or what N:M says.
    scope: `uniform` takes that share of each weight, `output` of each output of one, `global` of all together,
        `distribution` of all by their size in standard deviations of their weight.
    pattern: `free`, `2:4` (2 of 4 inputs stay), `4x4` (tiles of inputs x outputs), `bank:64` (as many of 64 inputs).
    storage: `mask` stores what is kept and a mask, where that is smaller; `dense` zeros and all, for passes behind.
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "prune-magnitude"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.1)
    scope: Scope = "uniform"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope in ("global", "distribution") and self._pattern.run:
            raise OptionError(
                f"{self.name}: the pattern {self.pattern} has a share of its own for each weight; expected "
                f"scope=uniform, found {self.scope}"
            )

    def pruned(self, model: ir.Model, part: Sequence[Site], context: Context) -> Mapping[ir.Value, Array]:
        weights = [matrix(site) for site in part]
        masks = magnitude(weights, self._share, self.scope, self._pattern)
        return {
            site.weight: np.where(mask, weight, np.zeros((), weight.dtype))
            for site, weight, mask in zip(part, weights, masks, strict=True)
        }
