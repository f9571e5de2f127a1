"""Statically quantized activations on ONNX Runtime: unsigned, split by group, and multiplied as integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.backend import OnnxRuntime
from tersor.backends.onnxruntime.lowering import LOWERING
from tersor.backends.onnxruntime.rules.fuse_static_matmul import FuseStaticMatMul
from tersor.backends.onnxruntime.rules.split_feature_groups import SplitFeatureGroups
from tersor.backends.onnxruntime.rules.unsign_activations import UnsignActivations
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_static import QuantizeStatic
from tersor.passes.run import run_pipeline
from tersor.passes.statistics import Calibration
from tersor.tests.backends.test_quantized import encoder
from tersor.tests.support import apply, distance, holds, inside_if, misses, on_onnxruntime

RNG = np.random.default_rng(0)
X = {"x": "float[batch, sequence, 16]"}
Q8 = RNG.integers(-63, 64, (16, 24), dtype=np.int8)
ONE = np.float32(0.02).reshape(())
EACH = np.repeat(np.float32([0.01, 0.05, 0.02]), [5, 7, 4])[RNG.permutation(16)]
HELD: dict[str, object] = {
    "w": Q8,
    "s": (RNG.random(24) + 0.1).astype(np.float32),
    "b": RNG.standard_normal(24).astype(np.float32),
    "r": ONE,
    "z": np.array(100, np.uint8),
    "i": np.array(-28, np.int8),
    "g": EACH,
    "k": np.where(np.float32(0.01) == EACH, 90, 120).astype(np.uint8),
    "v": Q8[::-1].copy(),
}
ROUND = ("q = QuantizeLinear(x, r, z)", "d = DequantizeLinear(q, r, z)")
SIGNED = ("q = QuantizeLinear(x, r, i)", "d = DequantizeLinear(q, r, i)")
GROUPS = ("q = QuantizeLinear{axis=-1}(x, g, k)", "d = DequantizeLinear{axis=-1}(q, g, k)")
STORED = "e = DequantizeLinear{axis=1}(w, s)"
PRODUCT = (STORED, "p = MatMul(d, e)")


def model_of(*text: str, outputs: list[str] | None = None, **changes: object) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    return graph(
        *text, inputs=X, outputs=outputs, **{name: value for name, value in (HELD | changes).items() if name in read}
    )


class TestProducts:
    @pytest.mark.parametrize("add", ["", "y = Add(p, b)", "y = Add(b, p)"])
    def test_with_and_without_a_bias(self, add: str) -> None:
        found = apply(FuseStaticMatMul(), model_of(*ROUND, *PRODUCT, *([add] if add else [])))
        assert found == [
            ROUND[0],
            f"{'y' if add else 'p'} = com.microsoft.MatMulIntegerToFloat(q, w, r, s, z{', _, b' if add else ''})",
        ]

    def test_layers_that_share_an_activation_share_its_integers(self) -> None:
        model = model_of(*ROUND, *PRODUCT, "f = DequantizeLinear{axis=1}(v, s)", "o = MatMul(d, f)")
        assert [node.op_type for node in model.graph].count("QuantizeLinear") == 1
        apply(FuseStaticMatMul(), model)
        assert [node.op_type for node in model.graph] == ["QuantizeLinear", *["MatMulIntegerToFloat"] * 2]

    def test_in_branches(self) -> None:
        found = apply(FuseStaticMatMul(), inside_if(model_of(*ROUND, *PRODUCT)))
        assert sum("MatMulIntegerToFloat" in line for line in found) == 2

    @pytest.mark.parametrize(
        "model",
        [
            model_of("p = MatMul(x, e)", e=RNG.standard_normal((16, 24)).astype(np.float32)),
            model_of(STORED, "p = MatMul(x, e)"),
            model_of(*SIGNED, *PRODUCT),
            model_of(*GROUPS, *PRODUCT),
            model_of(ROUND[0], "d = DequantizeLinear(q, o, z)", *PRODUCT, o=np.float32(0.03).reshape(())),
            model_of(*ROUND, "e = DequantizeLinear{axis=0}(w, s)", "p = MatMul(d, e)", s=np.ones(16, np.float32)),
            model_of("(q, o, n) = DynamicQuantizeLinear(x)", "d = DequantizeLinear(q, o, n)", *PRODUCT),
        ],
    )
    def test_leaves_alone(self, model: ir.Model) -> None:
        before = lines(model)
        assert apply(FuseStaticMatMul(), model) == before
        assert {miss.rule for miss in misses(FuseStaticMatMul(), model)} <= {"layer"}

    @pytest.mark.parametrize("add", [(), ("y = Add(p, b)",)])
    def test_holds_on_onnxruntime(self, add: tuple[str, ...]) -> None:
        model = model_of(*ROUND, *PRODUCT, *add)
        holds(FuseStaticMatMul(), model)
        after, feeds = model.clone(), random_feeds(model, {"batch": 3, "sequence": 5})
        apply(FuseStaticMatMul(), after)
        assert distance(on_onnxruntime(after, feeds), list(runner(model)(feeds).values())) < 1e-6


class TestUnsigned:
    def test_the_grid_moves_up(self) -> None:
        model = model_of(*SIGNED, "y = Neg(d)")
        assert apply(UnsignActivations(), model) == [
            "d/QuantizeLinear = QuantizeLinear(x, r, d/zero_point)",
            "d = DequantizeLinear(d/QuantizeLinear, r, d/zero_point)",
            "y = Neg(d)",
        ]
        zero = model.graph.initializers["d/zero_point"].const_value.numpy()
        assert (zero, zero.dtype) == (100, np.uint8)

    @pytest.mark.parametrize(
        "text",
        [
            SIGNED,
            ("q = QuantizeLinear{axis=-1}(x, g, n)", "d = DequantizeLinear{axis=-1}(q, g, n)"),
            ("q = QuantizeLinear{output_dtype=3}(x, r)", "d = DequantizeLinear(q, r)"),
            (SIGNED[0], "d = DequantizeLinear(q, o, i)"),
            (*SIGNED, "t = Transpose{perm=[0, 2, 1]}(x)", "y = MatMul(d, t)"),
            (*SIGNED, "t = Transpose{perm=[0, 2, 1]}(d)", "y = MatMul(l, t)"),
        ],
    )
    def test_holds(self, text: tuple[str, ...]) -> None:
        own = {"n": np.full(16, -9, np.int8), "o": np.float32(0.005).reshape(()), "l": np.ones((3, 16), np.float32)}
        assert holds(UnsignActivations(), model_of(*text, **own)) == 0

    @pytest.mark.parametrize(
        ("text", "rule"),
        [
            (ROUND, "dtype"),
            ((SIGNED[0], "d = Cast{to=1}(q)"), "readers"),
            ((SIGNED[0], "d = DequantizeLinear(q, r, n)"), "grid"),
            ((*SIGNED, "t = Transpose{perm=[0, 2, 1]}(d)", "y = MatMul(x, t)"), "side"),
        ],
    )
    def test_leaves_alone(self, text: tuple[str, ...], rule: str) -> None:
        assert [miss.rule for miss in misses(UnsignActivations(), model_of(*text, n=np.array(3, np.int8)))] == [rule]


class TestGroups:
    def test_a_product_for_each_group(self) -> None:
        model = model_of(*GROUPS, *PRODUCT, "y = Add(p, b)")
        apply(SplitFeatureGroups(), model)
        ops = [node.op_type for node in model.graph]
        assert ops == ["Gather", "Split", *["QuantizeLinear", "MatMulIntegerToFloat"] * 3, "Sum"]

    def test_features_that_lie_by_group_are_not_moved(self) -> None:
        scale = np.repeat(np.float32([0.01, 0.05]), 8)
        model = model_of(*GROUPS, *PRODUCT, g=scale, k=np.repeat(np.uint8([3, 4]), 8))
        apply(SplitFeatureGroups(), model)
        assert "Gather" not in [node.op_type for node in model.graph]

    def test_what_no_product_of_integers_reads_is_spelled(self) -> None:
        model = model_of(*GROUPS, "y = MatMul(d, e)", e=RNG.standard_normal((16, 8)).astype(np.float32))
        apply(SplitFeatureGroups(), model)
        assert [node.op_type for node in model.graph] == ["QuantizeLinear", "Cast", "Sub", "Mul", "MatMul"]

    def test_more_groups_than_are_worth_it_are_spelled(self) -> None:
        model = graph(
            "q = QuantizeLinear{axis=-1}(x, g)", "d = DequantizeLinear{axis=-1}(q, g)", STORED, "p = MatMul(d, e)",
            inputs={"x": "float[n, 24]"}, g=np.linspace(0.1, 1, 24).astype(np.float32), w=np.ascontiguousarray(Q8.T),
            s=np.ones(16, np.float32),
        )  # fmt: skip
        apply(SplitFeatureGroups(), model)
        assert [node.op_type for node in model.graph] == ["QuantizeLinear", "Cast", "Mul", "DequantizeLinear", "MatMul"]

    @pytest.mark.parametrize(
        "text", [(*GROUPS, *PRODUCT), (*GROUPS, *PRODUCT, "y = Add(p, b)"), (*GROUPS, *PRODUCT, "u = Neg(d)")]
    )
    def test_holds(self, text: tuple[str, ...]) -> None:
        model = model_of(*text)
        holds(SplitFeatureGroups(), model)
        after, feeds = model.clone(), random_feeds(model, {"batch": 3, "sequence": 5})
        apply(SplitFeatureGroups(), after)
        assert distance(on_onnxruntime(after, feeds), list(runner(model)(feeds).values())) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {}, {"type": "int8"}, {"type": "int8", "symmetric": True}, {"type": "uint16"}, {"type": "float8_e4m3fn"},
        {"range": "min-max", "groups": 4}, {"range": "min-max", "groups": 64}, {"bits": 4, "group": 32}, {"bits": 3},
        {"granularity": "tensor"}, {"correct": "bias"}, {"embeddings": True},
    ],
)  # fmt: skip
def test_the_runtimes_own_fusions_round_as_the_graph_does(options: dict[str, object]) -> None:
    """With all of ONNX Runtime's optimizations, as users run it.

    Sums of integers are exact; what floats lose moves a few numbers to the next point of a grid.
    """
    model = encoder()
    feeds = [random_feeds(model, {"batch": 3, "sequence": 20}, seed=seed) for seed in range(4)]
    QuantizeStatic(smallest=1, **options).apply(model, Context(calibration=Calibration(feeds[:3])))  # type: ignore[arg-type]
    quantized = model.clone()
    run_pipeline(LOWERING, model)
    session = OnnxRuntime(threads=1).compile(model)
    assert compare(runner(quantized), session, feeds[3:]).relative_l2 < 0.005
