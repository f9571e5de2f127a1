"""Set weights to zero, and let those that stay make up for them: optimal brain surgeon, as SparseGPT runs it.

    before   y = x @ W
    after    y = x @ Unmask(kept, mask)             kept: what the rest of W becomes, by the inputs that were seen

Lossy. Needs calibration data: the Gram matrix of each weight's inputs. It goes from the first input to the last, takes
the weights of least saliency w^2 / [H^-1]_kk and passes what each one loses on to the inputs behind it; `refit` then
solves for the best weights of every output. What no inputs are seen of (`seen`: tables, values of subgraphs, transposed
convolutions in groups) goes by magnitude. Storage and what is left alone: as of `prune-magnitude`.

Sources: Hassibi and Stork, Optimal Brain Surgeon, 1993; Frantar and Alistarh, SparseGPT, 2023. Numbers:
`methods.surgeon`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...ir.errors import OptionError
from ..base import Contract, Lossy
from ..edit import Array
from ..seen import Seen
from .methods.surgeon import refitted, surgeon
from .sparse_pass import InputsPass


@dataclass(frozen=True, kw_only=True)
class PruneObs(InputsPass):
    """weights to zero that the others can make up for, and these do

    sparsity: the share of weights that become zero, at least 0 and less than 1; 0.5 unless told, or what N:M says.
    pattern: `free`, `2:4` (2 of 4 inputs stay), `4x4` (tiles of inputs x outputs), `bank:64` (as many of 64 inputs).
    block: inputs whose weights are chosen at one time, where the pattern does not say.
    damping: what is added to the mean square of each input, as a share of the mean over inputs.
    refit: solve for the weights that stay once all are chosen; takes outputs times the cube of inputs.
    sequential: inputs are those behind the blocks before as they are pruned; else all of the original's, in one run.
    storage: `mask` stores what is kept and a mask, where that is smaller; `dense` zeros and all, for passes behind.
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "prune-obs"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.1)
    block: int = 128
    damping: float = 0.01
    refit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.block < 1:
            raise OptionError(f"{self.name}: expected a block of at least one input, found {self.block}")
        if not 0 <= self.damping < float("inf"):
            raise OptionError(f"{self.name}: expected a damping of at least 0, found {self.damping:g}")

    def by_inputs(self, weight: Array, seen: Seen | None) -> Array:
        if seen is None:
            return self._operated(weight, np.eye(len(weight)))
        return np.concatenate([self._operated(each, by.gram) for each, by in seen.apart(weight)], 1)

    def _operated(self, weight: Array, gram: Array) -> Array:
        """Columns [in, out] that see the same inputs."""
        found = surgeon(weight, gram, self._share, self._pattern, block=self.block, damping=self.damping)
        if not self.refit:
            return found.weight
        return refitted(weight, gram, found.mask, damping=self.damping)
