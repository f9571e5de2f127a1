"""What a structured weight stands for is what its nodes compute."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from tersor.passes.edit import Tape
from tersor.passes.weights import Quantized

RNG = np.random.default_rng(0)
VALUES = RNG.integers(-127, 128, (3, 4), dtype=np.int8)


def scales(count: int | None, dtype: type = np.float32) -> np.ndarray:
    return RNG.uniform(0.001, 2.0, () if count is None else count).astype(dtype)


def emitted(weight: Quantized) -> ir.Model:
    tape = Tape()
    result = weight.emit(tape, "w")
    result.name = "w"
    result.type = ir.TensorType(ir.DataType.from_numpy(weight.scale.dtype))
    body = ir.Graph([], [result], nodes=tape.nodes, initializers=tape.weights, opset_imports={"": 23}, name="g")
    return ir.Model(body, ir_version=10)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("axis", "count"), [(None, None), (0, 3), (1, 4), (-1, 4), (-2, 3)])
def test_the_nodes_compute_what_the_weight_stands_for(axis: int | None, count: int | None, dtype: type) -> None:
    weight = Quantized(VALUES, scales(count, dtype), axis)
    (computed,) = ReferenceEvaluator(ir.to_proto(emitted(weight))).run(None, {})
    np.testing.assert_array_equal(weight.dense(), computed)
    assert weight.dense().dtype == dtype


@pytest.mark.parametrize(("axis", "count"), [(None, None), (0, 3), (1, 4)])
def test_a_weight_is_values_times_scales(axis: int | None, count: int | None) -> None:
    weight = Quantized(VALUES, scales(count), axis)
    wide = weight.scale.astype(np.float64)
    wide = wide if axis is None else wide.reshape([-1 if index == axis else 1 for index in range(2)])
    np.testing.assert_allclose(weight.dense(), VALUES.astype(np.float64) * wide, rtol=np.finfo(np.float32).eps)


def test_bytes_are_those_that_are_stored() -> None:
    weight = Quantized(VALUES, scales(4), 1)
    model = emitted(weight)
    stored = [value.const_value for value in model.graph.initializers.values()]
    assert weight.bytes == sum(tensor.nbytes for tensor in stored if tensor is not None) == 12 + 16


def test_the_parts_keep_the_name_of_the_weight() -> None:
    assert sorted(emitted(Quantized(VALUES, scales(4), 1)).graph.initializers) == ["w_quantized", "w_scale"]
