"""Weights in 16- and 8-bit floats: what every kind of site answers, what is stored, what is left alone."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.runner import runner
from tersor.ir.site import sites
from tersor.ir.text import graph
from tersor.passes.clean.fold_constants import FoldConstants
from tersor.passes.quantize.cast import Cast
from tersor.passes.quantize.methods.floats import cast, float8
from tersor.passes.quantize.quantize_weights import QuantizeWeights
from tersor.tests.passes.quantize.holding import HELD, LEFT, normal
from tersor.tests.support import apply, distance, misses, on_onnxruntime

X = {"x": "float[batch, 32]"}
W = normal(32, 48)
HALVES, EIGHTHS = ("float16", "bfloat16"), ("float8_e4m3fn", "float8_e5m2")
#: The largest relative error of a number that is rounded to the type: half of the last bit of its mantissa.
ROUNDING = {"float16": 2**-11, "bfloat16": 2**-8, "float8_e4m3fn": 2**-4, "float8_e5m2": 2**-3}


def rounded(weight: np.ndarray, dtype: str) -> np.ndarray:
    """What a weight [in, out] stands for afterwards."""
    if dtype in EIGHTHS:
        return float8(weight, dtype, axis=1).dense()
    return cast(weight, dtype).astype(weight.dtype)


@pytest.mark.parametrize("name", [name for name in HELD if not any(half in name for half in ("half", "float", "cast"))])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_every_kind_of_site_reads_the_rounded_weight(dtype: str, name: str) -> None:
    model = HELD[name].model
    apply(Cast(dtype=dtype, smallest=1), model)
    wanted = {each: rounded(matrix, dtype) for each, matrix in HELD[name].matrices.items()}
    # the weights are the same in every bit: only the order of sums in a product of another layout can differ
    assert HELD[name].compared(model, wanted).within(1e-6)


@pytest.mark.parametrize("name", ["matmul, half", "matmul, bfloat16", "matmul, cast and turned"])
@pytest.mark.parametrize("dtype", EIGHTHS)
def test_weights_of_16_bits_become_8(dtype: str, name: str) -> None:
    model = HELD[name].model
    apply(Cast(dtype=dtype, smallest=1), model)
    read = {"matmul, half": np.float16, "matmul, bfloat16": ml_dtypes.bfloat16}.get(name, np.float32)
    wanted = {each: rounded(matrix.astype(read), dtype) for each, matrix in HELD[name].matrices.items()}
    if read is np.float32:
        # the reference stores float16 in front of a Cast, where these numbers are rounded once more
        assert HELD[name].compared(model, wanted).within(ROUNDING["float16"])
    else:
        assert HELD[name].compared(model, wanted).within(1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_folding_constants_does_not_undo_it(dtype: str) -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    apply(Cast(dtype=dtype, smallest=1), model)
    held = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    assert len(apply(FoldConstants(), model)) == 2
    assert sum(value.const_value.nbytes for value in model.graph.initializers.values()) == held


@pytest.mark.parametrize("dtype", ROUNDING)
def test_onnxruntime_reads_what_is_stored(dtype: str) -> None:
    model, x = graph("y = MatMul(x, w)", inputs=X, w=W), normal(3, 32)
    apply(Cast(dtype=dtype), model)
    wanted = x.astype(np.float64) @ rounded(W, dtype).astype(np.float64)
    # sums of 32 products
    assert distance(on_onnxruntime(model, {"x": x}), [wanted]) < 32 * np.finfo(np.float32).eps


@pytest.mark.parametrize("dtype", ROUNDING)
def test_the_file_holds_a_half_or_a_quarter(dtype: str) -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    apply(Cast(dtype=dtype), model)
    held = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert held["w_quantized"].dtype == ir.DataType[dtype.upper().replace("_", "")]
    assert held["w_quantized"].nbytes == W.nbytes // (2 if dtype in HALVES else 4)
    assert {name: tensor.nbytes for name, tensor in held.items() if name != "w_quantized"} == (
        {"w_scale": 48 * 4} if dtype in EIGHTHS else {}
    )


@pytest.mark.parametrize("dtype", ROUNDING)
def test_the_answer_is_off_by_the_rounding_of_weights(dtype: str) -> None:
    model, feeds = graph("y = MatMul(x, w)", inputs=X, w=W), {"x": normal(64, 32)}
    before = runner(model.clone())
    apply(Cast(dtype=dtype), model)
    loss = compare(before, runner(model), [feeds]).relative_l2
    # each weight is off by at most the rounding of its type and on average by a good part of it
    assert 0.1 * ROUNDING[dtype] < loss < ROUNDING[dtype]


def test_sixteen_bits_are_cast() -> None:
    assert apply(Cast(), graph("y = Gemm{transB=1}(x, w)", inputs=X, w=W.T.copy())) == [
        "y/Cast = Cast{to=1}(w_quantized)",
        "y = Gemm{transB=1}(x, y/Cast)",
    ]


def test_eight_bits_have_a_scale_for_each_output() -> None:
    assert apply(Cast(dtype="float8_e4m3fn"), graph("y = MatMul(x, w)", inputs=X, w=W)) == [
        "y/DequantizeLinear = DequantizeLinear{axis=1}(w_quantized, w_scale)",
        "y = MatMul(x, y/DequantizeLinear)",
    ]


@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_site_keeps_its_name(dtype: str) -> None:
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    named = [site.name for site in sites(model)]
    apply(Cast(dtype=dtype), model)
    assert [site.name for site in sites(model)] == named


def test_16_bits_can_be_quantized_further() -> None:
    model, direct = (graph("y = MatMul(x, w)", inputs=X, w=W) for _ in range(2))
    apply(Cast(), model)
    apply(QuantizeWeights(bits=8), model)
    apply(QuantizeWeights(bits=8), direct)
    assert "w_quantized" not in model.graph.initializers
    # float16 moves a weight by far less than a step of 8 bits
    assert compare(runner(direct), runner(model), [{"x": normal(8, 32)}]).within(2**-8)


OTHERS_LEFT: dict[str, tuple[ir.Model, Mapping[str, object], str]] = LEFT | {
    "an embedding": (HELD["table"].model, {"embeddings": False}, "kind"),
    "a convolution": (HELD["conv"].model, {"convolutions": False}, "kind"),
    "more than half precision holds": (
        graph("y = MatMul(x, w)", inputs=X, w=np.where(W > 2, np.float32(65505), W)),
        {},
        "range",
    ),
    "float16": (HELD["matmul, half"].model, {}, "dtype"),
    "float16 to bfloat16": (HELD["matmul, half"].model, {"dtype": "bfloat16"}, "dtype"),
    "bfloat16": (HELD["matmul, bfloat16"].model, {}, "dtype"),
    "a scale for each weight": (
        graph("y = MatMul(x, w)", inputs={"x": "float[batch, 1]"}, w=normal(1, 2048)),
        {"dtype": "float8_e5m2"},
        "bytes",
    ),
}


@pytest.mark.parametrize("name", OTHERS_LEFT)
def test_left_alone(name: str) -> None:
    model, options, rule = OTHERS_LEFT[name]
    assert {miss.rule for miss in misses(Cast(**options), model)} == {rule}


@pytest.mark.parametrize("name", ["matmul", "table", "conv", "lstm"])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_what_is_cast_already_stays(dtype: str, name: str) -> None:
    model = HELD[name].model
    before = apply(Cast(dtype=dtype, smallest=1), model)
    assert apply(Cast(dtype=dtype, smallest=1), model) == before
    assert {miss.rule for miss in misses(Cast(dtype=dtype, smallest=1), model)} == {
        "quantized" if dtype in EIGHTHS else "dtype"
    }


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(OptionError, match=r"cast: expected a dtype of float16, .*, found float32"):
        Cast(dtype="float32")
