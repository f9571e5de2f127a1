"""How far blocks are apart, for choosing which of them share: by what they compute, or by their weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..edit import Array
from ..numerics.arrays import Floats
from ..statistics import Calibration, Part
from .methods.rebasin import match
from .methods.similarity import cka
from .stacks import Stack

#: Tokens that blocks are compared on, taken evenly from all batches.
_TOKENS = 1024


def by_output(model: ir.Model, outputs: Sequence[ir.Value], calibration: Calibration) -> Floats:
    """1 - CKA of what each two blocks give, [blocks, blocks]: half the square of how far Gram matrices are apart."""
    each = -(-_TOKENS // len(calibration.batches))
    seen: list[list[Array]] = [[] for _ in outputs]
    parts = [Part(model, value.name or "", value) for value in outputs]
    for rows in calibration.together(parts):
        chosen = np.linspace(0, len(rows[0]) - 1, min(each, len(rows[0]))).astype(np.intp)
        for kept, array in zip(seen, rows, strict=True):
            kept.append(array[chosen].astype(np.float64))
    distances: Floats = np.maximum(1.0 - cka([np.concatenate(kept) for kept in seen]), 0.0)
    return distances


def by_weight(model: ir.Model, stack: Stack, *, align: bool) -> Floats:
    """|W_k - P W_l|^2 of what each two blocks would share, [blocks, blocks]; P: the best order of neurons and heads."""
    families = stack.families(model) if align else []
    count = len(stack.members)
    rows = [[stack.rows(at, family) for at in range(count)] for family in families]
    moved = {(at, slot.value) for family in families for at in range(count) for slot in family.slots[at]}
    distances = np.zeros((count, count))
    for first in range(count):
        for second in range(first + 1, count):
            lost = 0.0
            for read in stack.shared:
                if (first, stack.value(first, read)) not in moved:
                    lost += _square(stack.numbers(first, read), stack.numbers(second, read))
            for units in rows:
                lost += _square(units[first], units[second][match(units[first], units[second])])
            distances[first, second] = distances[second, first] = lost
    return distances


def _square(one: Array, other: Array) -> float:
    return float(np.sum(np.square(np.subtract(one, other, dtype=np.float64))))
