"""Arithmetic in 16-bit floats: what becomes it, what stays float32, and what the answers lose."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.errors import OptionError
from tersor.ir.runner import runner, trial_feeds
from tersor.ir.shape_annotate import annotate
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.cast_arithmetic import CastArithmetic, Reach
from tersor.passes.raising.sentence.raise_mean_pooling import RaiseMeanPooling
from tersor.passes.statistics import Calibration
from tersor.tests.passes import corpus
from tersor.tests.passes.quantize.holding import normal
from tersor.tests.support import apply, distance, misses, on_onnxruntime, parse

X = {"x": "float[batch, 32]"}
W = normal(32, 48)
ROUNDED = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
#: The largest relative error of a number that is rounded to the type: half of the last bit of its mantissa.
ROUNDING = {"float16": 2**-11, "bfloat16": 2**-8}


@pytest.mark.parametrize("dtype", ROUNDED)
def test_a_layer_computes_in_16_bits_between_two_casts(dtype: str) -> None:
    to = ir.DataType[dtype.upper()]
    model = graph("h = MatMul(x, w)", "y = Gelu(h)", inputs=X, w=W)
    assert apply(CastArithmetic(dtype=dtype), model) == [
        f"h/Cast = Cast{{to={to.value}}}(x)",
        "h = MatMul(h/Cast, w_1)",
        f"y/{dtype} = Gelu(h)",
        f"y = Cast{{to=1}}(y/{dtype})",
    ]
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT
    stored = model.graph.initializers["w_1"].const_value
    assert stored is not None
    assert np.array_equal(stored.numpy(), W.astype(ROUNDED[dtype]))


@pytest.mark.parametrize("dtype", ROUNDED)
def test_the_answer_is_that_of_rounded_operands(dtype: str) -> None:
    x = normal(8, 32)
    wanted = x.astype(ROUNDED[dtype]).astype(np.float64) @ W.astype(ROUNDED[dtype]).astype(np.float64)
    model = graph("y = MatMul(x, w)", inputs=X, w=W)
    apply(CastArithmetic(dtype=dtype), model)
    # what is left is the rounding of the sum
    assert distance([runner(model)({"x": x})["y"]], [wanted]) < ROUNDING[dtype]


def test_onnxruntime_computes_it() -> None:
    x, model = normal(8, 32), graph("h = MatMul(x, w)", "y = Gelu(h)", inputs=X, w=W)
    before = on_onnxruntime(model, {"x": x})
    apply(CastArithmetic(), model)
    # three roundings on the way: operands, sum, result
    assert 0 < distance(on_onnxruntime(model, {"x": x}), before) < 3 * ROUNDING["float16"]


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize(
    "make", [corpus.feed_forward, corpus.linear_layers, corpus.lstm], ids=lambda made: made.__name__
)
def test_whole_graphs_lose_little(make: object, dtype: str) -> None:
    assert callable(make)
    model = make()
    annotate(model)
    before, feeds = runner(model.clone()), trial_feeds(model)
    apply(CastArithmetic(dtype=dtype), model)
    loss = compare(before, runner(model), [feeds]).relative_l2
    # a few dozen roundings one after another
    assert 0 < loss < 32 * ROUNDING[dtype]


def test_what_is_computed_from_integers_stays_exact() -> None:
    model = graph(
        "p = Cast{to=1}(i)", "a = Mul(p, r)", "c = Cos(a)", "h = MatMul(x, w)", "y = Mul(h, c)",
        inputs=X | {"i": "int64[batch, 1]"}, w=W, r=normal(48) * 1e-3,
    )  # fmt: skip
    feeds = {"x": normal(2, 32), "i": np.array([[100_003], [7]])}
    before = runner(model.clone())
    apply(CastArithmetic(), model)
    kinds = {node.op_type: node.outputs[0].dtype for node in model.graph if node.op_type in ("Mul", "Cos", "MatMul")}
    assert kinds["Cos"] == ir.DataType.FLOAT
    assert kinds["MatMul"] == ir.DataType.FLOAT16
    # a position of 100,003 is beyond float16; its angle is not
    assert compare(before, runner(model), [feeds]).relative_l2 < 4 * ROUNDING["float16"]


def test_features_made_from_integers_are_no_positions() -> None:
    model = graph("p = Cast{to=1}(i)", "y = MatMul(p, w)", inputs={"i": "int64[batch, 32]"}, w=W)
    assert "MatMul" not in {miss.value for miss in misses(CastArithmetic(), model)}
    apply(CastArithmetic(), model)
    assert model.graph.initializers["w_1"].dtype == ir.DataType.FLOAT16


def test_masks_are_cut_to_the_largest_number() -> None:
    model = graph(
        "f = Cast{to=1}(m)", "n = Sub(one, f)", "b = Mul(n, least)", "h = MatMul(x, w)", "s = Add(h, b)",
        "y = Softmax(s)",
        inputs=X | {"m": "int64[batch, 48]"}, w=W / 8, one=np.float32(1), least=np.float32(np.finfo(np.float32).min),
    )  # fmt: skip
    feeds = {"x": normal(2, 32), "m": np.repeat([[1, 0, 1]], 2, axis=0).repeat(16, axis=1)}
    before = runner(model.clone())
    apply(CastArithmetic(), model)
    assert "Clip" in {node.op_type for node in model.graph}
    assert compare(before, runner(model), [feeds]).relative_l2 < 8 * ROUNDING["float16"]


def test_a_row_that_attends_to_nothing_stays_even() -> None:
    least = np.float32(np.finfo(np.float32).min)
    added = graph(
        "f = Cast{to=1}(m)", "n = Sub(one, f)", "b = Mul(n, least)", "h = MatMul(x, w)", "s = Add(h, b)",
        "y = Softmax(s)", inputs=X | {"m": "bool[batch, 48]"}, w=W, one=np.float32(1), least=least,
    )  # fmt: skip
    chosen = graph(
        "h = MatMul(x, w)", "s = Where(m, h, least)", "y = Softmax(s)",
        inputs=X | {"m": "bool[batch, 48]"}, w=W, least=least,
    )  # fmt: skip
    for model in (added, chosen):
        apply(CastArithmetic(dtype="bfloat16"), model)
        found = runner(model)({"x": normal(2, 32), "m": np.zeros((2, 48), np.bool_)})["y"]
        assert distance([found], [np.full((2, 48), 1 / 48)]) < 2 * ROUNDING["bfloat16"]


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("op", ["Add", "Max"])
@pytest.mark.parametrize("least", [1e-12, 1e-42], ids=str)
def test_what_keeps_a_divisor_from_zero_goes_on_doing_so(op: str, least: float, dtype: str) -> None:
    model = graph(
        "n = ReduceL2(x, a)", f"d = {op}(n, least)", "y = Div(x, d)", inputs=X, a=[1], least=np.float32(least)
    )
    apply(CastArithmetic(dtype=dtype), model)
    assert not runner(model)({"x": np.zeros((2, 32), np.float32)})["y"].any()


def test_results_beyond_float16_stay_where_data_are_given() -> None:
    loud = graph("h = MatMul(x, w)", "y = MatMul(h, v)", inputs=X, w=W * 1e5, v=normal(48, 8) * 1e-5)
    feeds = [{"x": normal(4, 32)}]
    context = Context(feeds=feeds, calibration=Calibration(feeds))
    found = {finding.miss.rule for finding in CastArithmetic().apply(loud, context).misses if finding.miss}
    assert found == {"range"}
    assert [node.op_type for node in loud.graph] == ["MatMul", "Cast", "MatMul", "Cast"]


def test_bfloat16_has_the_range() -> None:
    loud = graph("y = MatMul(x, w)", inputs=X, w=W * 1e5)
    feeds = [{"x": normal(4, 32)}]
    context = Context(feeds=feeds, calibration=Calibration(feeds))
    assert not CastArithmetic(dtype="bfloat16").apply(loud, context).misses


@pytest.mark.parametrize(
    ("model", "options", "rule"),
    [
        (graph("y = Exp(x)", inputs=X), {}, "keep"),
        (graph("y = MatMul(x, w)", inputs=X, w=W), {"keep": ("MatMul",)}, "keep"),
        (graph("y = Softmax(x)", inputs=X), {"keep": ("Soft*",)}, "keep"),
        (graph("(q, s, z) = DynamicQuantizeLinear(x)", "y = DequantizeLinear(q, s, z)", inputs=X), {}, "op"),
        (graph("q = QuantizeLinear(x, s, z)", "y = DequantizeLinear(q, s, z)", inputs=X, s=np.float32(1e-6),
               z=np.uint8(3)), {}, "scale"),
        (graph("y = Mul(x, s)", inputs=X, s=np.float32(1e-9)), {}, "scale"),
        (graph("y = Div(x, s)", inputs=X, s=np.float32(1e6)), {}, "scale"),
    ],
    ids=["exp", "product by name", "pattern", "dynamic", "small scale", "small factor", "large divisor"],
)  # fmt: skip
def test_a_node_that_stays_says_why(model: ir.Model, options: dict[str, object], rule: str) -> None:
    assert rule in {miss.rule for miss in misses(CastArithmetic(**options), model)}


def test_a_subgraph_stays_and_reads_float32() -> None:
    model = parse("""
        g (float[batch, 32] x, bool c) => (float[batch, 32] y) {
            h = Gelu (x)
            y = If (c) <then_branch = t () => (float[batch, 32] a) { a = Neg (h) },
                        else_branch = e () => (float[batch, 32] b) { b = Relu (h) }>
        }""")
    annotate(model)
    before, feeds = runner(model.clone()), {"x": normal(4, 32), "c": np.array(True)}
    assert "subgraph" in {miss.rule for miss in misses(CastArithmetic(), model)}
    apply(CastArithmetic(), model)
    assert compare(before, runner(model), [feeds]).relative_l2 < 4 * ROUNDING["float16"]


def test_sums_in_the_body_of_a_function_stay() -> None:
    model = corpus.sentence()
    apply(RaiseMeanPooling(), model)
    annotate(model)
    assert "keep" in {miss.rule for miss in misses(CastArithmetic(), model)}


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(OptionError, match="float16 or bfloat16, found float8"):
        CastArithmetic(dtype="float8")  # type: ignore[arg-type]


def test_reach_is_of_finite_numbers_and_joins() -> None:
    first, second = Reach(), Reach()
    first.add(np.array([-3.0, np.inf, np.nan, 2.0], np.float32))
    second.add(np.array([[7.0]], np.float32))
    second.merge(first)
    assert (first.largest, second.largest, second.count) == (3.0, 7.0, 5)
