"""Scales of a product's input channels, which leave it as it is: x W == (x / s)(s W)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...edit import Array
from ...numerics.arrays import Floats, check
from ...numerics.arrays import times as times


def check_shared(weights: Sequence[Array], channels: Array) -> tuple[list[Floats], Floats]:
    """Weights [in, out_i] that share an input, and a magnitude for each of its channels, in float64.

    Raises ValueError where there is no weight, they differ in rows or dtype or are not finite, or a magnitude is
    negative or not finite.
    """
    if not weights:
        raise ValueError("expected at least one weight, found none")
    wide = [check(weight) for weight in weights]
    magnitudes = np.asarray(channels, np.float64)
    if magnitudes.ndim != 1 or any(len(weight) != len(magnitudes) for weight in weights):
        shapes = [weight.shape for weight in weights]
        raise ValueError(f"expected weights [in, out] and in magnitudes, found {shapes} and {magnitudes.shape}")
    dtypes = sorted({weight.dtype.name for weight in weights})
    if len(dtypes) > 1:
        raise ValueError(f"expected weights of one dtype, found {dtypes}")
    if not np.isfinite(magnitudes).all() or (magnitudes < 0).any():
        raise ValueError("expected magnitudes of activations, found NaN, infinity or negative numbers")
    return wide, magnitudes


def held(scales: Floats, dtype: np.dtype[np.generic]) -> Floats:
    """Scales as `dtype` holds them, bounded so that they and their reciprocals are normal numbers of it."""
    # about the root of the smallest normal number; bfloat16 has the range of float32
    tiny = float(np.finfo(dtype.name if dtype.kind == "f" else "float32").tiny)
    least = 2.0 ** np.round(np.log2(tiny) / 2)
    bounded: Floats = np.clip(scales, least, 1 / least).astype(dtype).astype(np.float64)
    return bounded


def output_error(difference: Floats, gram: Floats) -> Floats:
    """The squared error of each output, [out], summed over the tokens of a Gram matrix [in, in], of weights that are
    off by `difference` [in, out]: the diagonal of D^T G D.
    """
    found: Floats = np.einsum("io,io->o", difference, gram @ difference)
    return found
