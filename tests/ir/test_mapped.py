"""What was looked at of a mapped file does not stay in memory, and is still what it was."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest
from tersor.ir.mapped import mapping_of, released

SIZE = 1 << 24


@pytest.fixture
def mapping(tmp_path: Path) -> mmap.mmap:
    path = tmp_path / "data"
    path.write_bytes(np.arange(SIZE // 4, dtype=np.int32).tobytes())
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def resident(array: np.ndarray) -> int:
    """Bytes of the mapping behind an array that are in this process's memory."""
    address = array.ctypes.data
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="ascii").splitlines():
        first = line.split()[0]
        if "-" in first:
            begin, end = (int(number, 16) for number in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "Rss:":
            return int(line.split()[1]) * 1024
    raise AssertionError("the array is in no mapping")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_was_read_is_given_back(mapping: mmap.mmap) -> None:
    array = np.frombuffer(memoryview(mapping)[4096:], np.int32).reshape(-1, 64).T
    with released(array):
        total = int(array.sum(dtype=np.int64))
        assert resident(array) > SIZE // 2
    assert resident(array) == 0
    assert int(array.sum(dtype=np.int64)) == total


def test_what_somebody_wrote_stays(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(1 << 16))
    with path.open("rb") as file:
        array = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)
    array[:] = 7
    with released(array):
        assert mapping_of(array) is None
    assert array.all()


@pytest.mark.parametrize("array", [np.ones(3), np.zeros(0), np.frombuffer(b"abcd", np.uint8)])
def test_arrays_of_other_kinds(array: np.ndarray) -> None:
    before = array.copy()
    with released(array):
        assert mapping_of(array) is None
    np.testing.assert_array_equal(array, before)
