from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx.reference
import onnx_ir
import pytest
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]
RNG = np.random.default_rng(0)


def reference(model: onnx_ir.Model, feeds: dict[str, np.ndarray]) -> None:
    """FX gives exactly what ONNX's reference evaluator gives."""
    wanted = onnx.reference.ReferenceEvaluator(onnx_ir.serde.serialize_model(model)).run(None, dict(feeds))
    for value, other in zip(Interpreter(to_fx(model)).run(feeds).values(), wanted, strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize("zero", [np.uint8(128), np.int8(3), np.uint16(700), np.int16(-5)])
def test_quantize_per_tensor(zero: np.generic) -> None:
    model = graph(
        "q = QuantizeLinear(x, 0.02, zero)", "y = DequantizeLinear(q, 0.02, zero)", outputs=["q", "y"], zero=zero
    )
    reference(model, {"x": np.array([0.01, 0.03, -0.05, 5.0, -5.0, 0.5], np.float32)})


def test_quantize_per_axis(check: Check) -> None:
    constants = {"s": np.array([0.1, 0.2, 0.3], np.float32), "z": np.array([0, 5, -5], np.int8)}
    check(
        "q = QuantizeLinear{axis=0}(x, s, z)",
        "y = DequantizeLinear{axis=0}(q, s, z)",
        x="float[3, 4]",
        constants=constants,
    )


def test_quantize_per_block() -> None:
    scale = RNG.random((2, 3), np.float32) + 0.1
    model = graph(
        "q = QuantizeLinear{axis=1, block_size=2, output_dtype=int8}(x, s)",
        "y = DequantizeLinear{axis=1, block_size=2}(q, s)",
        s=scale,
    )
    reference(model, {"x": RNG.standard_normal((2, 6), np.float32)})


def test_int4_saturates_at_its_own_limits() -> None:
    zero = np.array(1).astype(onnx_ir.DataType.INT4.numpy())
    model = graph("q = QuantizeLinear(x, 1.0, z)", "y = DequantizeLinear(q, 1.0, z)", z=zero)
    found = Interpreter(to_fx(model)).run({"x": np.array([-100, -2, 3, 100], np.float32)})["y"]
    assert found.tolist() == [-9, -2, 3, 6]


def test_int4_weights_are_dequantized_by_block() -> None:
    weight = np.arange(-8, 8).reshape(4, 4)
    scale = np.array([[0.5, 1.0, 2.0, 4.0], [1.0, 1.0, 1.0, 1.0]], np.float32)
    model = graph(
        "d = DequantizeLinear{axis=0, block_size=2}(w, s)",
        "y = MatMul(x, d)",
        w=weight.astype(onnx_ir.DataType.INT4.numpy()),
        s=scale,
    )
    found = Interpreter(to_fx(model)).run({"x": np.eye(4, dtype=np.float32)})["y"]
    np.testing.assert_array_equal(found, weight * np.repeat(scale, 2, 0))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("rows", [0, 5, 6])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_dequantized_by_block_with_zero_points(kind: type[np.integer], rows: int, axis: int) -> None:
    shape, blocks = ((rows, 4), (-(-rows // 2), 4)) if axis == 0 else ((4, rows), (4, -(-rows // 2)))
    rng, limits = np.random.default_rng(rows), np.iinfo(kind)
    q = rng.integers(limits.min, limits.max, shape, kind, endpoint=True)
    zero = rng.integers(limits.min, limits.max, blocks, kind, endpoint=True)
    scale = (2.0 ** rng.integers(-3, 3, blocks)).astype(np.float32)
    model = graph(
        f"y = DequantizeLinear{{axis={axis}, block_size=2}}(q, s, z)",
        inputs={"q": f"{np.dtype(kind).name}[{shape[0]}, {shape[1]}]"},
        s=scale,
        z=zero,
    )
    spread = [np.repeat(each, 2, axis).take(range(rows), axis) for each in (zero.astype(np.float64), scale)]
    wanted = (q.astype(np.float64) - spread[0]) * spread[1]
    np.testing.assert_array_equal(Interpreter(to_fx(model)).run({"q": q})["y"], wanted)


def test_dynamic_quantize(check: Check) -> None:
    check("(q, s, z) = DynamicQuantizeLinear(x)", x="float[3, 7]")


@pytest.mark.parametrize("x", [np.zeros(3, np.float32), np.array([1, 2, 3], np.float32), -np.ones(2, np.float32)])
def test_dynamic_quantize_of_one_sign(check: Check, x: np.ndarray) -> None:
    check("(q, s, z) = DynamicQuantizeLinear(x)", x=f"float[{x.size}]", feeds={"x": x})


def test_matmul_integer(check: Check) -> None:
    constants = {
        "a": RNG.integers(0, 255, (3, 4), np.uint8),
        "b": RNG.integers(-128, 127, (4, 2), np.int8),
        "az": np.uint8(7),
        "bz": np.array([1, -2], np.int8),
    }
    check("y = MatMulInteger(a, b, az, bz)", "z = MatMulInteger(a, b)", x="float[1]", constants=constants, feeds=None)


def test_qlinear_matmul_and_conv(check: Check) -> None:
    constants = {
        "a": RNG.integers(0, 255, (3, 4), np.uint8),
        "b": RNG.integers(0, 255, (4, 2), np.uint8),
        "z": np.uint8(120),
        "s": np.float32(0.02),
        "o": np.float32(0.5),
        "i": RNG.integers(0, 255, (1, 2, 5, 5), np.uint8),
        "w": RNG.integers(0, 255, (3, 2, 3, 3), np.uint8),
    }
    lines = (
        "y = QLinearMatMul(a, s, z, b, s, z, o, z)",
        "c = QLinearConv{pads=[1, 1, 1, 1]}(i, s, z, w, s, z, o, z)",
        "d = ConvInteger(i, w, z)",
    )
    check(*lines, x="float[1]", constants=constants)


@pytest.mark.parametrize("precision", [0, 1])
def test_the_quotient_has_the_type_of_the_scale(precision: int) -> None:
    """Near a half, float16 and float32 round to different sides."""
    rng = np.random.default_rng(1)
    x, scale = rng.standard_normal(4096).astype(np.float16), np.float16(0.0123)
    told = f"{{precision={precision}}}" if precision else ""
    model = graph(f"q = QuantizeLinear{told}(x, s, z)", inputs={"x": "float16[4096]"}, s=scale, z=np.int8(0))
    reference(model, {"x": x})


@pytest.mark.parametrize("kind", ["float6e2m3", "float6e3m2", "float4e2m1", "float8e4m3fn"])
def test_quantize_to_small_floats(kind: str) -> None:
    dtype = onnx_ir.DataType[kind.upper()]
    model = graph(f"q = QuantizeLinear{{output_dtype={dtype.value}}}(x, 0.5)", inputs={"x": "float[64]"}, opset=28)
    x = RNG.standard_normal(64).astype(np.float32)
    found = Interpreter(to_fx(model)).run({"x": x})["q"]
    (wanted,) = onnx.reference.ReferenceEvaluator(onnx_ir.serde.serialize_model(model)).run(None, {"x": x})
    np.testing.assert_array_equal(found.astype(np.float32), np.asarray(wanted).astype(np.float32))
    assert found.dtype == dtype.numpy()
