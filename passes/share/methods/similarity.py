"""How alike what layers compute is: centred kernel alignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check


def cka(layers: Sequence[Array]) -> Floats:
    """Linear CKA of each two of some layers, [layers, layers]; each: activations [tokens, features] of the same tokens.

        CKA(X, Y) = |Y.T X|^2 / (|X.T X| |Y.T Y|)            X, Y: the mean over tokens taken off

    The same for any rotation and scale of either; 0 for what does not vary. As inner product of the Gram matrices of
    tokens, so that the features may be of any number. Source: Kornblith et al., Similarity of Neural Network
    Representations Revisited, 2019, equations 3 and 4.

    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    >>> cka([x, 3 * x[:, ::-1]]).round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    grams = [_gram(layer) for layer in layers]
    if len({gram.shape for gram in grams}) > 1:
        raise ValueError(f"expected the same tokens of each layer, found {[len(gram) for gram in grams]}")
    flat = np.array([gram.reshape(-1) for gram in grams])
    found: Floats = flat @ flat.T
    return found


def _gram(layer: Array) -> Floats:
    """X X.T, centred, of length one."""
    rows = check(layer)
    rows = rows - rows.mean(0)
    gram: Floats = rows @ rows.T
    length = float(np.linalg.norm(gram))
    return gram / length if length else gram
