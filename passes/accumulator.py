"""What every accumulator is, and how it reads arrays: it takes them in one by one, and says what it has seen."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..ir.errors import ModelError
from .edit import Array

Floats = NDArray[np.float64]

#: Numbers worked on at a time.
_CHUNK = 1 << 16
#: Rows of a product that is summed in float32.
BLOCK = 1 << 10
#: Magnitudes whose products, many of them, neither overflow nor vanish in float32.
_SAFE = 2.0**-40, 2.0**48


class Accumulator(ABC):
    """Something gathered over arrays `[tokens, features]`; count: how many tokens, or numbers, were seen."""

    count: int = 0

    @abstractmethod
    def add(self, array: Array) -> None:
        """Take in an array. Raises ModelError, and changes nothing, where it holds NaN or infinity."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Take in what another of the same sizes has seen. Raises ValueError where the sizes differ."""

    @property
    @abstractmethod
    def bytes(self) -> int:
        """Bytes that it holds."""

    def state(self) -> dict[str, Array]:
        """What it has seen, as arrays by name, for `restore`."""
        found: dict[str, Array] = {"count": np.asarray(self.count)}
        for name, value in vars(self).items():
            if isinstance(value, Accumulator):
                found |= {f"{name}.{inner}": array for inner, array in value.state().items()}
            else:
                found[name] = np.asarray(value)
        return found

    def restore(self, state: Mapping[str, Array]) -> None:
        """Have seen what `state` says, and nothing else. KeyError where that is of another kind."""
        for name, value in {"count": self.count, **vars(self)}.items():
            if isinstance(value, Accumulator):
                value.restore({inner: state[f"{name}.{inner}"] for inner in value.state()})
            else:
                setattr(self, name, state[name] if isinstance(value, np.ndarray) else state[name].item())


def chunks(array: Array) -> Iterator[Array]:
    """An array's numbers in flat pieces, in the order of memory."""
    flat = array.ravel(order="K")
    return (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))


def blocks(array: Array) -> Iterator[NDArray[np.floating]]:
    """Rows of which products may be summed, in float32 where that holds them. Raises ModelError as `extent` does."""
    if not array.size:
        return
    low, high = extent(array)
    largest = max(abs(low), abs(high))
    dtype = np.float32 if _SAFE[0] < largest < _SAFE[1] or not largest else np.float64
    for start in range(0, len(array), BLOCK):
        yield np.asarray(array[start : start + BLOCK], dtype)


def extent(array: Array) -> tuple[float, float]:
    """The smallest and the largest number. Raises ModelError where one is not finite."""
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise _not_finite(array)
    return low, high


def extents(array: Array) -> tuple[Floats, Floats]:
    """The smallest and the largest number of each feature. Raises ModelError where one is not finite."""
    low, high = array.min(0).astype(np.float64), array.max(0).astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise _not_finite(array)
    return low, high


def _not_finite(array: Array) -> ModelError:
    """The error that names the first such number."""
    found = ~np.isfinite(array)
    first = np.unravel_index(int(found.argmax()), array.shape)
    at = ", ".join(str(int(index)) for index in first)
    return ModelError(
        f"calibration met {array[first]} in an activation, at [{at}] of {list(array.shape)}, one of {int(found.sum())} "
        "numbers that are not finite; leave out the sample that gives it, or the site"
    )
