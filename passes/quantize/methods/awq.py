"""AWQ: input channels that carry large activations get finer grids, by scales that the product undoes.

    x W == (x / s)(s W) ~ (x / s) Q(s W)        s = s_x^alpha        s_x = mean |x| of each input channel

alpha is searched for the least error of the product, which the Gram matrix x^T x gives without any activation:

    |x D|^2 = tr(D^T G D)        D = W - Q(s W) / s

and so are the ratios by which the range of each group shrinks before it is divided.

Lin et al., AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration, 2023, arXiv 2306.00978,
section 3.2, equations 4 and 5; the clipping search is named there. Here a group's ratio is judged by the whole output,
given the errors of the groups beside it, so that no ratio taken makes the product worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...numerics.gram import check_gram
from ...numerics.grid import Scheme, fit, float_of, nonzero, round_to, spread
from ...weights import Quantized
from .scaling import check_shared, held, output_error, times

#: Channels quieter than so much of the loudest count as that quiet: a channel of zeros has a scale too.
_QUIETEST = 1e-4
#: How much of a group's range its grid may span.
_RATIOS = tuple(1.0 - step / 20 for step in range(11))


@dataclass(frozen=True)
class Scaling:
    """What AWQ found for weights that share an input.

    scales: [in], of the weights' dtype; the weights are multiplied by them and the input is divided. alpha: the
    exponent that gave them. ratios: for each weight what its grids' scales are multiplied by, [groups, out]. error: the
    squared error of all outputs, summed over the tokens of the Gram matrix.
    """

    scales: Array
    alpha: float
    ratios: tuple[Floats, ...]
    error: float

    def quantized(self, weights: Sequence[Array], scheme: Scheme) -> tuple[Quantized, ...]:
        """The weights times the scales, rounded: whoever uses them divides the input by `scales`."""
        pairs = zip(weights, self.ratios, strict=True)
        return tuple(scaled(weight, self.scales, ratios, scheme) for weight, ratios in pairs)


def awq(
    weights: Sequence[Array], magnitude: Array, gram: Array, scheme: Scheme, *, steps: int = 20, clip: bool = True
) -> Scaling:
    """Scales and ratios of least output error for weights [in, out_i] of one dtype that share an input.

    magnitude: the mean absolute activation of each input channel, [in]. gram: x^T x, [in, in]. steps: alpha is one of
    0, 1 / steps, ..., 1; with 0 the scales are one, so that the error is never above that of rounding to nearest.
    clip: search for ratios too; the paper leaves out what feeds the product of queries and keys. Scales are divided by
    the square root of their largest times their smallest. Raises ValueError where shapes do not fit one another and for
    numbers that are not finite, negative magnitudes, and a matrix that is no Gram matrix; a singular one is fine.
    """
    if steps < 1:
        raise ValueError(f"expected at least one step, found {steps}")
    wide, quiet = check_shared(weights, magnitude)
    symmetric = check_gram(gram, len(quiet))
    dtype = float_of(weights[0])
    alpha, scales, least = 0.0, np.ones(len(quiet)), np.inf
    for trial in (step / steps for step in range(steps + 1)):
        factors = _scales(quiet, trial, dtype)
        products = [times(factors, weight) for weight in weights]
        if not all(np.isfinite(product).all() for product in products):
            continue
        error = _total(wide, [_rounded(product, scheme) for product in products], factors, symmetric)
        if error < least:
            alpha, scales, least = trial, factors, error
    # x / s has the Gram matrix of x over s s^T
    inner = symmetric / np.outer(scales, scales)
    ratios = tuple(
        clipping(product, inner, scheme) if clip else np.ones_like(fit(product, scheme)[0])
        for product in (times(scales, weight) for weight in weights)
    )
    made = Scaling(scales.astype(dtype), alpha, ratios, 0.0)
    rounded = [result.dense().astype(np.float64) for result in made.quantized(weights, scheme)]
    return replace(made, error=_total(wide, rounded, scales, symmetric))


def scaled(weight: Array, scales: Array, ratios: Floats, scheme: Scheme) -> Quantized:
    """`scales * weight`, [in] and [in, out], rounded on grids whose scales are multiplied by `ratios`, [groups, out].

    Stands in for the weight of (x / scales) @ (scales * weight). Raises ValueError where that is not finite.
    """
    product = times(scales, weight)
    scale, zero = fit(product, scheme)
    scale = nonzero(scale * ratios, scale, product.dtype)
    return scheme.quantized(round_to(product, scale, zero, scheme), scale, zero, product.dtype)


def clipping(
    weight: Array, gram: Array, scheme: Scheme, *, ratios: Sequence[float] = _RATIOS, sweeps: int = 1
) -> Floats:
    """How much of its range each group's grid should span for the least output error, [groups, out].

    The groups of a column take turns, each judged with the errors of the others as they stand: the error of the
    product never grows. ratios: what is tried, beside keeping what is there; 1 is the start. sweeps: how often
    all groups are gone over. Raises ValueError as `awq` does, and for ratios that are not in (0, 1].
    """
    if not ratios or not all(0 < ratio <= 1 for ratio in ratios):
        raise ValueError(f"expected ratios in (0, 1], found {list(ratios)}")
    wide, symmetric, dtype = check(weight), check_gram(gram, len(weight)), float_of(weight)
    scale, zero = fit(weight, scheme)
    chosen = np.ones_like(scale)
    missed = wide - _rounded(weight, scheme)
    felt = symmetric @ missed
    for _ in range(sweeps):
        for group, rows in enumerate(scheme.groups(len(wide))):
            part, own = wide[rows], symmetric[rows, rows]
            best = missed[rows].copy()
            # with d for this group's error, the output's is d^T G d + 2 d^T r and what no d changes
            rest = felt[rows] - own @ best
            least = _error(best, own, rest)
            for ratio in ratios:
                trial = nonzero(scale[group] * ratio, scale[group], dtype)
                error = part - _dense(part, trial, zero[group], scheme)
                loss = _error(error, own, rest)
                better = loss < least
                least = np.where(better, loss, least)
                best[:, better] = error[:, better]
                chosen[group, better] = ratio
            felt += symmetric[:, rows] @ (best - missed[rows])
            missed[rows] = best
    return chosen


def _total(weights: Sequence[Floats], products: Sequence[Floats], scales: Floats, gram: Floats) -> float:
    """The squared error of all outputs where products stand for the scales times the weights."""
    pairs = zip(weights, products, strict=True)
    return sum(float(output_error(weight - product / scales[:, None], gram).sum()) for weight, product in pairs)


def _scales(magnitude: Floats, alpha: float, dtype: np.dtype[np.generic]) -> Floats:
    """s_x^alpha over the geometric mean of its ends, as `dtype` holds it."""
    loudest = magnitude.max(initial=0.0)
    relative = np.maximum(magnitude / loudest, _QUIETEST) if loudest > 0 else np.ones_like(magnitude)
    powers = relative**alpha
    middle = np.sqrt(powers.max(initial=0.0) * powers.min(initial=1.0)) or 1.0
    return held(powers / middle, dtype)


def _rounded(weight: Array, scheme: Scheme) -> Floats:
    """The weight rounded to nearest, in float64."""
    scale, zero = fit(weight, scheme)
    return _dense(
        np.asarray(weight, np.float64), spread(scale, len(weight), scheme), spread(zero, len(weight), scheme), scheme
    )


def _dense(weight: Floats, scale: Floats, zero: Floats, scheme: Scheme) -> Floats:
    """The nearest numbers of grids that broadcast against the weight."""
    values = np.clip(np.rint(weight / scale), scheme.low - zero, scheme.high - zero)
    dense: Floats = values * scale
    return dense


def _error(difference: Floats, gram: Floats, rest: Floats) -> Floats:
    """d^T G d + 2 d^T r for each column."""
    found: Floats = np.einsum("io,io->o", difference, gram @ difference + 2 * rest)
    return found
