"""Blocks folded into the one before them: W_l + sum of (W_(l + k) - W_l) over the blocks behind l that go.

`passes.twins` says which weights belong together. Source: Yang et al., LaCo: Large Language Model Pruning via Layer
Collapse, 2024, equation 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ...ir.block import Block
from ...ir.constants import constant_of
from ..edit import Array, rewrite_constant
from ..numerics.arrays import Floats
from ..twins import Read, twins


def collapse(known: Mapping[int, Block], numbers: Sequence[int], gone: Sequence[int]) -> dict[int, bool]:
    """Add to each block that stays what those behind it that go have more; of each that goes whether that was done.

    numbers: of the blocks of a stack in order. A block that goes before the first that stays is added to none.
    """
    base: Block | None = None
    more: dict[Read, Floats] = {}
    done: dict[int, bool] = {}
    for number in numbers:
        if number not in gone:
            _add(more)
            base, more = known[number], {}
            continue
        pairs = None if base is None else twins(base, known[number])
        done[number] = pairs is not None
        for read, other in (pairs or {}).items():
            more[read] = more.get(read, np.zeros(1)) + (_array(other) - _array(read))
    _add(more)
    return done


def _add(more: Mapping[Read, Floats]) -> None:
    for (node, at), floats in more.items():
        value, held = node.inputs[at], constant_of(node.inputs[at])
        assert value is not None and held is not None
        made: Array = (held.astype(np.float64) + floats).astype(held.dtype)
        rewrite_constant(node, value, made)


def _array(read: Read) -> Floats:
    held = constant_of(read[0].inputs[read[1]])
    assert held is not None
    return held.astype(np.float64)
