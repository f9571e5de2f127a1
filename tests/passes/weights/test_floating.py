"""What eight-bit floating-point weights stand for is what their nodes compute."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from tersor.ir.runner import runner
from tersor.passes.edit import Tape
from tersor.passes.weights import Floating
from tersor.tests.support import on_onnxruntime

RNG = np.random.default_rng(0)
TYPES = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


def made(dtype: type, axis: int | None, kind: type = np.float32) -> Floating:
    values = RNG.standard_normal((3, 4)).astype(dtype)
    count = () if axis is None else (3, 4)[axis]
    return Floating(values, RNG.uniform(0.001, 2.0, count).astype(kind), axis)


def emitted(weight: Floating) -> ir.Model:
    tape = Tape()
    result = weight.emit(tape, "w")
    result.name, result.shape = "w", ir.Shape(weight.values.shape)
    result.type = ir.TensorType(ir.DataType.from_numpy(weight.scale.dtype))
    body = ir.Graph([], [result], nodes=tape.nodes, initializers=tape.weights, opset_imports={"": 23}, name="g")
    return ir.Model(body, ir_version=10)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_the_nodes_compute_what_the_weight_stands_for(dtype: type, axis: int | None, kind: type) -> None:
    weight = made(dtype, axis, kind)
    proto = ir.to_proto(emitted(weight))
    (computed,) = ReferenceEvaluator(proto).run(None, {})
    np.testing.assert_array_equal(weight.dense(), computed)
    assert weight.dense().dtype == kind


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("axis", [None, 1])
def test_runtimes_compute_it_too(dtype: type, axis: int | None) -> None:
    weight = made(dtype, axis)
    np.testing.assert_array_equal(weight.dense(), on_onnxruntime(emitted(weight), {})[0])
    np.testing.assert_array_equal(weight.dense(), np.asarray(runner(emitted(weight))({})["w"]))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_the_other_way_around_it_stands_for_the_transpose(axis: int | None) -> None:
    weight = made(TYPES[0], axis)
    turned = weight.transposed()
    np.testing.assert_array_equal(turned.dense(), weight.dense().T)
    (computed,) = ReferenceEvaluator(ir.to_proto(emitted(turned))).run(None, {})
    np.testing.assert_array_equal(computed, weight.dense().T)


def test_bytes_are_those_that_are_stored() -> None:
    weight = made(TYPES[0], 1)
    stored = [value.const_value for value in emitted(weight).graph.initializers.values()]
    assert weight.bytes == sum(tensor.nbytes for tensor in stored if tensor is not None) == 12 + 16


def test_the_parts_keep_the_name_of_the_weight() -> None:
    assert sorted(emitted(made(TYPES[1], None)).graph.initializers) == ["w_quantized", "w_scale"]
