"""What stays of a weight beside its factors: nothing, a diagonal, few entries, or all of them in few bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from ..numerics.arrays import Floats
from ..numerics.grid import Scheme
from .groups import Group
from .measure import Measure
from .methods.residual import Metric, Rest, Sum, alternated, diagonal, quantized, sparse

Residual = Literal["none", "diagonal", "sparse", "quantized"]
#: Rounds of factors and rest in turn.
_ROUNDS = 6


@dataclass(frozen=True)
class Beside:
    """residual: what stays. keep: the share of the entries of a sparse one. bits, block: of a quantized one, and how
    many inputs share a scale.
    """

    residual: Residual = "none"
    keep: float = 0.02
    bits: int = 4
    block: int = 32

    @property
    def stored(self) -> bool:
        """Whether the weight is added up where the model is loaded, so that what it computes is as before."""
        return self.residual in ("sparse", "quantized")

    def numbers(self, rows: int, columns: int, width: int, *, straight: bool) -> float:
        """How many numbers of `width` bits a residual [rows, columns] takes. straight: whether it may be a diagonal."""
        if self.residual == "diagonal":
            return rows if straight else 0.0
        if self.residual == "sparse":
            # a zero before the entries, and a bit for each place
            return max(1, round(self.keep * rows * columns)) + 1 + 8 * -(-rows * columns // 8) / width
        if self.residual == "quantized":
            return rows * columns * self.bits / width + -(-rows // (self.block or rows)) * columns
        return 0.0

    def of(
        self,
        measure: Measure,
        group: Group,
        part: slice | None,
        weight: Floats,
        rank: int,
        gram: Floats | None = None,
        rounds: int = _ROUNDS,
    ) -> Sum:
        """Some columns of a group, of which `weight` is the numbers, [in, out]. gram: as of `Measure.spectrum`."""
        apart = partial(measure.spectrum, group, part=part, gram=gram)
        if self.residual == "none" or (self.residual == "diagonal" and not group.straight(part)):
            return Sum(apart(weight).factors(rank))
        metric, dtype = measure.metric(group, part, gram), group.first.view.array().dtype
        return alternated(weight, rank, apart, self._rest(metric, dtype), metric, rounds=rounds)

    def _rest(self, metric: Metric, dtype: np.dtype[np.generic]) -> Rest:
        if self.residual == "diagonal":
            return diagonal(metric)
        if self.residual == "sparse":
            return sparse(metric, self.keep, dtype)
        return quantized(Scheme(bits=self.bits, group=self.block), dtype)
