"""Arrays of methods, checked and in float64."""

from __future__ import annotations

from typing import TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..edit import Array

Floats = NDArray[np.float64]
F = TypeVar("F", bound=np.floating)


def check(weight: Array) -> Floats:
    """The weight in float64. Raises ValueError where it is no matrix of finite numbers."""
    if weight.ndim != 2:
        raise ValueError(f"expected a weight [in, out], found {weight.ndim} axes")
    wide = np.asarray(weight, np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("the weight holds NaN or infinity")
    return wide


def vector(array: Array, size: int, name: str) -> Floats:
    """The array in float64. Raises ValueError where it is not `size` finite numbers."""
    if array.shape != (size,):
        raise ValueError(f"expected the {name} as {size} numbers, found {array.shape}")
    wide = np.asarray(array, np.float64)
    if not np.isfinite(wide).all():
        raise ValueError(f"the {name} holds NaN or infinity")
    return wide


def matmul(one: NDArray[F], other: NDArray[F]) -> NDArray[F]:
    """one @ other, [n, k] and [k, m], on torch's threads. Raises ValueError for two types.

    numpy's BLAS has threads of its own, which stay awake for a while behind each product. Between runs of a model on
    torch, or its factorizations, they take the cores that those would have.
    """
    if one.dtype != other.dtype:
        raise ValueError(f"expected matrices of one type, found {one.dtype} and {other.dtype}")
    # imported when it is needed, torch with it
    from ...ir.fx.dtypes import to_torch

    found: NDArray[F] = (to_torch(one) @ to_torch(other)).numpy()
    return found


def float_of(weight: Array) -> np.dtype[np.generic]:
    """The dtype that numbers beside a weight are stored in: its own, or float32 where that is none of floats."""
    return weight.dtype if weight.dtype.kind == "f" or weight.dtype == ml_dtypes.bfloat16 else np.dtype(np.float32)


def times(scales: Array, weight: Array) -> Array:
    """`scales * weight`, [in] and [in, out], in the weight's dtype; what is too large for it becomes infinite."""
    with np.errstate(over="ignore"):
        product: Array = np.multiply(scales[:, None], weight, dtype=np.float64).astype(float_of(weight))
    return product
