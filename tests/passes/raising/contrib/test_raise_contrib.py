"""ONNX Runtime's ops and what each stands for, held to ONNX Runtime itself running the op."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.provenance import sources
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.raising.contrib.raise_contrib import RaiseContrib
from tersor.tests.passes.raising.contrib.cases import (
    CACHE,
    CIRCLE,
    MS,
    PROJECTED,
    QKV,
    Arrays,
    X,
    agrees,
    bytes_,
    grouped,
    model,
    normal,
    run,
)
from tersor.tests.support import apply, distance, inside_if, misses, on_onnxruntime

B = {"b": normal(8)}
TWO = X | {"s": normal(2, 3, 8, seed=1)}
NORM = {"g": normal(8), "c": normal(8, seed=1), "b": normal(8, seed=2)}
ELEMENTWISE = [
    ("y = Gelu(x)", X, {}, "Gelu"),
    ("y = FastGelu(x)", X, {}, "Gelu"),
    ("y = FastGelu(x, b)", X, B, "Add Gelu"),
    ("y = BiasGelu(x, b)", X, B, "Add Gelu"),
    ("y = QuickGelu(x)", X, {}, "Mul Sigmoid Mul"),
    ("y = QuickGelu{alpha=1.0}(x)", X, {}, "Sigmoid Mul"),
    ("y = BiasSoftmax{axis=2, is_inner_broadcast=0}(x, b)", X, B, "Add Softmax"),
    ("y = SkipLayerNormalization{epsilon=1e-5}(x, s, g, c)", TWO, NORM, "Add LayerNormalization"),
    ("y = SkipLayerNormalization(x, s, g)", TWO, NORM, "Add LayerNormalization"),
    ("y = SkipLayerNormalization(x, s, g, c, b)", TWO, NORM, "Add Add LayerNormalization"),
    ("(y, _, _, t) = SkipLayerNormalization(x, s, g, c, b)", TWO, NORM, "Add Add LayerNormalization"),
    ("(y, _, _, t) = SkipLayerNormalization(x, s, g)", X | {"s": normal(3, 8)}, NORM, "Add LayerNormalization"),
    ("y = SkipLayerNormalization(x, s, g)", X | {"s": normal(1, 3, 8)}, NORM, "Add LayerNormalization"),
    ("y = SkipSimplifiedLayerNormalization{epsilon=1e-6}(x, s, g)", TWO, NORM, "Add RMSNormalization"),
    ("(y, _, _, t) = SkipSimplifiedLayerNormalization(x, s, g, b)", TWO, NORM, "Add Add RMSNormalization"),
]
A, W = {"a": normal(2, 3, 4, 5)}, normal(2, 3, 5, 6)
PRODUCTS = [
    ("y = FusedMatMul(a, w)", A, {"w": W}),
    ("y = FusedMatMul{alpha=0.5}(a, w)", A, {"w": W}),
    ("y = FusedMatMul{transA=1, alpha=0.25}(a, w)", {"a": normal(2, 3, 5, 4)}, {"w": W}),
    ("y = FusedMatMul{transB=1}(a, w)", A, {"w": normal(2, 3, 6, 5)}),
    ("y = FusedMatMul{transA=1, transB=1}(a, w)", {"a": normal(2, 3, 5, 4)}, {"w": normal(2, 3, 6, 5)}),
    ("y = FusedMatMul{transBatchA=1}(a, w)", {"a": normal(4, 2, 3, 5)}, {"w": W}),
    ("y = FusedMatMul{transBatchA=1, transA=1}(a, w)", {"a": normal(5, 2, 3, 4)}, {"w": W}),
    ("y = FusedMatMul{transBatchB=1, transB=1}(a, w)", A, {"w": normal(6, 2, 3, 5)}),
    ("y = FusedMatMul{transB=1}(a, w)", {"a": normal(4, 5)}, {"w": normal(6, 5)}),
    ("y = TransposeMatMul{transA=1}(a, w)", {"a": normal(2, 3, 5, 4)}, {"w": W}),
    ("y = FusedGemm{activation='Relu', transB=1, alpha=0.5, beta=2.0}(a, w, b)", {"a": normal(4, 5)},
     {"w": normal(6, 5), "b": normal(6)}),
    ("y = FusedGemm{activation='LeakyRelu', activation_alpha=0.3}(a, w)", {"a": normal(4, 5)}, {"w": normal(5, 6)}),
    ("y = FusedConv{activation='Relu', pads=[1, 1, 1, 1]}(a, w, b)", {"a": normal(1, 3, 6, 6)},
     {"w": normal(4, 3, 3, 3), "b": normal(4)}),
    ("y = FusedConv{activation='Clip', activation_params=[0.0, 1.0]}(a, w)", {"a": normal(1, 3, 6, 6)},
     {"w": normal(4, 3, 3, 3)}),
    ("y = FusedConv{activation='HardSigmoid', activation_params=[0.3, 0.4]}(a, w)", {"a": normal(1, 3, 6, 6)},
     {"w": normal(4, 3, 3, 3)}),
    ("y = FusedConv{activation='Relu'}(a, w, b, z)", {"a": normal(1, 3, 6, 6), "z": normal(1, 4, 4, 4)},
     {"w": normal(4, 3, 3, 3), "b": normal(4)}),
]  # fmt: skip


class TestRewrites:
    def test_a_skip_connection(self) -> None:
        gains = {name: NORM[name] for name in "gc"}
        made = model("(y, _, _, t) = SkipLayerNormalization{epsilon=0.5}(x, s, g, c)", TWO, gains)
        assert apply(RaiseContrib(), made) == [
            "t = Add(x, s)",
            "y = LayerNormalization{axis=-1, epsilon=0.5}(t, g, c)",
        ]

    def test_packed_projections_come_apart(self) -> None:
        weights = {"w": normal(8, 24), "b": normal(24)}
        made = model("y = Attention{num_heads=2}(x, w, b)", X, weights)
        apply(RaiseContrib(), made)
        assert [node.op_type for node in made.graph] == ["MatMul"] * 3 + ["Add"] * 3 + ["Attention"]
        parts = [node.inputs[1].const_value.numpy() for node in made.graph if node.op_type == "MatMul"]
        np.testing.assert_array_equal(np.concatenate(parts, 1), weights["w"])

    def test_in_branches(self) -> None:
        found = apply(RaiseContrib(), inside_if(model("y = BiasGelu(x, b)", X, B)))
        assert [line.strip() for line in found if "Gelu" in line] == [
            "y_else = Gelu{approximate=none}(y_else/Add)",
            "y_then = Gelu{approximate=none}(y_then/Add)",
        ]

    def test_it_stands_for_what_it_replaced(self) -> None:
        made = model("y = BiasGelu(x, b)", X, B)
        apply(RaiseContrib(), made)
        assert {name for node in made.graph for name in sources(node)} == {"y"}

    def test_weights_are_cut_when_they_are_read(self) -> None:
        """Matching and rewriting read no large constant."""
        made = model("y = Attention{num_heads=2}(x, w)", X, {"w": normal(8, 24)})
        weight = made.graph.initializers["w"]

        def fail() -> ir.Tensor:
            raise AssertionError("the weight was read")

        weight.const_value = ir.LazyTensor(fail, dtype=ir.DataType.FLOAT, shape=ir.Shape([8, 24]), name="w")
        outcome = RaiseContrib().apply(made, Context())
        assert outcome.matches == 1


@pytest.mark.parametrize(("line", "feeds", "constants", "ops"), ELEMENTWISE, ids=[case[0] for case in ELEMENTWISE])
def test_elementwise_and_norms(line: str, feeds: Arrays, constants: Arrays, ops: str) -> None:
    used = {name: array for name, array in constants.items() if name in line.partition("(")[2]}
    agrees(line, feeds, used, ops=ops, kernel="BiasSoftmax" not in line)


@pytest.mark.parametrize(("line", "feeds", "constants"), PRODUCTS, ids=[case[0] for case in PRODUCTS])
def test_products(line: str, feeds: Arrays, constants: Arrays) -> None:
    agrees(line, feeds, constants)


def test_the_norm_in_the_standard_domain() -> None:
    made = graph("y = SimplifiedLayerNormalization{epsilon=1e-6}(x, g)", inputs={"x": "float[2, 3, 8]"}, g=NORM["g"])
    expected = on_onnxruntime(made, X)
    assert apply(RaiseContrib(), made) == ["y = RMSNormalization{axis=-1, epsilon=1e-06}(x, g)"]
    assert distance(run(made, X), expected) <= RaiseContrib.contract.tolerance


IDS = {"i": np.array([[3, 1, 4], [1, 5, 0]], np.int32)}
TABLES = {"w": normal(7, 8), "p": normal(5, 8), "t": normal(2, 8), "g": NORM["g"], "c": NORM["c"]}


@pytest.mark.parametrize(
    ("line", "more"),
    [
        ("(y, n) = EmbedLayerNormalization{epsilon=1e-5}(i, s, w, p, t, g, c, m)",
         {"s": np.array([[0, 1, 0], [1, 1, 0]], np.int32), "m": np.array([[1, 1, 1], [1, 1, 0]], np.int32)}),
        ("(y, n) = EmbedLayerNormalization(i, _, w, p, _, g, c)", {}),
        ("(y, _, e) = EmbedLayerNormalization(i, s, w, p, t, g, c)", {"s": np.ones((2, 3), np.int32)}),
        ("(y, n) = EmbedLayerNormalization(i, _, w, p, _, g, c, _, at)",
         {"at": np.array([[0, 2, 4], [4, 0, 1]], np.int32)}),
    ],
)  # fmt: skip
def test_embeddings(line: str, more: Arrays) -> None:
    used = {name: array for name, array in TABLES.items() if name != "t" or " t," in line}
    agrees(line, IDS | more, used)


Q = {"q": np.zeros((2, 3, 8), np.float32)}
REFUSED = [
    ("op", "y = PackedAttention{num_heads=2}(x, w, b, o, c)", dict.fromkeys("xwboc", X["x"]), {}),
    ("op", "y = BiasDropout(x, b)", X, B),
    ("bits", "y = MatMulNBits{K=32, N=2, bits=2, block_size=32}(x, w, s)", {"x": normal(1, 32)},
     {"w": bytes_(2, 1, 8), "s": normal(2, 1)}),
    ("weight", "y = MatMulNBits{K=32, N=2, bits=4, block_size=32}(x, w, s)",
     {"x": normal(1, 32), "w": bytes_(2, 1, 16)}, {"s": normal(2, 1)}),
    ("weight", "y = MatMulNBits{K=32, N=2, bits=4, block_size=16}(x, w, s)", {"x": normal(1, 32)},
     {"w": bytes_(2, 1, 16), "s": normal(2, 1)}),
    ("zeros", "y = MatMulNBits{K=32, N=2, bits=4, block_size=32}(x, w, s, z)", {"x": normal(1, 32)},
     {"w": bytes_(2, 1, 16), "s": normal(2, 1), "z": normal(2, 1)}),
    ("groups", "y = MatMulNBits{K=32, N=2, bits=4, block_size=32}(x, w, s, _, g)", {"x": normal(1, 32)},
     {"w": bytes_(2, 1, 16), "s": normal(2, 1), "g": np.zeros(32, np.int32)}),
    ("mask", "y = Attention{num_heads=2}(x, w, b, m)", X | {"m": np.zeros(5, np.int32)}, PROJECTED),
    ("weight", "y = Attention{num_heads=2}(x, w)", X, {"w": normal(8, 25)}),
    ("rotary", "y = Attention{num_heads=2, do_rotary=1}(x, w)", X, {"w": normal(8, 24)}),
    ("cache", "y = Attention{num_heads=2, past_present_share_buffer=1}(x, w)", X, {"w": normal(8, 24)}),
    ("mask", "(y, nk, nv) = MultiHeadAttention{num_heads=2}(q, k, v, _, m, _, pk, pv)",
     QKV | CACHE | {"m": np.zeros((2, 5), np.int32)}, {}),
    ("cache", "y = MultiHeadAttention{num_heads=2}(q, k, v, _, _, _, pk, pv, l)",
     QKV | CACHE | {"l": np.zeros(1, np.int32)}, {}),
    ("softmax", "y = GroupQueryAttention{num_heads=4, kv_num_heads=2, smooth_softmax=1}(q, k, v, _, _, n, t)",
     grouped(5, None, [5, 5]), {}),
    ("scale", "y = RotaryEmbedding{scale=2.0}(x, p, c, s)",
     {"x": normal(2, 3, 32), "p": np.array([3], np.int64)}, CIRCLE),
    ("mean", "(y, m) = SkipSimplifiedLayerNormalization(x, s, g)", TWO, {"g": NORM["g"]}),
    ("axis", "y = BiasSoftmax{axis=1, is_inner_broadcast=0}(x, b)", X, B),
    ("activation", "y = FusedConv{activation='Mystery'}(a, w)", {"a": normal(1, 3, 6, 6)}, {"w": normal(4, 3, 3, 3)}),
    ("scale", "y = QGemm(x, xs, xz, w, ws)", {"x": bytes_(3, 8)},
     {"xs": np.ones(3, np.float32), "xz": np.uint8(0), "w": bytes_(8, 6), "ws": np.float32(1)}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "line", "feeds", "constants"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)]
)
def test_leaves_alone(rule: str, line: str, feeds: Arrays, constants: Arrays) -> None:
    made = model(line, feeds, {name: np.asarray(array) for name, array in constants.items()})
    (miss,) = misses(RaiseContrib(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseContrib(), made) == before


def test_an_input_of_unknown_rank_is_left_alone() -> None:
    made = graph(f"y = {MS}FusedMatMul{{transA=1}}(a, b)")
    (miss,) = misses(RaiseContrib(), made)
    assert miss.rule == "rank"


def test_a_weight_that_the_caller_may_override_is_not_cut() -> None:
    made = model("y = Attention{num_heads=2}(x, w, b)", X, PROJECTED)
    weight = made.graph.initializers["w"]
    made.graph.inputs.append(weight)
    apply(RaiseContrib(), made)
    assert "Split" in [node.op_type for node in made.graph]
    assert distance(run(made, X), on_onnxruntime(model("y = Attention{num_heads=2}(x, w, b)", X, PROJECTED), X)) < 1e-5


def test_a_required_input_that_is_left_out_is_a_miss() -> None:
    made = graph("y = com.microsoft.QuickGelu(_)", inputs={"x": "float[2]"}, outputs=["y"])
    (miss,) = misses(RaiseContrib(), made)
    assert (miss.rule, miss.need) == ("inputs", "input 0")
