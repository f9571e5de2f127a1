"""Products, normalizations and reductions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir
import pytest
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]


@pytest.mark.parametrize(
    ("attributes", "shapes"),
    [
        ("", ("float[3, 4]", "float[4, 5]", "float[5]")),
        ("{transB=1}", ("float[3, 4]", "float[5, 4]", "float[3, 1]")),
        ("{transA=1, alpha=0.5, beta=2.0}", ("float[4, 3]", "float[4, 5]", "float[]")),
    ],
)
def test_gemm(check: Check, attributes: str, shapes: tuple[str, str, str]) -> None:
    check(f"y = Gemm{attributes}(a, b, c)", a=shapes[0], b=shapes[1], c=shapes[2])


def test_gemm_of_integers_is_exact() -> None:
    module = to_fx(graph("y = Gemm(a, b, c)", inputs=dict.fromkeys("abc", "int64[1, 1]")))
    # 2^24 + 1, the first integer that float32 does not hold
    a, b, c = (np.array([[number]]) for number in (2**24 + 1, 1, 2**25 + 1))
    assert Interpreter(module).run({"a": a, "b": b, "c": c})["y"].tolist() == [[2**24 + 1 + 2**25 + 1]]


def test_matmul(check: Check) -> None:
    check("y = MatMul(a, b)", "z = MatMul(b, v)", a="float[2, 3, 4]", b="float[2, 4, 5]", v="float[5]")
    check("y = MatMul(a, b)", a="int32[3, 4]", b="int32[4, 2]")


def test_einsum() -> None:
    model = graph("y = Einsum{equation=x}(a, b)")
    model.graph[0].attributes["equation"] = onnx_ir.AttrString("equation", "bij, bjk -> bik")
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 4, 5))
    np.testing.assert_allclose(Interpreter(to_fx(model)).run({"a": a, "b": b})["y"], a @ b)


@pytest.mark.parametrize(
    ("attributes", "x", "w"),
    [
        ("{pads=[1, 1], strides=[2]}", "float[2, 4, 9]", "float[6, 4, 3]"),
        ("{pads=[0, 2], dilations=[2], group=2}", "float[2, 4, 9]", "float[6, 2, 3]"),
        ("{auto_pad='SAME_UPPER', strides=[2, 2]}", "float[1, 3, 8, 7]", "float[4, 3, 3, 2]"),
        ("{auto_pad='SAME_LOWER'}", "float[1, 3, 8, 7]", "float[4, 3, 2, 2]"),
        ("{auto_pad='VALID'}", "float[1, 3, 8, 7]", "float[4, 3, 3, 3]"),
        ("{pads=[1, 0, 1, 1, 2, 1]}", "float[1, 2, 5, 5, 5]", "float[3, 2, 3, 3, 3]"),
    ],
)
def test_conv(check: Check, attributes: str, x: str, w: str) -> None:
    check(f"y = Conv{attributes}(x, w)", x=x, w=w)


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        "{strides=[2, 2], pads=[1, 1, 1, 1]}",
        "{strides=[2, 2], pads=[0, 1, 1, 0], output_padding=[1, 1]}",
        "{strides=[3, 2], output_shape=[10, 8]}",
        "{strides=[2, 2], auto_pad='SAME_UPPER'}",
        "{dilations=[2, 1]}",
    ],
)
def test_conv_transpose(check: Check, attributes: str) -> None:
    check(f"y = ConvTranspose{attributes}(x, w, b)", x="float[1, 2, 3, 4]", w="float[2, 3, 3, 3]", b="float[3]")


def test_layer_norm_and_its_statistics(check: Check) -> None:
    types = {"x": "float[2, 3, 4]", "s": "float[3, 4]", "b": "float[3, 4]"}
    check("(y, m, i) = LayerNormalization{axis=1, epsilon=0.001}(x, s, b)", **types)


def test_norms(check: Check) -> None:
    types = {"x": "float[2, 4, 5, 3]", "s": "float[4]", "b": "float[4]"}
    check("y = InstanceNormalization(x, s, b)", **types)
    check("y = GroupNormalization{num_groups=2}(x, s, b)", **types)
    check("y = LpNormalization{axis=1, p=1}(x)", "z = LRN{size=3, alpha=0.1}(x)", x=types["x"])
    check("y = MeanVarianceNormalization(x)", x=types["x"])
    check("y = RMSNormalization{axis=-1}(x, w)", x=types["x"], w="float[3]")


def test_group_norm_had_a_scale_per_group_before_opset_21(check: Check) -> None:
    check("y = GroupNormalization{num_groups=2}(x, s, b)", x="float[2, 4, 3]", s="float[2]", b="float[2]", opset=18)


def test_batch_norm(check: Check) -> None:
    rng = np.random.default_rng(0)
    parts = {name: rng.random(4, np.float32) + 0.5 for name in ("s", "b", "m", "v")}
    check("y = BatchNormalization(x, s, b, m, v)", x="float[2, 4, 3]", constants=parts)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_took_all_later_axes_before_opset_13(check: Check, op: str, opset: int) -> None:
    check(f"y = {op}(x)", f"z = {op}{{axis=1}}(x)", x="float[2, 3, 4]", opset=opset)


_REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]


@pytest.mark.parametrize("name", _REDUCTIONS)
def test_reductions_take_axes_as_an_attribute_and_as_an_input(check: Check, name: str) -> None:
    feeds = {"x": np.random.default_rng(0).random((2, 3, 4), np.float32) + 0.1}
    op = f"Reduce{name}"
    check(f"y = {op}{{axes=[0, -1], keepdims=0}}(x)", f"z = {op}(x)", x="float[2, 3, 4]", opset=11, feeds=feeds)
    check(f"y = {op}{{keepdims=0}}(x, [0, -1])", f"z = {op}(x)", x="float[2, 3, 4]", opset=18, feeds=feeds)


def test_a_reduction_over_no_axes_can_be_the_identity(check: Check) -> None:
    check("y = ReduceSum{noop_with_empty_axes=1}(x)", x="float[2, 3]", opset=18)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_arg_max_of_ties(check: Check, op: str, last: int) -> None:
    feeds = {"x": np.array([[1, 2, 2], [3, 3, 1]], np.float32)}
    check(f"y = {op}{{axis=1, keepdims=0, select_last_index={last}}}(x)", x="float[2, 3]", feeds=feeds)


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_places_in_an_empty_axis_are_asked_for_by_nobody(op: str, keep: int) -> None:
    model = graph(f"y = {op}{{axis=-3, keepdims={keep}}}(x)", inputs={"x": "float[0, 0, 4]"})
    found = Interpreter(to_fx(model)).run({"x": np.ones((0, 0, 4), np.float32)})["y"]
    assert found.shape == ((1, 0, 4) if keep else (0, 4))
    assert found.dtype == np.int64


def test_integers_meet_a_float_factor_once() -> None:
    model = graph("y = Gemm{alpha=0.5, beta=0.5}(a, b, c)", inputs=dict.fromkeys("abc", "int32[1, 1]"))
    feeds = {"a": np.array([[3]], np.int32), "b": np.array([[1]], np.int32), "c": np.array([[1]], np.int32)}
    assert Interpreter(to_fx(model)).run(feeds)["y"].tolist() == [[2]]
