from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.openvino.split_blocks import SplitBlocks
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.tests.support import apply, holds, misses

RNG = np.random.default_rng(0)
X = {"x": "float[n, 20]"}


def stored(rows: int, columns: int, blocks: int, *, axis: int = 0, zero: bool = False) -> dict[str, np.ndarray]:
    shape = (blocks, columns) if axis == 0 else (rows, blocks)
    made = {
        "w8": RNG.integers(-128, 128, (rows, columns)).astype(np.int8),
        "s": (RNG.random(shape) / 100 + 0.001).astype(np.float32),
    }
    return made | ({"z": RNG.integers(-9, 9, shape).astype(np.int8)} if zero else {})


def model_of(block: int, blocks: int, *, zero: bool = False) -> ir.Model:
    given = "w8, s, z" if zero else "w8, s"
    dequantize = f"w = DequantizeLinear{{axis=0, block_size={block}}}({given})"
    return graph(dequantize, "y = MatMul(x, w)", inputs=X, **stored(20, 12, blocks, zero=zero))


def turned(block: int, blocks: int) -> ir.Model:
    dequantize = f"w = DequantizeLinear{{axis=-1, block_size={block}}}(w8, s)"
    return graph(dequantize, "y = Gemm{transB=1}(x, w)", inputs=X, **stored(12, 20, blocks, axis=1))


def test_a_shorter_last_block_becomes_a_weight_of_its_own() -> None:
    assert apply(SplitBlocks(), model_of(8, 3)) == [
        "w/DequantizeLinear = DequantizeLinear{axis=0, block_size=8}(w8_quantized, w8_scale)",
        "w/DequantizeLinear_1 = DequantizeLinear{axis=1}(w8_quantized_1, w8_scale_1)",
        "w = Concat{axis=0}(w/DequantizeLinear, w/DequantizeLinear_1)",
        "y = MatMul(x, w)",
    ]


def test_one_block_has_a_scale_for_each_output() -> None:
    model = model_of(32, 1, zero=True)
    assert apply(SplitBlocks(), model)[0] == "w = DequantizeLinear{axis=1}(w8_quantized, w8_scale, w8_zero)"
    assert model.graph.initializers["w8_scale"].shape == [12]


def test_what_is_stated_to_be_absent_is_left_out() -> None:
    model = model_of(5, 4)
    model.graph.node(0).resize_inputs(3)
    assert [value and value.name for value in model.graph.node(0).inputs] == ["w8", "s", None]
    apply(SplitBlocks(), model)
    assert [value and value.name for value in model.graph.node(0).inputs] == ["w8_quantized", "w8_scale"]


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (model_of(5, 4), "block"),
        (graph("w = DequantizeLinear{axis=1}(w8, s)", "y = MatMul(x, w)", inputs=X, w8=np.ones((20, 3), np.int8),
               s=np.ones(3, np.float32)), "block"),
        (graph("y = DequantizeLinear{axis=1, block_size=8}(x, s)", inputs={"x": "int8[2, 20]"},
               s=np.ones((2, 3), np.float32)), "weight"),
        (graph("y = DequantizeLinear{axis=1, block_size=6}(w8, s)", w8=np.ones((2, 6, 2), np.int8),
               s=np.ones((2, 1, 2), np.float32)), "rank"),
    ],
)  # fmt: skip
def test_leaves_alone(model: ir.Model, rule: str) -> None:
    before = lines(model)
    assert [miss.rule for miss in misses(SplitBlocks(), model)] == [rule]
    assert apply(SplitBlocks(), model) == before


@pytest.mark.parametrize("model", [
    model_of(8, 3), model_of(8, 3, zero=True), model_of(16, 2, zero=True), model_of(20, 1), model_of(64, 1, zero=True),
    turned(8, 3), turned(16, 2), turned(50, 1),
])  # fmt: skip
def test_holds_numerically(model: ir.Model) -> None:
    holds(SplitBlocks(), model)


def test_packed_weights_and_those_of_other_ranks_too() -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=RNG.standard_normal((20, 12)).astype(np.float32))
    QuantizeWeights(bits=3, group=8, smallest=1, symmetric=False).apply(model, Context())
    holds(SplitBlocks(), model)
    cube = RNG.integers(-8, 8, (3, 20, 2)).astype(ml_dtypes.int4)
    scale = RNG.random((3, 3, 2)).astype(np.float32)
    text = ("w = DequantizeLinear{axis=1, block_size=8}(w4, s)", "y = MatMul(x, w)")
    holds(SplitBlocks(), graph(*text, inputs={"x": "float[n, 4, 20]"}, w4=cube[:1], s=scale[:1]))
    assert apply(SplitBlocks(), graph(text[0], "y = Identity(w)", w4=cube, s=scale))[1].endswith(
        "DequantizeLinear{axis=1, block_size=4}(w4_quantized_1, w4_scale_1)"
    )
