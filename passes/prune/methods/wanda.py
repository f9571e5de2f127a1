"""Weights whose products with what they meet are least go, none is changed."""

from __future__ import annotations

import numpy as np

from ...edit import Array
from ...numerics.arrays import check
from ...numerics.gram import check_gram
from .patterns import Bools, Pattern, choose


def wanda(weight: Array, gram: Array, sparsity: float, pattern: Pattern) -> Bools:
    """Which weights [in, out] stay: by |w_ij| * |x_i|, compared within each output.

    gram: x.T @ x, [in, in], of which the diagonal is read. Tiles are compared with those of all outputs, by the sum of
    their squares. Raises ValueError as `choose` and `check_gram` do. Source: Sun et al., A Simple and Effective Pruning
    Approach for Large Language Models, 2024, equation 1.
    """
    wide = check(weight)
    norms = np.sqrt(np.diagonal(check_gram(gram, len(wide))))
    # squares are in the order of what they are squares of, and add up over a tile
    return choose((wide * norms[:, None]) ** 2, sparsity, pattern, among="output", pool="sum")
