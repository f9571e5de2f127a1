"""Activations rounded to 8-bit floats, by casts."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.backend import OnnxRuntime
from tersor.backends.onnxruntime.lowering import LOWERING
from tersor.backends.onnxruntime.rules.cast_float8 import CastFloat8
from tersor.ir.compare import compare
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_static import QuantizeStatic
from tersor.passes.run import run_pipeline
from tersor.passes.statistics import Calibration
from tersor.tests.support import apply, misses, on_onnxruntime

RNG = np.random.default_rng(0)
E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
QUANTIZE, BACK = "q = QuantizeLinear(x, s, z)", "y = DequantizeLinear(q, s, z)"
X = {"x": "float[batch, 8]"}


def pair(
    dtype: type = E4M3, *, scale: object = np.float32(0.03), zero: float = 0, quantize: str = QUANTIZE
) -> ir.Model:
    return graph(quantize, BACK, inputs=X, s=scale, z=np.asarray(zero, dtype))


@pytest.mark.parametrize(("dtype", "to"), [(E4M3, 17), (E5M2, 19)])
def test_rewrites(dtype: type, to: int) -> None:
    text = apply(CastFloat8(), pair(dtype))
    assert text == [
        "q/Div = Div(x, s)",
        f"q = Cast{{saturate=1, to={to}}}(q/Div)",
        "y/Cast = Cast{to=1}(q)",
        "y = Mul(y/Cast, s)",
    ]


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_the_numbers_are_those_of_the_type(dtype: type) -> None:
    """x8 = clip(x / s, -max, max) to the nearest of the type, its largest number included."""
    model, scale, most = pair(dtype), np.float32(0.03), float(ml_dtypes.finfo(dtype).max)
    apply(CastFloat8(), model)
    x = (RNG.standard_normal((64, 8)) * 10.0 ** RNG.uniform(-6, 5, (64, 8))).astype(np.float32)
    wanted = np.clip(x / scale, -most, most).astype(dtype).astype(np.float32) * scale
    np.testing.assert_array_equal(on_onnxruntime(model, {"x": x})[0], wanted)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (pair(np.uint8), "dtype"),
        (graph("y = DequantizeLinear(q, s)", inputs=X, q=np.ones((3, 8), E4M3), s=np.float32(2)), "dtype"),
        (pair(scale=np.ones(8, np.float32)), "scale"),
        (pair(zero=1), "zero point"),
        (graph(QUANTIZE, inputs={"x": "float16[batch, 8]"}, s=np.float32(2), z=np.zeros((), E4M3)), "dtype"),
    ],
    ids=["integers", "constant", "channels", "zero", "wider scale"],
)
def test_left_alone(model: ir.Model, rule: str) -> None:
    assert {miss.rule for miss in misses(CastFloat8(), model)} == {rule}


def _weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.2).astype(np.float32)


MODELS = {
    "relu between layers": graph(
        "h = MatMul(x, up)", "b = Add(h, bias)", "r = Relu(b)", "y = Gemm{transB=1}(r, down, shift)",
        inputs={"x": "float[batch, 16]"}, up=_weight(16, 24), bias=_weight(24), down=_weight(8, 24), shift=_weight(8),
    ),
    "convolutions": graph(
        "h = Conv{pads=[1, 1, 1, 1]}(x, up, bias)", "r = Relu(h)", "y = Conv{pads=[1, 1, 1, 1]}(r, down)",
        inputs={"x": "float[batch, 4, 6, 6]"}, up=_weight(8, 4, 3, 3), bias=_weight(8), down=_weight(4, 8, 3, 3),
    ),
    "behind a cell": graph(
        "s = LSTM{hidden_size=8}(x, w, r)", "t = Squeeze(s, axes)", "y = MatMul(t, head)",
        inputs={"x": "float[steps, batch, 6]"}, w=_weight(1, 32, 6), r=_weight(1, 32, 8), axes=np.array([1]),
        head=_weight(8, 12),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("name", MODELS)
def test_the_runtimes_own_fusions_leave_it_as_it_is(name: str, kind: str) -> None:
    """With all of its optimizations, which take what is quantized for integers."""
    model = MODELS[name].clone()
    shape = [dim if isinstance(dim, int) else 5 for dim in model.graph.inputs[0].shape or ()]
    feeds = [{"x": RNG.standard_normal(shape).astype(np.float32)} for _ in range(4)]
    static = QuantizeStatic(smallest=1, convolutions=True, type=kind)  # type: ignore[arg-type]
    assert static.apply(model, Context(calibration=Calibration(feeds[:3]))).matches
    quantized = model.clone()
    run_pipeline(LOWERING, model)
    session = OnnxRuntime(threads=1).compile(model)
    # of 8-bit floats the next is 1/8 away, and a sum that rounds otherwise takes a number there
    assert compare(runner(quantized), session, feeds[3:]).relative_l2 < 0.01


def test_a_second_application_finds_nothing() -> None:
    model = pair()
    apply(CastFloat8(), model)
    assert CastFloat8().apply(model, Context()).matches == 0
