"""Arrays over mapped files: looking at them without keeping what was read in memory.

A page of a mapped file counts toward a process's memory from the first look at it, with a good part of the file around
it. `released` gives those pages back; the file still has them, so whoever looks again finds the same numbers.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

#: What a look at one byte may bring in on either side of it.
_AROUND = 1 << 21


@contextmanager
def released(*arrays: NDArray[np.generic]) -> Iterator[None]:
    """Give back, at the end, the pages behind these arrays, where they are views of a file that is mapped for reading.

    Arrays of any other kind stay as they are: what somebody may have written exists nowhere else.
    """
    try:
        yield
    finally:
        for array in arrays:
            _release(array)


def _release(array: NDArray[np.generic]) -> None:
    mapping = mapping_of(array)
    if mapping is None or not array.size or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first, last = np.lib.array_utils.byte_bounds(array)
    start = np.frombuffer(mapping, np.uint8).ctypes.data
    begin = max(first - start - _AROUND, 0) // mmap.PAGESIZE * mmap.PAGESIZE
    mapping.madvise(mmap.MADV_DONTNEED, begin, min(last - start + _AROUND, len(mapping)) - begin)


def mapping_of(array: NDArray[np.generic]) -> mmap.mmap | None:
    """The file, mapped for reading alone, that an array is a view of."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    view = base if isinstance(base, memoryview) else None
    mapping = base if view is None else view.obj
    if not isinstance(mapping, mmap.mmap) or not memoryview(mapping).readonly:
        return None
    return mapping
