"""SmoothQuant: the spread between input channels moves from the activations to the weights.

    x W == (x / s)(s W)        s_j = max|x_j|^alpha / max|W_j|^(1 - alpha)

With alpha 1 all channels of x / s reach as far, with 0 all rows of s W do, with 0.5 either as far as the other's.

Xiao et al., SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models, 2022, arXiv
2211.10438, equation 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats
from ...numerics.gram import check_gram
from ...numerics.grid import Scheme, float_of, nearest
from .scaling import check_shared, held, output_error, times

#: A channel or row that reaches less far than so much of the furthest counts as reaching so far: zeros have a scale.
_NEAREST = 1e-5
#: How much less error smoothing has to promise, of that without.
_WORTH = 1e-3


@dataclass(frozen=True)
class Smoothing:
    """Scales [in], of the weights' dtype: the input is divided by them, the weights are multiplied.

    alpha: the exponent that gave them, None where not smoothing is best. error: the squared error of all outputs that
    is to be expected over the tokens of the Gram matrix.
    """

    scales: Array
    alpha: float | None
    error: float


def smooth(weights: Sequence[Array], reach: Array, *, alpha: float = 0.5) -> Array:
    """Scales [in] for weights [in, out_i] of one dtype that share an input: equation 4 of the paper.

    reach: max|x| of each input channel, [in]. alpha: from 0 to 1, the share of the spread that goes to the weights.
    What never leaves zero is taken to reach a little, 1e-5 of the largest, so that a dead channel's weights shrink and
    loud inputs of dead weights do. Scales and their reciprocals stay finite in the weights' dtype. Raises ValueError
    where shapes do not fit one another, for numbers that are not finite, and other alphas.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected an alpha from 0 to 1, found {alpha}")
    wide, inputs = check_shared(weights, reach)
    rows = np.stack([np.abs(weight).max(1, initial=0.0) for weight in wide]).max(0)
    dtype = float_of(weights[0])
    return held(_floored(inputs) ** alpha / _floored(rows) ** (1 - alpha), dtype).astype(dtype)


def search(
    weights: Sequence[Array],
    low: Array,
    high: Array,
    gram: Array,
    tokens: int,
    *,
    bits: int = 8,
    scheme: Scheme | None = None,
    steps: int = 20,
) -> Smoothing:
    """The alpha of least expected output error where both sides are rounded, from statistics alone.

    low, high: the range of each input channel, [in]; the activations' grid spans all of them and zero, in `bits` bits.
    gram: x^T x over `tokens` tokens. scheme: the weights' grids, by default signed and of 8 bits for each output.
    steps: alpha is one of 0, 1 / steps, ..., 1, or none where that saves less than a thousandth. Rounding x is taken as
    noise that is independent of x: step^2 / 12 for each number, at most the channel's own mean square, for what is less
    than half a step becomes zero. Raises ValueError as `smooth` does, for no tokens, ranges that are not in order and a
    matrix that is no Gram matrix.
    """
    if tokens < 1 or steps < 1 or not 2 <= bits <= 16:
        raise ValueError(f"expected tokens, steps and 2 to 16 bits, found {tokens=}, {steps=}, {bits=}")
    bottom, top = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if bottom.shape != top.shape or not (bottom <= top).all():
        raise ValueError("expected ranges [in] whose lower ends are not above their upper ends")
    reach = np.maximum(np.abs(bottom), np.abs(top))
    wide, _ = check_shared(weights, reach)
    symmetric = check_gram(gram, len(reach))
    grid = scheme or Scheme(bits=8)

    def expected(scales: Array) -> float:
        factors = scales.astype(np.float64)
        step = (np.max(top / factors, initial=0.0) - np.min(bottom / factors, initial=0.0)) / ((1 << bits) - 1)
        noise = np.minimum(tokens * step**2 / 12, symmetric.diagonal() / factors**2)
        total = 0.0
        for weight, given in zip(wide, weights, strict=True):
            product = times(scales, given)
            if not np.isfinite(product).all():
                return np.inf
            rounded = nearest(product, grid).dense().astype(np.float64)
            total += float(output_error(weight - rounded / factors[:, None], symmetric).sum())
            total += float(noise @ (rounded**2).sum(1))
        return total

    plain = np.ones(len(reach), float_of(weights[0]))
    tried = [(None, plain)] + [(step / steps, smooth(weights, reach, alpha=step / steps)) for step in range(steps + 1)]
    made = [Smoothing(scales, alpha, expected(scales)) for alpha, scales in tried]
    best = min(made, key=lambda one: one.error)
    return best if best.error < made[0].error * (1 - _WORTH) else made[0]


def _floored(reach: Floats) -> Floats:
    """Numbers of which none is much smaller than the largest; ones where all are zero."""
    largest = reach.max(initial=0.0)
    floored: Floats = np.maximum(reach, _NEAREST * largest) if largest > 0 else np.ones_like(reach)
    return floored
