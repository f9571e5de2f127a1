"""Weights of the least magnitudes go: of each layer or output, of all layers, or below a multiple of a deviation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ...edit import Array
from ...numerics.arrays import check
from .patterns import Bools, Pattern, check_sparsity, choose, pooled, spread

Scope = Literal["uniform", "output", "global", "distribution"]


def magnitude(weights: Sequence[Array], sparsity: float, scope: Scope, pattern: Pattern) -> list[Bools]:
    """Which weights of each layer stay; weights and answers are [in, out].

        uniform        |w| among those of its layer                         class-uniform
        output         |w| among those of the same output
        global         |w| among those of all layers                        class-blind
        distribution   |w| / standard deviation of its layer, among all     class-distribution

    The last is the threshold lambda * deviation for each layer, with the one lambda at which `sparsity` is reached.
    Tiles, which hold several outputs, are compared with those of their layer where `output` is asked for.
    Raises ValueError for a scope beyond a layer with a pattern that has a share of its own for each layer, and as
    `choose` does. Source: See et al., Compression of Neural Machine Translation Models via Pruning, 2016, section 3.2.

    >>> both = [np.array([[1.0, 3.0]]), np.array([[10.0, 30.0]])]
    >>> [mask[0].tolist() for mask in magnitude(both, 0.5, "global", Pattern())]
    [[False, False], [True, True]]
    """
    wide = [np.abs(check(weight)) for weight in weights]
    if scope in ("uniform", "output"):
        among: Literal["weight", "output"] = "output" if scope == "output" else "weight"
        return [choose(scores, sparsity, pattern, among=among) for scores in wide]
    check_sparsity(sparsity)
    if pattern.run:
        raise ValueError(f"expected the scope uniform with N:M and banks, which fix each layer's share, found {scope}")
    if scope == "distribution":
        spreads = [float(np.std(np.asarray(weight, np.float64))) if weight.size else 1.0 for weight in weights]
        wide = [scores / (deviation or 1.0) for scores, deviation in zip(wide, spreads, strict=True)]
    cells = [pooled(scores, pattern.tile, "max") for scores in wide]
    kept = choose(np.concatenate([each.reshape(-1, 1) for each in cells]), sparsity, Pattern())
    parts = np.split(kept[:, 0], np.cumsum([each.size for each in cells])[:-1])
    return [spread(part.reshape(each.shape), pattern.tile) for part, each in zip(parts, cells, strict=True)]
