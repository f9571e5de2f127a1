"""Planes stand for sums of scaled signs, and their nodes compute them."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.runner import runner
from tersor.passes.edit import Tape
from tersor.passes.weights import Planes
from tersor.tests.passes.weights.emitted import model_of
from tersor.tests.support import on_onnxruntime

RNG = np.random.default_rng(0)


def made(planes: int, rows: int, columns: int, *, by_column: bool = False, dtype: type = np.float32) -> Planes:
    shape = (planes, 1, columns) if by_column else (planes, rows, 1)
    signs = RNG.random((planes, rows, columns)) < 0.5
    return Planes(signs, RNG.uniform(-0.5, 2.0, shape).astype(dtype))


CASES = {
    "one plane": made(1, 5, 16),
    "a ragged last byte": made(1, 5, 7),
    "three planes": made(3, 4, 9),
    "by column": made(2, 4, 9, by_column=True),
    "one row by column": made(2, 1, 9, by_column=True),
    "one number": made(4, 1, 1),
    "float16": made(3, 6, 5, dtype=np.float16),
    "float64": made(2, 6, 5, by_column=True, dtype=np.float64),
    "the largest scales": Planes(np.array([[[True, False]]]), np.full((1, 1, 1), np.finfo(np.float32).max)),
    "scales of zero": Planes(RNG.random((2, 3, 4)) < 0.5, np.zeros((2, 3, 1), np.float32)),
}


def slack(weight: Planes) -> np.ndarray:
    """One rounding for each plane after the first, of a sum no larger than that of all scales."""
    largest = np.abs(np.broadcast_to(weight.scale.astype(np.float64), weight.signs.shape)).sum(0)
    return float(np.finfo(weight.scale.dtype).eps) * (len(weight.signs) - 1) * largest


def on_runtimes(weight: Planes) -> tuple[np.ndarray, np.ndarray]:
    model = model_of(weight)
    return on_onnxruntime(model, {})[0], np.asarray(runner(model)({})["y"])


@pytest.mark.parametrize("name", CASES)
def test_a_weight_is_a_sum_of_scaled_signs(name: str) -> None:
    weight = CASES[name]
    planes, rows, columns = weight.signs.shape
    scale = np.broadcast_to(weight.scale.astype(np.float64), weight.signs.shape)
    naive = np.zeros((rows, columns))
    for plane, row, column in product(range(planes), range(rows), range(columns)):
        naive[row, column] += scale[plane, row, column] * (1 if weight.signs[plane, row, column] else -1)
    dense = weight.dense()
    assert dense.dtype == weight.scale.dtype
    assert np.all(np.abs(dense.astype(np.float64) - naive) <= slack(weight))


@pytest.mark.parametrize("name", CASES)
def test_the_nodes_compute_what_the_weight_stands_for(name: str) -> None:
    """To the bit, but that ONNX Runtime's CPU kernels add float16 in float32 and round once."""
    weight = CASES[name]
    runtime, interpreter = on_runtimes(weight)
    np.testing.assert_array_equal(interpreter, weight.dense())
    allowed = slack(weight) if weight.scale.dtype == np.float16 else 0.0
    assert np.all(np.abs(runtime.astype(np.float64) - weight.dense()) <= allowed)
    assert runtime.dtype == interpreter.dtype == weight.scale.dtype


@pytest.mark.parametrize("name", CASES)
def test_the_result_says_what_it_is(name: str) -> None:
    weight = CASES[name]
    value = weight.emit(Tape(), "w")
    assert value.shape == ir.Shape(weight.signs.shape[1:])
    assert value.dtype == ir.DataType.from_numpy(weight.scale.dtype)


@pytest.mark.parametrize("name", CASES)
def test_transposed_is_the_transpose(name: str) -> None:
    weight = CASES[name]
    turned = weight.transposed()
    np.testing.assert_array_equal(turned.dense(), weight.dense().T)
    np.testing.assert_array_equal(turned.transposed().signs, weight.signs)
    np.testing.assert_array_equal(on_runtimes(turned)[1], weight.dense().T)


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_that_are_stored(name: str) -> None:
    """Shapes, a few numbers whatever the weight's size, are not counted."""
    weight, tape = CASES[name], Tape()
    weight.emit(tape, "w")
    assert weight.bytes == sum(value.const_value.nbytes for value in tape.weights if value.const_value is not None)


def test_a_plane_takes_one_bit_for_each_number() -> None:
    weight = made(3, 64, 32)
    assert weight.bytes == 3 * (64 * 32 // 8 + 64 * 4)


def test_parts_are_named_after_the_weight() -> None:
    tape = Tape()
    made(2, 3, 4).emit(tape, "w")
    assert [value.name for value in tape.weights] == [
        "w_plane0_bits",
        "w_plane0_scale",
        "w_plane1_bits",
        "w_plane1_scale",
    ]


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (3, 0)])
def test_an_empty_weight(rows: int, columns: int) -> None:
    weight = made(2, rows, columns)
    assert weight.dense().shape == (rows, columns)
    assert weight.bytes == weight.scale.nbytes
