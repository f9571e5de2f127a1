"""Values times scales plus offsets, and the nodes that compute them."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.edit import Tape
from tersor.passes.weights import Affine, Quantized
from tersor.tests.passes.weights.emitted import is_computed, is_counted, model_of
from tersor.tests.support import on_onnxruntime

RNG = np.random.default_rng(0)


def made(rows: int, columns: int, bits: int, *, axis: int = 0, block: int = 0, dtype: type = np.float32) -> Affine:
    """A weight whose blocks, or whose indices along `axis`, have scales and offsets of their own."""
    values = RNG.integers(0, 1 << bits, (rows, columns), dtype=np.uint8)
    shape = [(rows, columns)[axis]]
    if block:
        shape = [rows, columns]
        shape[axis] = -(-shape[axis] // block)
    scale, offset = RNG.uniform(0.5, 2.0, shape).astype(dtype), RNG.standard_normal(shape).astype(dtype)
    return Affine(Quantized(values, scale, axis, None, block, bits), offset)


CASES = {
    "a scale for each column": made(5, 6, 8, axis=1),
    "a scale for each row": made(5, 6, 4, axis=0),
    "blocks of rows": made(8, 6, 4, block=4),
    "a short last block": made(7, 6, 4, block=4),
    "a block larger than the weight": made(3, 2, 4, block=16),
    "blocks of columns": made(5, 12, 4, axis=1, block=4),
    "a short last block of columns": made(5, 11, 3, axis=1, block=4),
    "an axis from behind": made(5, 11, 4, axis=-1, block=4),
    "packed bits": made(8, 6, 2, block=4),
    "half precision": made(8, 6, 4, block=4, dtype=np.float16),
    "one number": made(1, 1, 4, block=1),
}


@pytest.mark.parametrize("name", CASES)
def test_a_weight_is_values_times_scales_plus_offsets(name: str) -> None:
    """A product and a sum: two roundings of numbers no larger than the sum of both magnitudes."""
    weight = CASES[name]
    levels, block = weight.levels, weight.levels.block
    eps = float(np.finfo(levels.scale.dtype).eps)
    dense = weight.dense()
    assert dense.dtype == levels.scale.dtype
    for row in range(dense.shape[0]):
        for column in range(dense.shape[1]):
            at = [row, column]
            if block:
                at[levels.axis or 0] //= block
            where = tuple(at) if block else at[levels.axis or 0]
            product = float(levels.values[row, column]) * float(levels.scale[where])
            offset = float(weight.offset[where])
            assert abs(dense[row, column] - (product + offset)) <= eps * (2 * product + abs(offset))


@pytest.mark.parametrize("name", CASES)
def test_the_nodes_compute_what_the_weight_stands_for(name: str) -> None:
    is_computed(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_that_are_stored(name: str) -> None:
    is_counted(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_transposed(name: str) -> None:
    weight = CASES[name].transposed()
    np.testing.assert_array_equal(weight.dense(), CASES[name].dense().T)
    np.testing.assert_array_equal(on_onnxruntime(model_of(weight), {})[0], weight.dense())


def test_parts_are_named_after_the_weight() -> None:
    tape = Tape()
    CASES["blocks of rows"].emit(tape, "w")
    assert [value.name for value in tape.weights] == ["w_scale", "w_quantized", "w_offset"]
