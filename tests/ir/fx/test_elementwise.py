from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir
import pytest
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]


_UNARY = """
    Abs Ceil Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish IsNaN LeakyRelu Mish Neg Relu Round Selu Shrink Sigmoid
    Sign Sin Softplus Softsign Tanh ThresholdedRelu Celu{alpha=2.0} Gelu{approximate='tanh'} Elu{alpha=0.5}
"""


@pytest.mark.parametrize("op", _UNARY.split())
def test_unary(check: Check, op: str) -> None:
    check(f"y = {op}(x)", x="float[3, 4]", tolerance=1e-6)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mod{fmod=1}", "PRelu"])
def test_binary_broadcasts(check: Check, op: str) -> None:
    check(f"y = {op}(a, b)", a="float[2, 3, 4]", b="float[3, 1]", tolerance=1e-6)


@pytest.mark.parametrize("op", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def test_comparison(check: Check, op: str) -> None:
    check(f"y = {op}(a, b)", a="int64[5]", b="int64[2, 5]")


def test_integer_division_goes_toward_zero(check: Check) -> None:
    feeds = {"a": np.array([-7, 7, -7, 7]), "b": np.array([2, -2, -2, 2])}
    assert check("y = Div(a, b)", a="int64[4]", b="int64[4]", feeds=feeds)["y"].tolist() == [-3, -3, 3, 3]


def test_modulo_takes_the_sign_of_the_divisor(check: Check) -> None:
    feeds = {"a": np.array([-7, 7, -7, 7]), "b": np.array([3, -3, -3, 3])}
    check("y = Mod(a, b)", "z = Mod{fmod=1}(a, b)", a="int64[4]", b="int64[4]", feeds=feeds)


def test_round_is_half_to_even(check: Check) -> None:
    feeds = {"x": np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)}
    assert check("y = Round(x)", x="float[5]", feeds=feeds)["y"].tolist() == [0, 2, 2, 0, -2]


def test_power_has_the_type_of_the_base(check: Check) -> None:
    check("y = Pow(x, e)", "z = Pow(i, half)", x="float[4]", e="int64[4]", i="int32[4]", constants={"half": 0.5})


@pytest.mark.parametrize("bounds", ["x", "x, -0.5", "x, _, 0.5", "x, -0.5, 0.5", "x, 1.0, -1.0", "x, low, high"])
def test_clip_bounds_are_optional(check: Check, bounds: str) -> None:
    feeds = {"x": np.linspace(-2, 2, 9, dtype=np.float32), "low": np.float32(-0.25), "high": np.float32(0.25)}
    types = {"x": "float[9]", **({"low": "float[]", "high": "float[]"} if "low" in bounds else {})}
    check(f"y = Clip({bounds})", feeds={name: feeds[name] for name in types}, **types)


def test_clip_had_attributes_before_opset_11(check: Check) -> None:
    check("y = Clip{min=-0.5, max=0.25}(x)", x="float[9]", opset=7)
    check("y = Clip(x)", x="float[3]", feeds={"x": np.array([np.inf, -np.inf, 2], np.float32)}, opset=10)


def test_powers_of_integers_to_floats_are_exact_where_float64_is(check: Check) -> None:
    feeds = {"x": np.array([2**62 - 1, 2**53 + 1, 5]), "e": np.float32(0.5)}
    check("y = Pow(x, e)", x="int64[3]", e="float[]", feeds=feeds)


@pytest.mark.parametrize("to", ["int64", "int32", "uint8", "bool", "float16", "double"])
def test_cast_from_float(check: Check, to: str) -> None:
    feeds = {"x": np.array([0.0, 0.9, 1.5, 2.5, 100.7], np.float32)}
    check(f"y = Cast{{to={to}}}(x)", x="float[5]", feeds=feeds)


