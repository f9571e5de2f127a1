"""Cross-layer equalization: two layers share the work of a channel evenly.

    f(x W1 + b1) W2 == f(x (W1 / s) + b1 / s)(s W2)        where f(s y) == s f(y) for s > 0
    s_i = sqrt(r1_i / r2_i)        r1_i = max|W1[:, i]|,  r2_i = max|W2[i, :]|

after which both ranges are sqrt(r1_i r2_i): of all s the product of the precisions that either layer gives to its
channels is then largest. Which f: nothing, relu, leaky relu, a gate's linear half, a mix of rows as attention's.

Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019, arXiv 1906.04721, section
4.1, equation 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...edit import Array
from .grid import check, float_of
from .scaling import held, times


@dataclass(frozen=True)
class Equalized:
    """The layers after equalization, and the scales [hidden] that the first was divided by."""

    first: Array
    bias: Array | None
    seconds: tuple[Array, ...]
    scales: Array


def equalize(first: Array, seconds: Sequence[Array], bias: Array | None = None) -> Equalized:
    """Equalize a layer [in, hidden] with those that read its outputs, [hidden, out_i], all of one dtype.

    bias: the first layer's, [hidden]. Of several readers the one counts in which a row reaches furthest. A channel that
    nobody writes or nobody reads keeps the scale one. Scales and their reciprocals stay finite in the dtype. Raises
    ValueError where shapes or dtypes do not fit one another, and for numbers that are not finite.

    >>> made = equalize(np.array([[8.0, 1.0]]), [np.array([[2.0], [4.0]])])
    >>> made.first.tolist(), made.seconds[0].tolist(), made.scales.tolist()
    ([[4.0, 2.0]], [[4.0], [2.0]], [2.0, 0.5])
    """
    wide = check(first)
    readers = [check(second) for second in seconds]
    hidden = wide.shape[1]
    if not readers or any(len(reader) != hidden for reader in readers):
        shapes = [reader.shape for reader in readers]
        raise ValueError(f"expected layers [{hidden}, out] behind one of shape {wide.shape}, found {shapes}")
    if len({weight.dtype for weight in (first, *seconds)}) > 1:
        raise ValueError(f"expected weights of one dtype, found {[str(weight.dtype) for weight in (first, *seconds)]}")
    shift = None if bias is None else np.asarray(bias, np.float64)
    if shift is not None and (shift.shape != (hidden,) or not np.isfinite(shift).all()):
        raise ValueError(f"expected a finite bias of shape {(hidden,)}, found one of shape {shift.shape}")
    written = np.abs(wide).max(0, initial=0.0)
    read = np.stack([np.abs(reader).max(1, initial=0.0) for reader in readers]).max(0)
    # a product of ranges may leave float64, their roots do not
    live = (written > 0) & (read > 0)
    dtype = float_of(first)
    with np.errstate(over="ignore"):
        scales = held(np.sqrt(np.where(live, written, 1.0)) / np.sqrt(np.where(live, read, 1.0)), dtype)
    return Equalized(
        (wide / scales).astype(dtype),
        None if bias is None or shift is None else (shift / scales).astype(bias.dtype),
        tuple(times(scales, second) for second in seconds),
        scales.astype(dtype),
    )
