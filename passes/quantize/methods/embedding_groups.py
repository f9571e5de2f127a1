"""Per-embedding-group quantization: features of like ranges share a grid.

    features sorted by range    | narrow ... | ... | ... wide |        one scale and zero point for each group

A few features of a transformer's residual stream are far larger than the others; in a group of their own they no
longer cost the rest their bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...edit import Array
from ...numerics.arrays import Floats
from .ranges import activation_grid

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Which features share a range.

    order: [features], the feature that comes to each place, the groups one after the other. sizes: [groups], how many
    features each has. low, high: [groups], the range that takes in those of its features.
    """

    order: Integers
    sizes: Integers
    low: Floats
    high: Floats

    @property
    def inverse(self) -> Integers:
        """The place that each feature comes to: x[:, order][:, inverse] is x."""
        return np.argsort(self.order)

    @property
    def members(self) -> Integers:
        """The group of each feature, [features], in the features' own order."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)[self.inverse]

    def grid(self, *, bits: int = 8, symmetric: bool = False) -> tuple[NDArray[np.float32], Array]:
        """Scale and zero point of each group, [groups] each, as `activation_grid` gives them."""
        return activation_grid(self.low, self.high, bits=bits, symmetric=symmetric)

    def spread(self, parameter: Array) -> Array:
        """A number for each group as one for each feature, [features], in the features' own order."""
        return parameter[self.members]


def embedding_groups(low: Floats, high: Floats, groups: int, *, permute: bool = True) -> Groups:
    """Divide features into `groups` groups of equal size, each with one range.

    low, high: what was seen of each feature, [features]. Where the size does not divide, the first groups have one
    feature more. permute: features are sorted by range, high - low, the narrowest first, and stay in order where it is
    equal; else they keep their places. One group is one range for the tensor, as many as features one for each.

    Source: Bondarenko et al., Understanding and Overcoming the Challenges of Efficient Transformer Quantization, EMNLP
    2021, section 4 (per-embedding-group quantization, range-based permutation). Raises ValueError for ranges that are
    not finite or not in order, for none, and for fewer than one group or more than features.

    >>> found = embedding_groups(np.array([-1.0, -9.0, 0.0, -2.0]), np.array([1.0, 9.0, 1.0, 2.0]), 2)
    >>> found.order.tolist(), found.low.tolist(), found.high.tolist()
    ([2, 0, 3, 1], [-1.0, -9.0], [1.0, 9.0])
    """
    if low.ndim != 1 or low.shape != high.shape:
        raise ValueError(f"expected ranges [features] each, found {list(low.shape)} and {list(high.shape)}")
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise ValueError("expected finite ranges in order: was each feature seen?")
    if not 1 <= groups <= len(low):
        raise ValueError(f"expected 1 to {len(low)} groups, as there are features, found {groups}")
    # the halves, for the difference may overflow
    order = np.argsort(high / 2 - low / 2, kind="stable") if permute else np.arange(len(low))
    most, rest = divmod(len(low), groups)
    sizes = most + (np.arange(groups) < rest)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return Groups(
        order.astype(np.int64),
        sizes.astype(np.int64),
        np.minimum.reduceat(low[order], starts).astype(np.float64),
        np.maximum.reduceat(high[order], starts).astype(np.float64),
    )
