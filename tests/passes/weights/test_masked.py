"""Masks and what they keep stand for weights with zeros, and their nodes compute them."""

from __future__ import annotations

from itertools import product

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.runner import runner
from tersor.passes.base import Context
from tersor.passes.clean.fold_constants import FoldConstants
from tersor.passes.edit import Tape
from tersor.passes.weights import Masked
from tersor.passes.weights.masked import UNMASK
from tersor.tests.passes.weights.emitted import is_computed, is_counted, model_of, taped
from tersor.tests.support import on_onnxruntime

RNG = np.random.default_rng(0)


def free(rows: int, columns: int, share: float, dtype: type = np.float32, tile: tuple[int, int] = (1, 1)) -> Masked:
    mask = RNG.random((rows // tile[0], columns // tile[1])) >= share
    return Masked.of(RNG.standard_normal((rows, columns)).astype(dtype), mask, tile=tile)


def grouped(rows: int, columns: int, kept: int, size: int, axis: int = 0) -> Masked:
    shape = (rows // size, columns, size) if axis == 0 else (columns // size, rows, size)
    chosen = RNG.permuted(np.broadcast_to(np.arange(size) < kept, shape), axis=-1)
    flat = chosen.transpose(0, 2, 1).reshape(-1, shape[1])
    weight = RNG.standard_normal((rows, columns)).astype(np.float32)
    return Masked.of(weight, flat if axis == 0 else flat.T, group=(kept, size), axis=axis)


CASES = {
    "half": free(6, 16, 0.5),
    "a ragged last byte": free(5, 7, 0.5),
    "nearly all": free(16, 16, 0.99),
    "nothing is zero": free(3, 4, 0.0),
    "all is zero": free(3, 4, 1.1),
    "float16": free(6, 5, 0.5, np.float16),
    "float64": free(6, 5, 0.5, np.float64),
    "tiles": free(8, 12, 0.5, tile=(4, 4)),
    "tiles of two sizes": free(8, 12, 0.5, tile=(2, 3)),
    "rows": free(8, 12, 0.5, tile=(1, 12)),
    "2:4": grouped(8, 5, 2, 4),
    "2:4 along rows": grouped(5, 8, 2, 4, axis=1),
    "1:4": grouped(8, 6, 1, 4),
    "3:4": grouped(8, 6, 3, 4),
    "1:2": grouped(8, 6, 1, 2),
    "4:8": grouped(16, 6, 4, 8),
    "2:16": grouped(32, 3, 2, 16),
    "8:16, whose patterns are too many": grouped(32, 3, 8, 16),
}


@pytest.mark.parametrize("name", CASES)
def test_a_weight_is_what_is_kept_where_the_mask_is_set(name: str) -> None:
    weight = CASES[name]
    (tall, wide), dense = weight.tile, weight.dense()
    left = iter(weight.values)
    for row, column in product(*map(range, weight.mask.shape)):
        part = dense[row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
        np.testing.assert_array_equal(part, next(left) if weight.mask[row, column] else np.zeros((tall, wide)))
    assert next(left, None) is None
    assert dense.dtype == weight.values.dtype
    assert dense.shape == weight.shape


@pytest.mark.parametrize("name", CASES)
def test_the_nodes_compute_what_the_weight_stands_for(name: str) -> None:
    is_computed(CASES[name])


def test_bfloat16() -> None:
    """ONNX Runtime fetches bfloat16 as it fetches any bits."""
    weight = free(6, 5, 0.5, ml_dtypes.bfloat16)
    tape = Tape()
    model = taped(tape, tape("Cast", weight.emit(tape, "w"), to=ir.DataType.FLOAT))
    for found in (on_onnxruntime(model, {})[0], runner(model)({})["y"]):
        np.testing.assert_array_equal(found, weight.dense().astype(np.float32))


@pytest.mark.parametrize("name", CASES)
def test_bytes_are_those_that_are_stored(name: str) -> None:
    is_counted(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_transposed_is_the_transpose(name: str) -> None:
    weight = CASES[name]
    turned = weight.transposed()
    np.testing.assert_array_equal(turned.dense(), weight.dense().T)
    assert turned.bytes == weight.bytes
    is_computed(turned)


@pytest.mark.parametrize("name", CASES)
def test_the_result_says_what_it_is(name: str) -> None:
    weight = CASES[name]
    value = weight.emit(Tape(), "w")
    assert value.shape == ir.Shape(weight.shape)
    assert value.dtype == ir.DataType.from_numpy(weight.values.dtype)


@pytest.mark.parametrize("name", ["half", "tiles", "2:4", "4:8"])
def test_constant_folding_leaves_it_as_it_is_stored(name: str) -> None:
    model = model_of(CASES[name])
    (value,) = model.graph.outputs
    reader = ir.node("Neg", [value])
    reader.outputs[0].name = "z"
    model.graph.append(reader)
    model.graph.outputs[0] = reader.outputs[0]
    FoldConstants().apply(model, Context())
    assert any(UNMASK.called_by(node) for node in model.graph)
    np.testing.assert_array_equal(runner(model)({})["z"], -CASES[name].dense())


def test_half_of_a_weight_takes_half_of_its_bytes_and_a_bit_for_each() -> None:
    weight = np.ones((64, 32), np.float32)
    mask = np.arange(64 * 32).reshape(64, 32) % 2 == 0
    assert Masked.of(weight, mask).bytes == (1024 + 1) * 4 + 64 * 32 // 8
    # the 6 patterns of 2:4 are numbered in 3 bits for 4 weights, and stored once
    assert Masked.of(weight, mask, group=(2, 4), axis=1).bytes == (1024 + 1) * 4 + 3 * (512 // 8) + 6 * 4


@pytest.mark.parametrize(
    ("name", "bits"),
    [("half", 0), ("2:4", 3), ("1:4", 2), ("3:4", 2), ("1:2", 1), ("4:8", 7), ("2:16", 7)],
)
def test_patterns_are_numbered_where_that_is_shorter(name: str, bits: int) -> None:
    assert CASES[name].bits == bits


def test_patterns_that_are_too_many_are_a_mask() -> None:
    assert CASES["8:16, whose patterns are too many"].bits == 0


def test_parts_are_named_after_the_weight() -> None:
    tape = Tape()
    CASES["2:4"].emit(tape, "w")
    assert [value.name for value in tape.weights] == ["w_kept", "w_mask_bits", "w_patterns"]


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (
            np.ones((2, 3), bool),
            {"tile": (2, 2)},
            r"expected a weight \(4, 6\) for 2 x 3 tiles of 2 x 2, found \(4, 8\)",
        ),
        (np.ones((4, 8), bool), {"group": (2, 4)}, "expected 2 of every 4 cells along axis 0"),
        (np.ones((4, 8), bool), {"group": (3, 3)}, "expected 3 of every 3 cells along axis 0"),
    ],
)
def test_what_does_not_fit(mask: np.ndarray, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Masked.of(np.ones((4, 8), np.float32), mask, **options)  # type: ignore[arg-type]
