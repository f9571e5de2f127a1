"""A quantized weight with low-rank factors: what it stands for is what its nodes compute."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from tersor.passes.edit import Tape
from tersor.passes.weights import Corrected, Quantized

RNG = np.random.default_rng(0)
BASE = Quantized(
    RNG.integers(-8, 8, (6, 4), dtype=np.int8), RNG.uniform(0.5, 2, (2, 4)).astype(np.float32), 0, None, 3, 4
)
LEFT, RIGHT = RNG.standard_normal((6, 2)).astype(np.float32), RNG.standard_normal((2, 4)).astype(np.float32)
LEFT_8 = Quantized(RNG.integers(-127, 128, (6, 2), dtype=np.int8), RNG.uniform(0.01, 1, 2).astype(np.float32), 1)
RIGHT_8 = Quantized(RNG.integers(-127, 128, (2, 4), dtype=np.int8), RNG.uniform(0.01, 1, 2).astype(np.float32), 0)
WEIGHTS = [Corrected(BASE, left, right) for left, right in itertools.product((LEFT, LEFT_8), (RIGHT, RIGHT_8))]


def emitted(weight: Corrected) -> ir.Model:
    tape = Tape()
    result = weight.emit(tape, "w")
    result.name = "w"
    result.type = ir.TensorType(ir.DataType.from_numpy(weight.base.dense().dtype))
    body = ir.Graph([], [result], nodes=tape.nodes, initializers=tape.weights, opset_imports={"": 23}, name="g")
    return ir.Model(body, ir_version=10)


def wide(factor: np.ndarray | Quantized) -> np.ndarray:
    return np.asarray(factor.dense() if isinstance(factor, Quantized) else factor, np.float64)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_it_is_the_quantized_weight_plus_the_product_of_the_factors(weight: Corrected) -> None:
    product = wide(weight.left) @ wide(weight.right)
    # two products of the largest numbers of each factor, and a sum
    allowed = 4 * np.finfo(np.float32).eps * (np.abs(wide(weight.left)).max() * np.abs(wide(weight.right)).max() + 16)
    np.testing.assert_allclose(weight.dense(), BASE.dense() + product, rtol=0, atol=allowed)
    assert weight.dense().dtype == np.float32
    (computed,) = ReferenceEvaluator(ir.to_proto(emitted(weight))).run(None, {})
    np.testing.assert_allclose(computed, weight.dense(), rtol=0, atol=allowed)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_stored_the_other_way_around_it_is_the_same_matrix(weight: Corrected) -> None:
    turned = weight.transposed()
    np.testing.assert_allclose(turned.dense(), weight.dense().T, rtol=0, atol=1e-5 * np.abs(weight.dense()).max())
    assert turned.bytes == weight.bytes
    assert turned.rank == weight.rank == 2


@pytest.mark.parametrize("weight", WEIGHTS)
def test_bytes_are_those_that_are_stored(weight: Corrected) -> None:
    stored = [value.const_value for value in emitted(weight).graph.initializers.values()]
    assert weight.bytes == sum(tensor.nbytes for tensor in stored if tensor is not None)


def test_the_parts_keep_the_name_of_the_weight() -> None:
    names = sorted(emitted(Corrected(BASE, LEFT, RIGHT_8)).graph.initializers)
    assert names == ["w_left", "w_quantized", "w_right_quantized", "w_right_scale", "w_scale"]


def test_without_a_rank_it_is_the_quantized_weight() -> None:
    weight = Corrected(BASE, LEFT[:, :0], RIGHT[:0])
    np.testing.assert_array_equal(weight.dense(), BASE.dense())
    assert weight.bytes == BASE.bytes
    assert [node.op_type for node in emitted(weight).graph] == ["DequantizeLinear"]


def test_numbers_of_two_bytes_stay_so() -> None:
    base = replace(BASE, scale=BASE.scale.astype(np.float16))
    weight = Corrected(base, LEFT.astype(np.float16), RIGHT.astype(np.float16))
    assert weight.dense().dtype == np.float16
    (computed,) = ReferenceEvaluator(ir.to_proto(emitted(weight))).run(None, {})
    np.testing.assert_allclose(computed, weight.dense(), rtol=0, atol=4 * 16 * float(np.finfo(np.float16).eps))
