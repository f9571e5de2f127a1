"""Weights of few bits become MatMulNBits: the same answers, the bytes that the file held, nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.lowering import LOWERING
from tersor.backends.onnxruntime.rules.fuse_matmul_nbits import FuseMatMulNBits
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.passes.weights.stored import Stored
from tersor.tests.backends.few_bits import dequantized
from tersor.tests.support import apply, distance, misses, on_onnxruntime

RNG = np.random.default_rng(3)
W, B = RNG.standard_normal((100, 7)).astype(np.float32), RNG.standard_normal(7).astype(np.float32)
X = {"x": RNG.standard_normal((5, 100)).astype(np.float32)}


def layer(bits: int = 4, group: int = 32, *, symmetric: bool = True, text: tuple[str, ...] | None = None) -> ir.Model:
    lines = text or ("h = MatMul(x, w)", "y = Add(h, b)")
    bias = {"b": B} if any("Add" in line for line in lines) else {}
    made = graph(*lines, inputs={"x": "float[batch, 100]"}, w=W, **bias)
    apply(QuantizeWeights(bits=bits, group=group, symmetric=symmetric, smallest=1), made)
    return made


CASES = list(itertools.product((2, 4, 8), (0, 16, 32, 256), (True, False)))


@pytest.mark.parametrize(("bits", "group", "symmetric"), CASES)
def test_the_kernel_answers_as_the_dequantized_weight_does(bits: int, group: int, symmetric: bool) -> None:
    model = layer(bits, group, symmetric=symmetric)
    wanted = runner(model.clone())(X)["y"]
    apply(FuseMatMulNBits(), model)
    assert [node.op_type for node in model.graph] == ["MatMulNBits"]
    # other orders of adding 100 numbers
    tolerance = 100 * np.finfo(np.float32).eps
    assert distance(on_onnxruntime(model, X), [wanted]) < tolerance
    assert distance([runner(model)(X)["y"]], [wanted]) < tolerance


def test_the_bias_and_the_middle_cost_no_input_of_their_own() -> None:
    assert lines(_lowered(layer()))[-1] == (
        "y = com.microsoft.MatMulNBits{K=100, N=7, bits=4, block_size=32}(x, h/DequantizeLinear_packed, "
        "h/DequantizeLinear_scales, _, _, b)"
    )


def test_without_a_bias_there_are_three_inputs() -> None:
    model = _lowered(layer(text=("y = MatMul(x, w)",)))
    assert len(next(iter(model.graph)).inputs) == 3


@pytest.mark.parametrize(("rows", "block"), [(9, 16), (64, 64), (100, 128), (300, 128)])
def test_a_scale_for_each_output_has_no_longer_blocks_than_the_weight_fills(rows: int, block: int) -> None:
    model = graph("y = MatMul(x, w)", inputs={"x": f"float[batch, {rows}]"}, w=np.resize(W, (rows, 24)))
    apply(QuantizeWeights(group=0, smallest=1), model)
    found = next(iter(_lowered(model).graph))
    assert found.attributes["block_size"].as_int() == block


def test_half_a_byte_a_weight_is_kept() -> None:
    model = layer()
    packed = _lowered(model).graph.initializers["h/DequantizeLinear_packed"]
    # the last of four blocks is filled up
    assert packed.const_value.nbytes == 7 * 128 // 2


def test_a_product_that_others_read_keeps_its_bias_apart() -> None:
    model = layer(text=("h = MatMul(x, w)", "y = Add(h, b)", "z = Relu(h)"))
    wanted = runner(model.clone())(X)
    _lowered(model)
    assert [node.op_type for node in model.graph] == ["MatMulNBits", "Add", "Relu"]
    assert distance(on_onnxruntime(model, X), list(wanted.values())) < 1e-5


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (layer(4, 24), "block"),
        (layer(4, 8), "block"),
        (dequantized(0, "y = MatMul(x, d)", inputs={"x": "float[batch, 4]"}, shape=(4, 3)), "scales"),
        (
            graph(
                "(q, s, z) = DynamicQuantizeLinear(x)",
                "a = DequantizeLinear(q, s, z)",
                "d = DequantizeLinear{axis=1}(v, t)",
                "y = MatMul(a, d)",
                inputs={"x": "float[batch, 4]"},
                v=np.ones((4, 3), np.int8),
                t=np.ones(3, np.float32),
            ),
            "activation",
        ),
        (graph("y = MatMul(x, w)", inputs={"x": "float[batch, 100]"}, w=W), "weight"),
        (
            graph(
                "d = DequantizeLinear(q, s)",
                "y = MatMul(x, d)",
                inputs={"x": "float[batch, 4]", "q": "int8[4, 3]"},
                s=np.float32(1),
            ),
            "weight",
        ),
    ],
    ids=["block of 24", "block of 8", "by input", "quantized activation", "floats", "computed"],
)
def test_left_alone(model: ir.Model, rule: str) -> None:
    assert {miss.rule for miss in misses(FuseMatMulNBits(), model)} == {rule}


@pytest.mark.parametrize(("bits", "group", "symmetric"), list(itertools.product((3, 5, 6, 7), (0, 32), (True, False))))
def test_widths_without_a_kernel_are_widened_at_load(bits: int, group: int, symmetric: bool) -> None:
    model = layer(bits, group, symmetric=symmetric)
    wanted = runner(model.clone())(X)["y"]
    held = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    assert LOWERING.apply(model, Context()).matches
    (product,) = (node for node in model.graph if node.op_type == "MatMulNBits")
    assert product.attributes["bits"].as_int() == (4 if bits == 3 else 8)
    # other orders of adding 100 numbers; activations that were rounded to 8 bits would be off by thousandths
    tolerance = 100 * np.finfo(np.float32).eps
    assert distance(on_onnxruntime(model, X), [wanted]) < tolerance
    # the last block is filled up, scales of whole outputs repeat for every 128 inputs, shapes and masks come in
    filled = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    assert filled < held + 7 * 28 + 512


@pytest.mark.parametrize(("bits", "group", "symmetric"), [(3, 16, True), (3, 0, False), *CASES])
def test_what_is_stored_is_read_back_as_it_was_written(bits: int, group: int, symmetric: bool) -> None:
    model = layer(bits, group, symmetric=symmetric)
    product = next(node for node in model.graph if node.op_type == "MatMul")
    stored = Stored.of(product.inputs[1])
    assert stored is not None
    assert (stored.shape, stored.bits, stored.block) == ((100, 7), bits, group)
    read = stored.read()
    feeds = {"x": np.eye(100, dtype=np.float32)}
    np.testing.assert_array_equal(runner(model)(feeds)["y"], read.dense() + B)


def _lowered(model: ir.Model) -> ir.Model:
    apply(FuseMatMulNBits(), model)
    return model
