"""Set weights to zero whose products with what they meet are least: magnitude times the size of the input.

    before   y = x @ W
    after    y = x @ Unmask(kept, mask)             kept: of each output the inputs j of largest |w_j| |x_j|

Lossy. Needs calibration data; the rest of the weights stays as it is. Weights are compared within an output; tiles with
all others. What no inputs are seen of (`seen`: tables, values of subgraphs, transposed convolutions in groups) goes by
magnitude. Storage and what is left alone: as of `prune-magnitude`.

Source: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, 2024. Numbers: `methods.wanda`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..base import Contract, Lossy
from ..edit import Array
from ..seen import Seen
from .methods.wanda import wanda
from .sparse_pass import InputsPass


@dataclass(frozen=True, kw_only=True)
class PruneWanda(InputsPass):
    """the weights that matter least to the inputs seen to zero

    sparsity: the share of weights that become zero, at least 0 and less than 1; 0.5 unless told, or what N:M says.
    pattern: `free`, `2:4` (2 of 4 inputs stay), `4x4` (tiles of inputs x outputs), `bank:64` (as many of 64 inputs).
    sequential: inputs are those behind the blocks before as they are pruned; else all of the original's, in one run.
    storage: `mask` stores what is kept and a mask, where that is smaller; `dense` zeros and all, for passes behind.
    embeddings, convolutions, recurrent: take in sites of these kinds beside linear ones.
    smallest: sites with fewer weights than this stay as they are.
    only, ignore: glob patterns over site names, `kind:..` and `block:..` (`tersor explain` lists them).
    """

    name: ClassVar[str] = "prune-wanda"
    contract: ClassVar[Contract] = Lossy(metric="cosine", budget=0.1)

    def by_inputs(self, weight: Array, seen: Seen | None) -> Array:
        if seen is None:
            mask = wanda(weight, np.eye(len(weight)), self._share, self._pattern)
            return np.where(mask, weight, np.zeros((), weight.dtype))
        masks = [wanda(each, by.gram, self._share, self._pattern) for each, by in seen.apart(weight)]
        return np.where(np.concatenate(masks, 1), weight, np.zeros((), weight.dtype))
