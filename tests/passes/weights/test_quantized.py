"""Integers, scales and zero points: dense, bytes, transposed, and nodes, for all bits and groupings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.runner import runner
from tersor.passes.edit import Tape
from tersor.passes.weights import Quantized
from tersor.tests.support import on_onnxruntime

#: axis and block: per tensor, per channel either way, and in blocks either way.
GROUPINGS = [(None, 0), (0, 0), (1, 0), (-1, 0), (0, 4), (1, 4), (-2, 4)]
#: blocks of four divide neither axis of the second, and are longer than an axis of the third
SHAPES = [(8, 12), (7, 10), (5, 3)]


def limits(bits: int, signed: bool) -> tuple[int, int]:
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def scale_shape(shape: tuple[int, ...], axis: int | None, block: int) -> tuple[int, ...]:
    if axis is None:
        return ()
    if not block:
        return (shape[axis],)
    return tuple(-(-size // block) if index == axis % len(shape) else size for index, size in enumerate(shape))


def made(
    shape: tuple[int, ...],
    bits: int,
    signed: bool,
    grouping: tuple[int | None, int],
    *,
    offset: bool = False,
    dtype: type = np.float32,
) -> Quantized:
    """Integers over the whole range, both ends included."""
    rng = np.random.default_rng(bits)
    low, high = limits(bits, signed)
    kind = np.int8 if signed else np.uint8
    values = rng.integers(low, high + 1, shape).astype(kind)
    values.reshape(-1)[:2] = low, high
    axis, block = grouping
    scales = scale_shape(shape, axis, block)
    zero = rng.integers(low, high + 1, scales).astype(kind) if offset else None
    return Quantized(values, np.asarray(rng.uniform(0.1, 2, scales)).astype(dtype), axis, zero, block, bits)


def model_of(*weights: Quantized) -> ir.Model:
    """Each weight is an output, w0, w1, ..."""
    tape, results = Tape(), []
    for number, weight in enumerate(weights):
        result = weight.emit(tape, f"w{number}")
        result.name, result.type = f"w{number}", ir.TensorType(ir.DataType.from_numpy(weight.scale.dtype))
        results.append(result)
    for number, value in enumerate(tape.constants):
        value.name = f"constant_{number}"
    stored = [*tape.weights, *tape.constants]
    body = ir.Graph([], results, nodes=tape.nodes, initializers=stored, opset_imports={"": 23, "tersor": 1}, name="g")
    model = ir.Model(body, ir_version=10)
    for function in {function.overload: function for function in tape.functions}.values():
        function.declare(model)
    return model


def same(found: Sequence[np.ndarray], weights: Sequence[Quantized]) -> None:
    for array, weight in zip(found, weights, strict=True):
        about = f"axis {weight.axis}, block {weight.block}, {weight.bits} bits, {weight.values.dtype} {array.shape}"
        np.testing.assert_array_equal(array, weight.dense(), about, strict=True)


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("signed", [True, False])
def test_a_weight_is_scaled_differences(signed: bool, grouping: tuple[int | None, int], offset: bool) -> None:
    """(values - zero) * scale, number by number in float64, is one rounding away."""
    for bits, shape in product(range(2, 9), SHAPES):
        weight = made(shape, bits, signed, grouping, offset=offset)
        naive = np.zeros(shape)
        axis, block = grouping
        for place in np.ndindex(shape):
            at: tuple[int, ...] = ()
            if axis is not None:
                at = place if block else (place[axis],)
                if block:
                    at = tuple(i // block if n == axis % len(shape) else i for n, i in enumerate(place))
            zero = 0 if weight.zero is None else int(weight.zero[at])
            naive[place] = (int(weight.values[place]) - zero) * float(weight.scale[at])
        assert weight.dense().dtype == np.float32
        np.testing.assert_allclose(weight.dense(), naive, rtol=np.finfo(np.float32).eps, atol=0)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_nodes_compute_what_the_weight_stands_for(bits: int, signed: bool) -> None:
    """On ONNX Runtime and in the interpreter alike, blocks that do not divide the axis too."""
    every = product(SHAPES[1:], GROUPINGS, [False, True])
    weights = [made(shape, bits, signed, grouping, offset=offset) for shape, grouping, offset in every]
    model = model_of(*weights)
    same(on_onnxruntime(model, {}), weights)
    same(list(runner(model)({}).values()), weights)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_scales_of_16_bits(bits: int, dtype: type) -> None:
    weights = [made((7, 10), bits, True, grouping, dtype=dtype) for grouping in [(None, 0), (1, 0), (0, 4)]]
    model = model_of(*weights)
    same(list(runner(model)({}).values()), weights)
    if dtype is np.float16:
        same(on_onnxruntime(model, {}), weights)


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_bytes_are_those_that_are_stored(bits: int, signed: bool, offset: bool) -> None:
    """Shapes, a few numbers whatever the weight's size, are not counted."""
    for shape, grouping in product(SHAPES, GROUPINGS):
        weight, tape = made(shape, bits, signed, grouping, offset=offset), Tape()
        weight.emit(tape, "w")
        stored = sum(value.const_value.nbytes for value in tape.weights if value.const_value is not None)
        assert weight.bytes == stored
        least = weight.values.size * bits / 8 + weight.scale.nbytes
        assert least <= stored < least + weight.scale.size * (bits / 8 if offset else 0) + 2 * bits


@pytest.mark.parametrize("bits", [3, 4])
def test_transposed_is_the_transpose(bits: int) -> None:
    every = product(SHAPES[1:2], GROUPINGS, [False, True])
    weights = [made(shape, bits, True, grouping, offset=offset) for shape, grouping, offset in every]
    turned = [weight.transposed() for weight in weights]
    for weight, other in zip(weights, turned, strict=True):
        np.testing.assert_array_equal(other.dense(), weight.dense().T)
        np.testing.assert_array_equal(other.transposed().dense(), weight.dense())
    same(on_onnxruntime(model_of(*turned), {}), turned)


def test_one_number_for_the_tensor_is_stored_as_a_scalar() -> None:
    tape = Tape()
    made((3, 4), 8, False, (None, 0), offset=True).emit(tape, "w")
    shapes = {value.name: value.const_value.shape for value in tape.weights if value.const_value is not None}
    assert shapes == {"w_scale": ir.Shape(()), "w_quantized": ir.Shape((3, 4)), "w_zero": ir.Shape(())}


def test_differences_do_not_wrap() -> None:
    """-128 - 127 and 0 - 255 fit no byte."""
    signed = Quantized(np.array([[-128]], np.int8), np.ones((), np.float32), None, np.array(127, np.int8))
    unsigned = Quantized(np.array([[0]], np.uint8), np.ones((), np.float32), None, np.array(255, np.uint8))
    assert signed.dense().tolist() == unsigned.dense().tolist() == [[-255.0]]
    for weight in (signed, unsigned):
        assert on_onnxruntime(model_of(weight), {})[0].tolist() == [[-255.0]]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_an_empty_weight(bits: int, shape: tuple[int, int]) -> None:
    weight = Quantized(np.zeros(shape, np.int8), np.ones(shape[1], np.float32), 1, None, 0, bits)
    assert weight.dense().shape == shape
    assert weight.bytes == weight.scale.nbytes
