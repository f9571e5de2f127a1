"""Integers of few bits: packed, unpacked, and unpacked by nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tersor.ir.runner import runner
from tersor.passes.edit import Tape
from tersor.passes.weights import packing
from tersor.tests.passes.weights.emitted import taped
from tersor.tests.support import on_onnxruntime

SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9)


def model_of(codes: np.ndarray, bits: int) -> ir.Model:
    tape = Tape()
    result = packing.emit(tape, codes, bits, "w")
    result = tape("Identity", result)
    result.type, result.shape = ir.TensorType(ir.DataType.UINT8), ir.Shape(codes.shape)
    return taped(tape, result)


@given(st.integers(1, 8), SHAPES, st.integers(0, 9))
def test_what_was_packed_comes_back(bits: int, shape: tuple[int, ...], seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, shape, dtype=np.uint8)
    packed = packing.pack(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (bits, -(-codes.size // 8))
    np.testing.assert_array_equal(packing.unpack(packed, shape), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_p_of_an_integer_lies_in_plane_p(bits: int) -> None:
    """Integer i of eight is bit i of the byte, as the module says."""
    codes = (np.arange(19) * 37 % (1 << bits)).astype(np.uint8)
    packed = packing.pack(codes, bits)
    for index, code in enumerate(codes):
        assert sum(((int(packed[plane, index // 8]) >> (index % 8)) & 1) << plane for plane in range(bits)) == code


@pytest.mark.parametrize("shape", [(16,), (3, 7), (2, 3, 5)])
@pytest.mark.parametrize("bits", range(1, 9))
def test_the_nodes_unpack(bits: int, shape: tuple[int, ...]) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, shape, dtype=np.uint8)
    model = model_of(codes, bits)
    np.testing.assert_array_equal(on_onnxruntime(model, {})[0], codes)
    np.testing.assert_array_equal(runner(model)({})["y"], codes)


@pytest.mark.parametrize("count", [0, 1, 8, 13])
@pytest.mark.parametrize("bits", range(1, 9))
def test_bytes_are_those_that_are_stored(bits: int, count: int) -> None:
    tape = Tape()
    packing.emit(tape, np.zeros(count, np.uint8), bits, "w")
    (value,) = tape.weights
    assert value.const_value is not None
    assert packing.stored(count, bits) == value.const_value.nbytes


def test_signs_are_bits() -> None:
    signs = np.random.default_rng(0).random((5, 3)) > 0.5
    np.testing.assert_array_equal(packing.unpack(packing.pack(signs, 1), (5, 3)), signs)
