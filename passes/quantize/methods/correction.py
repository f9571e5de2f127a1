"""Biases that take back the mean error of an approximated weight."""

from __future__ import annotations

import numpy as np

from ...edit import Array
from ...numerics.arrays import check, vector


def correct_bias(
    weight: Array, approximation: Array, mean: Array, bias: Array | None = None, *, mean_now: Array | None = None
) -> Array:
    """The bias, [out], with which a layer's outputs have the mean they had before its weight was approximated.

        b' = b + E[x] W - E[x'] W'

    weight, approximation: W and W', [in, out]. mean: E[x], [in], over the samples and positions that count. bias: b,
    [out]; None for zeros. mean_now: E[x'], [in], of the inputs that reach the layer now, where what comes before it has
    changed too; None if they are the same.

    The mean square error of the outputs falls by the square of their mean error, and never grows. Raises ValueError for
    other shapes, and numbers that are not finite. Source: Nagel et al., Data-Free Quantization Through Weight
    Equalization and Bias Correction, 2019, section 4.2, with E[x] measured instead of taken from a batch normalization.

    >>> correct_bias(np.array([[1.0], [1.0]]), np.array([[0.75], [1.0]]), np.array([2.0, 5.0])).tolist()
    [0.5]
    """
    before, after = check(weight), check(approximation)
    if before.shape != after.shape:
        raise ValueError(f"expected an approximation {before.shape} as the weight is, found {after.shape}")
    rows, columns = before.shape
    was = vector(mean, rows, "mean of the inputs")
    now = was if mean_now is None else vector(mean_now, rows, "mean of the inputs now")
    given = np.zeros(columns) if bias is None else vector(bias, columns, "bias")
    # E[x] W - E[x'] W' == E[x] (W - W') + (E[x] - E[x']) W', without the cancellation
    corrected: Array = (given + was @ (before - after) + (was - now) @ after).astype(weight.dtype)
    return corrected