@pytest.mark.parametrize("to", ["float8e4m3fn", "float8e5m2", "float8e4m3fnuz", "float8e5m2fnuz"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_cast_to_float8_saturates_on_request(check: Check, to: str, saturate: int) -> None:
    feeds = {"x": np.array([0.3, -3.7, 1e6, -1e6, np.inf, np.nan, 0.0], np.float32)}
    check(f"q = Cast{{to={to}, saturate={saturate}}}(x)", "y = Cast{to=float}(q)", x="float[7]", feeds=feeds)


def test_cast_to_int4_and_back(check: Check) -> None:
    feeds = {"x": np.array([-8.0, -1.0, 0.0, 3.0, 7.0], np.float32)}
    check("q = Cast{to=int4}(x)", "y = Cast{to=float}(q)", x="float[5]", feeds=feeds)


def test_variadic(check: Check) -> None:
    types = dict.fromkeys("abc", "float[3]")
    check("w = Sum(a, b, c)", "x = Mean(a, b, c)", "y = Max(a, b, c)", "z = Min(a, b, c)", **types)


def test_logic_and_where(check: Check) -> None:
    lines = ("n = Not(a)", "o = Or(n, b)", "x = Xor(o, b)", "c = And(x, o)", "y = Where(c, s, t)")
    check(*lines, a="bool[2, 5]", b="bool[5]", s="float[2, 5]", t="float[1]")


def test_bitwise(check: Check) -> None:
    lines = ("p = BitwiseAnd(a, b)", "q = BitwiseOr(a, b)", "r = BitwiseXor(a, b)", "s = BitwiseNot(a)")
    check(*lines, "t = BitShift{direction='LEFT'}(u, u)", a="int32[6]", b="int32[6]", u="uint8[6]")


def test_bfloat16_goes_in_and_out() -> None:
    model = graph("y = Add(x, x)", inputs={"x": "bfloat16[3]"})
    x = np.array([1.5, -2.25, 3.0]).astype(onnx_ir.DataType.BFLOAT16.numpy())
    found = Interpreter(to_fx(model)).run({"x": x})["y"]
    assert found.dtype == x.dtype
    assert found.astype(np.float32).tolist() == [3.0, -4.5, 6.0]


def test_a_node_that_cannot_run_is_named() -> None:
    model = graph("h = Relu(x)", "y = Add(h, bias)", bias=np.ones(4, np.float32))
    with pytest.raises(ModelError, match=r"Add at y cannot run on \(float32\[2, 3\], float32\[4\]\)"):
        Interpreter(to_fx(model)).run({"x": np.ones((2, 3), np.float32)})


def test_a_power_without_axes_keeps_its_type_beside_a_narrower_exponent(check: Check) -> None:
    feeds = {"x": np.float32(0.18859532), "e": np.array([0.1886], np.float16)}
    assert check("y = Pow(x, e)", x="float[]", e="float16[1]", feeds=feeds)["y"].dtype == np.float32


def test_the_sign_of_nan_is_nan(check: Check) -> None:
    feeds = {"x": np.array([np.nan, -np.inf, -0.0, 3.0], np.float32)}
    assert np.isnan(check("y = Sign(x)", x="float[4]", feeds=feeds)["y"][0])


@pytest.mark.parametrize("op", ["HardSigmoid", "LeakyRelu"])
def test_defaults_are_float32_in_float64_too(op: str) -> None:
    attribute = np.float32({"HardSigmoid": 0.2, "LeakyRelu": 0.01}[op])
    model = graph(f"y = {op}(x)", f"z = {op}{{alpha={float(attribute)}}}(x)", inputs={"x": "double[3]"})
    found = Interpreter(to_fx(model)).run({"x": np.array([-1.3, 0.2, 0.7])})
    assert found["y"].tolist() == found["z"].tolist()


def test_a_bound_may_be_a_vector_of_one(check: Check) -> None:
    feeds = {"x": np.float32(3), "low": np.array([-1], np.float32)}
    assert check("y = Clip(x, low)", x="float[]", low="float[1]", feeds=feeds)["y"].shape == ()
