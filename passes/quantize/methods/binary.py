"""One bit for each weight or activation: its sign, and a scale for each output or token.

Weights are [in, out] and so is the plane, with a scale for each output column.
"""

from __future__ import annotations

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...weights import Planes


def binary_connect(weight: Array) -> Planes:
    """+1 where a weight is at least zero, else -1.

    weight: [in, out]; scales are one, [1, 1, out], in the weight's dtype. Source: Courbariaux et al., BinaryConnect,
    2015, section 2.3, equation 1 (deterministic). Raises ValueError for a weight that is no matrix of finite numbers.

    >>> binary_connect(np.array([[0.5], [-3.0]], np.float32)).dense().tolist()
    [[1.0], [-1.0]]
    """
    wide = check(weight)
    return _plane(wide, np.ones((1, wide.shape[1])), weight)


def binary_weight(weight: Array) -> Planes:
    """The signs, and for each output the mean magnitude: no scaled signs are nearer to the weight in L2 (BWN).

    weight: [in, out]; scales are [1, 1, out], zero for an output of zeros. Source: Rastegari et al., XNOR-Net, 2016,
    section 3.1, equations 5 and 6. Raises ValueError for a weight that is no matrix of finite numbers.

    >>> binary_weight(np.array([[0.5], [-3.5]], np.float32)).dense().tolist()
    [[2.0], [-2.0]]
    """
    wide = check(weight)
    return _plane(wide, _mean_magnitude(wide, 0), weight)


def binary_activations(activations: Array) -> Planes:
    """The signs of each token's features, and their mean magnitude (XNOR-Net).

    activations: [tokens, features], as is the plane; its scales are [1, tokens, 1]. With a weight of `binary_weight`
    the product is beta * alpha * (sign(x) . sign(w)), and the inner one counts equal bits. Source: Rastegari et al.,
    2016, section 3.2, equations 7 to 11: K, where a window of the input is a token. Raises ValueError for activations
    that are no matrix of finite numbers.
    """
    wide = check(activations)
    return _plane(wide, _mean_magnitude(wide, 1), activations)


def _mean_magnitude(wide: Floats, axis: int) -> Floats:
    mean: Floats = np.abs(wide).sum(axis, keepdims=True) / max(wide.shape[axis], 1)
    return mean


def _plane(wide: Floats, scale: Floats, source: Array) -> Planes:
    """One plane of the signs, with scales in the dtype of the source, or float32 where that holds integers."""
    dtype = np.dtype(np.float32) if source.dtype.kind in "iub" else source.dtype
    return Planes((wide >= 0)[None], scale[None].astype(dtype))
