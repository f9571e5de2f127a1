"""Block terms: a sum of Tucker decompositions, each with a small core.

    A ~= sum over b of G_b x1 U_b x2 V_b x3 W_b        De Lathauwer, Decompositions of a higher-order tensor in block
                                                       terms, Part II, 2008, definition 1.2 (rank-(L, M, N) terms)

Alternating least squares over blocks: each is in turn the best Tucker decomposition of what the others leave (Part III,
2008, section 3, with one block at a time), by HOOI from the block that was there, so that the error never grows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from .network import Factor
from .tucker import Tucker, tucker

#: Sweeps over the blocks, rounds of HOOI for each, and the gain, as a share of the error, below which they stop.
_SWEEPS, _ROUNDS, _GAIN = 10, 2, 1e-3


def block_term(tensor: Array, ranks: Sequence[int], blocks: int, *, sweeps: int = _SWEEPS) -> list[Tucker]:
    """The blocks, each of these ranks.

    Raises ValueError for ranks below 1 or above full, for fewer than one block, and for NaN and infinity;
    UnsupportedError without TensorLy.
    """
    if blocks < 1:
        raise ValueError(f"expected at least one block, found {blocks}")
    wide = np.asarray(tensor, np.float64)
    found: list[Tucker] = []
    rest = wide
    for _ in range(blocks):
        found.append(tucker(rest, ranks, rounds=_ROUNDS) if blocks > 1 else tucker(rest, ranks))
        rest = rest - found[-1].dense()
    error = float(np.sum(rest**2))
    for _ in range(sweeps if blocks > 1 else 0):
        before = error
        for at, block in enumerate(found):
            target = rest + block.dense()
            found[at] = tucker(target, ranks, block, rounds=_ROUNDS)
            rest = target - found[at].dense()
        error = float(np.sum(rest**2))
        if before - error <= _GAIN * before:
            break
    return found


def factors(found: Sequence[Tucker], labels: Sequence[str]) -> tuple[Factor, ...]:
    """The blocks side by side, as factors of a network whose label `b` counts them."""
    first = found[0].factors(labels)
    parts = [block.factors(labels) for block in found]
    return tuple(
        Factor(np.stack([part[at].array for part in parts]), ("b", *each.labels)) for at, each in enumerate(first)
    )


def dense(found: Sequence[Tucker]) -> Floats:
    """The tensor that the blocks stand for."""
    total = found[0].dense()
    for block in found[1:]:
        total = total + block.dense()
    return total
