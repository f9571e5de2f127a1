"""8-bit floats widened once, when the model is loaded."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.rules.widen_float8 import WidenFloat8
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.cast import Cast
from tersor.tests.passes.quantize.holding import HELD
from tersor.tests.support import apply, distance, misses, on_onnxruntime

RNG = np.random.default_rng(0)
W = RNG.standard_normal((32, 48)).astype(ml_dtypes.float8_e4m3fn)
SCALE = RNG.uniform(0.5, 1.0, 48).astype(np.float32)
X = {"x": "float[batch, 32]"}
READ = "y = MatMul(x, d)"


def test_rewrites() -> None:
    model = graph("d = DequantizeLinear{axis=1}(w, s)", READ, inputs=X, w=W, s=SCALE)
    assert apply(WidenFloat8(), model) == ["d/Cast = Cast{to=1}(w)", "d = Mul(d/Cast, w_scale)", READ]
    assert tuple(model.graph.initializers["w_scale"].shape) == (1, 48)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("name", ["matmul", "gemm, transB", "matmul, half", "conv", "table", "lstm"])
def test_answers_stay_as_they_are(name: str, dtype: str) -> None:
    model = HELD[name].model
    apply(Cast(dtype=dtype, smallest=1), model)
    wide = model.clone()
    apply(WidenFloat8(), wide)
    assert not any(node.op_type == "DequantizeLinear" for node in wide.graph)
    feeds = _feeds(model)
    # the same numbers, but that ONNX Runtime rounds products of halves elsewhere
    loss = distance(on_onnxruntime(wide, feeds), on_onnxruntime(model, feeds))
    assert loss <= (np.finfo(np.float16).eps if "half" in name else 0)


def _feeds(model: ir.Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    made = {}
    for value in model.graph.inputs:
        shape = [dim if isinstance(dim, int) else 5 for dim in value.shape]
        whole = value.dtype == ir.DataType.INT64
        made[value.name] = (
            rng.integers(0, 9, shape) if whole else rng.standard_normal(shape).astype(value.dtype.numpy())
        )
    return made


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (graph("d = DequantizeLinear{axis=1}(w, s)", READ, inputs=X, w=np.ones((32, 48), np.int8), s=SCALE), "dtype"),
        (
            graph(
                "d = DequantizeLinear{axis=0, block_size=8}(w, s)", READ, inputs=X, w=W, s=np.ones((4, 48), np.float32)
            ),
            "scale",
        ),
        (
            graph("d = DequantizeLinear{axis=1}(w, s)", READ, inputs=X | {"s": "float[48]"}, w=W),
            "scale",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_left_alone(model: ir.Model, rule: str) -> None:
    assert [miss.rule for miss in misses(WidenFloat8(), model)] == [rule]


def test_a_second_application_finds_nothing() -> None:
    model = graph("d = DequantizeLinear{axis=1}(w, s)", READ, inputs=X, w=W, s=SCALE)
    apply(WidenFloat8(), model)
    assert WidenFloat8().apply(model, Context()).matches == 0
