from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.backend import OnnxRuntime
from tersor.backends.onnxruntime.lowering import LOWERING
from tersor.backends.onnxruntime.rules.fuse_rounded_matmul import FuseRoundedMatMul
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph
from tersor.passes.base import Context, Exact
from tersor.passes.quantize.quantize_static import QuantizeStatic
from tersor.passes.run import run_pipeline
from tersor.passes.statistics import Calibration
from tersor.tests.support import apply, distance, holds, misses, on_onnxruntime

X = {"a": "float[batch, 3, 8]", "b": "float[batch, 5, 8]"}
LEFT = ("p = QuantizeLinear(a, s, z)", "c = DequantizeLinear(p, s, z)")
RIGHT = ("q = QuantizeLinear(b, t, n)", "d = DequantizeLinear(q, t, n)")
PRODUCT = ("e = Transpose{perm=[0, 2, 1]}(d)", "y = MatMul(c, e)")
HELD: dict[str, object] = {
    "s": np.float32(0.02).reshape(()),
    "t": np.float32(0.03).reshape(()),
    "z": np.array(100, np.uint8),
    "n": np.array(0, np.int8),
}


def model_of(*text: str, **changes: object) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    return graph(*text, inputs=X, **{name: value for name, value in (HELD | changes).items() if name in read})


def test_views_move_integers() -> None:
    assert apply(FuseRoundedMatMul(), model_of(*LEFT, *RIGHT, *PRODUCT)) == [
        LEFT[0],
        RIGHT[0],
        "y/Transpose = Transpose{perm=[0, 2, 1]}(q)",
        "y = com.microsoft.MatMulIntegerToFloat(p, y/Transpose, s, t, z)",
    ]


def test_a_zero_point_on_the_right_is_kept() -> None:
    found = apply(FuseRoundedMatMul(), model_of(*LEFT, *RIGHT, *PRODUCT, n=np.array(-3, np.int8)))
    assert found[-1] == "y = com.microsoft.MatMulIntegerToFloat(p, y/Transpose, s, t, z, n)"


def test_what_others_read_stays() -> None:
    found = apply(FuseRoundedMatMul(), model_of(*LEFT, *RIGHT, *PRODUCT, "o = Neg(e)"))
    assert PRODUCT[0] in found


def test_views_of_many_kinds() -> None:
    views = (
        "u = Unsqueeze(d, [1])", "x = Expand(u, [1, 2, 1, 1])", "r = Reshape(x, [0, 2, 5, 8])",
        "e = Transpose{perm=[0, 1, 3, 2]}(r)", "v = Unsqueeze(c, [1])", "y = MatMul(v, e)",
    )  # fmt: skip
    model = model_of(*LEFT, *RIGHT, *views)
    holds(FuseRoundedMatMul(), model)
    assert not {"MatMul", "DequantizeLinear"} & {
        line.split("(")[0].split()[-1] for line in apply(FuseRoundedMatMul(), model)
    }


@pytest.mark.parametrize("zero", [0, -3, 5])
def test_holds_on_onnxruntime(zero: int) -> None:
    model = model_of(*LEFT, *RIGHT, *PRODUCT, n=np.array(zero, np.int8))
    holds(FuseRoundedMatMul(), model)
    after, feeds = model.clone(), random_feeds(model, {"batch": 3})
    apply(FuseRoundedMatMul(), after)
    assert distance(on_onnxruntime(after, feeds), list(runner(model)(feeds).values())) < Exact().tolerance


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (model_of(*LEFT, "y = MatMul(c, w)", w=np.ones((8, 5), np.float32)), "side"),
        (model_of(*LEFT, "g = Neg(c)", *RIGHT, "e = Transpose{perm=[0, 2, 1]}(d)", "y = MatMul(g, e)"), "side"),
        (model_of(*LEFT, *RIGHT, *PRODUCT, z=np.array(3, np.int8)), "dtype"),
        (model_of(*LEFT, *RIGHT, *PRODUCT, n=np.array(3, np.uint8)), "dtype"),
        (
            model_of(
                *(line.replace("Linear(", "Linear{axis=2}(") for line in LEFT), *RIGHT, *PRODUCT,
                s=np.full(8, 0.02, np.float32), z=np.full(8, 9, np.uint8),
            ),
            "scale",
        ),
    ],
)  # fmt: skip
def test_leaves_alone(model: ir.Model, rule: str) -> None:
    assert [miss.rule for miss in misses(FuseRoundedMatMul(), model)] == [rule]


@pytest.mark.parametrize("options", [{}, {"type": "int8"}, {"shares": "row"}, {"headroom": "none"}])
def test_attention_runs_on_integers_as_the_graph_says(options: dict[str, object]) -> None:
    """With all of ONNX Runtime's own optimizations: no product of floats is left, and none is rounded otherwise."""
    model = graph(
        "y = Attention{q_num_heads=4, kv_num_heads=2, is_causal=1}(q, k, v)",
        inputs={"q": "float[batch, s, 32]", **dict.fromkeys("kv", "float[batch, s, 16]")},
    )
    feeds = random_feeds(model, {"batch": 2, "s": 40})
    QuantizeStatic(attention=True, **options).apply(model, Context(calibration=Calibration([feeds])))  # type: ignore[arg-type]
    quantized = model.clone()
    run_pipeline(LOWERING, model)
    ops = [node.op_type for node in model.graph]
    assert ops.count("MatMulIntegerToFloat") == 2
    assert not {"MatMul", "DequantizeLinear"} & {*ops}
    assert compare(runner(quantized), OnnxRuntime(threads=1).compile(model), feeds).relative_l2 < 0.005
