from __future__ import annotations

import platform

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.openvino.backend import OpenVino
from tersor.backends.openvino.decompose_attention import DecomposeAttention
from tersor.ir.compare import compare
from tersor.ir.text import graph
from tersor.passes.base import Context, Exact
from tersor.tests.support import apply, holds, misses

FOUR = dict.fromkeys("qkv", "float[batch, 4, sequence, 8]")
THREE = {"q": "float[batch, s, 32]", "k": "float[batch, t, 32]", "v": "float[batch, t, 16]"}
MASK = {"m": "bool[batch, 1, sequence, sequence]"}
FLOAT_MASK = {"m": "float[batch, 1, sequence, sequence]"}
PAST = {**FOUR, "pk": "float[batch, 4, past, 8]", "pv": "float[batch, 4, past, 8]"}
SHARED = dict.fromkeys("kv", "float[batch, 2, sequence, 8]")
SHARED_PAST = {**PAST, **SHARED, **dict.fromkeys(("pk", "pv"), "float[batch, 2, past, 8]")}
LOWEST = np.float32(np.finfo(np.float32).min)

VARIANTS = {
    "plain": graph("y = Attention(q, k, v)", inputs=FOUR),
    "scaled": graph("y = Attention{scale=0.3}(q, k, v)", inputs=FOUR),
    "masked": graph("y = Attention(q, k, v, m)", inputs={**FOUR, **MASK}),
    "added": graph("y = Attention(q, k, v, m)", inputs={**FOUR, **FLOAT_MASK}),
    "causal": graph("y = Attention{is_causal=1}(q, k, v)", inputs=FOUR),
    "causal and masked": graph("y = Attention{is_causal=1}(q, k, v, m)", inputs={**FOUR, **MASK}),
    "causal and added": graph("y = Attention{is_causal=1}(q, k, v, m)", inputs={**FOUR, **FLOAT_MASK}),
    "causal and lowest": graph(
        "a = Where(m, 0.0, lowest)",
        "y = Attention{is_causal=1}(q, k, v, a)",
        inputs={**FOUR, **MASK},
        lowest=LOWEST,
    ),
    "three dimensions": graph(
        "y = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v, m)",
        inputs={**THREE, "m": "bool[batch, 1, s, t]"},
    ),
    "expanded": graph(
        "n = Shape{start=2, end=3}(q)",
        "d = Concat{axis=0}([1, 1], n, [1])",
        "e = Expand(m, d)",
        "y = Attention(q, k, v, e)",
        inputs={**FOUR, "m": "bool[batch, 1, 1, sequence]"},
        outputs=["y"],
    ),
    "past": graph("(y, k2, v2) = Attention{is_causal=1}(q, k, v, _, pk, pv)", inputs=PAST, outputs=["y", "k2", "v2"]),
    "shared keys": graph("y = Attention(q, k, v, m)", inputs={**FOUR, **SHARED, **MASK}),
    "shared keys of a past": graph(
        "(y, k2, v2) = Attention{is_causal=1}(q, k, v, _, pk, pv)",
        inputs=SHARED_PAST,
        outputs=["y", "k2", "v2"],
    ),
    "shared keys, three dimensions": graph(
        "y = Attention{q_num_heads=4, kv_num_heads=1}(q, k, v, m)",
        inputs={**THREE, **dict.fromkeys("kv", "float[batch, t, 8]"), "m": "bool[batch, 1, s, t]"},
    ),
    "past unread": graph("(y, k2, v2) = Attention{is_causal=1}(q, k, v, _, pk, pv)", inputs=PAST, outputs=["y"]),
}


def test_the_transpositions_in_front_become_its_own() -> None:
    model = graph(
        "q = Transpose{perm=[0, 2, 1, 3]}(a)",
        "k = Transpose{perm=[0, 2, 1, 3]}(b)",
        "v = Transpose{perm=[0, 2, 1, 3]}(c)",
        "y = Attention{scale=0.5}(q, k, v, m)",
        inputs={**dict.fromkeys("abc", "float[batch, sequence, 4, 8]"), **MASK},
    )
    assert apply(DecomposeAttention(), model) == [
        "y/Mul = Mul(a, y/scale)",
        "y/Transpose = Transpose{perm=[0, 2, 1, 3]}(c)",
        "y/Transpose_1 = Transpose{perm=[0, 2, 3, 1]}(b)",
        "y/Transpose_2 = Transpose{perm=[0, 2, 1, 3]}(y/Mul)",
        "y/MatMul = MatMul(y/Transpose_2, y/Transpose_1)",
        "y/Where = Where(m, y/zero, y/low)",
        "y/Cast = Cast{to=1}(m)",
        "y/Add = Add(y/MatMul, y/Where)",
        "y/Softmax = Softmax{axis=-1}(y/Add)",
        "y/Mul_1 = Mul(y/Softmax, y/Cast)",
        "y = MatMul(y/Mul_1, y/Transpose)",
    ]


def test_a_mask_is_read_before_it_was_expanded() -> None:
    after = apply(DecomposeAttention(), VARIANTS["expanded"].clone())
    assert "y/Where = Where(m, y/zero, y/low)" in after
    assert not any("Expand" in line for line in after)


def test_a_mask_that_cannot_rule_out_a_row_is_only_added() -> None:
    model = graph("y = Attention(q, k, v, m)", inputs=FOUR, m=np.array([[0, -1e9]], np.float32).repeat(8, axis=1))
    after = apply(DecomposeAttention(), model)
    assert not any("Where" in line or "Cast" in line for line in after)


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (graph("y = Attention{softcap=2.0}(q, k, v)", inputs=FOUR), "softcap"),
        (graph("y = Attention(q, k, v)"), "types"),
        (graph("y = Attention(q, k, v)", inputs={**FOUR, "k": "float[b, h, s, 8]", "v": "float[b, h, s, 8]"}), "heads"),
        (graph("y = Attention(q, k, v)", inputs={**FOUR, "k": "float[b, 2, s, 8]", "v": "float[b, 2, s, d]"}), "size"),
        (graph("y = Attention(q, k, v)", inputs=dict.fromkeys("qkv", "float[b, 4, s, d]")), "scale"),
        (graph("(y, a, b, scores) = Attention(q, k, v)", inputs=FOUR, outputs=["y", "scores"]), "outputs"),
        (graph("y = Attention(q, k, v, _, _, _, n)", inputs={**FOUR, "n": "int64[b]"}, opset=24), "inputs"),
    ],
)
def test_leaves_alone(model: ir.Model, rule: str) -> None:
    assert [miss.rule for miss in misses(DecomposeAttention(), model)] == [rule]


@pytest.mark.parametrize("variant", VARIANTS)
def test_holds_numerically(variant: str) -> None:
    holds(DecomposeAttention(), VARIANTS[variant].clone())


@pytest.mark.parametrize("variant", ["masked", "added", "causal and masked", "causal and added"])
def test_a_row_that_may_attend_to_nothing_is_zero_in_openvino_too(variant: str) -> None:
    pytest.importorskip("openvino")
    model = VARIANTS[variant].clone()
    rng = np.random.default_rng(0)
    allowed = rng.random((2, 1, 5, 5)) < 0.6
    allowed[:, :, 2] = False
    added = np.where(allowed, rng.standard_normal(allowed.shape), -np.inf).astype(np.float32)
    feeds = {name: rng.standard_normal((2, 4, 5, 8)).astype(np.float32) for name in "qkv"}
    feeds["m"] = allowed if "masked" in variant else added
    before = model.clone()
    assert DecomposeAttention().apply(model, Context()).matches == 1
    got = OpenVino().compile(model).run(feeds)["y"]
    assert (got[:, :, 2] == 0).all()
    assert np.isfinite(got).all()
    assert compare(before, OpenVino().compile(model), feeds).relative_l2 <= Exact().tolerance


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the kernel is one for x86")
def test_openvino_guards_nothing_behind_it() -> None:
    openvino = pytest.importorskip("openvino")
    model = graph(
        "q = Transpose{perm=[0, 2, 1, 3]}(a)",
        "k = Transpose{perm=[0, 2, 1, 3]}(b)",
        "v = Transpose{perm=[0, 2, 1, 3]}(c)",
        "z = Attention{scale=0.5}(q, k, v, m)",
        "y = Transpose{perm=[0, 2, 1, 3]}(z)",
        inputs={**dict.fromkeys("abc", "float[batch, sequence, 4, 8]"), **MASK},
    )

    def guards(made: ir.Model) -> int:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(ir.to_proto(made).SerializeToString()), "CPU")
        names = [op.get_rt_info()["originalLayersNames"].astype(str) for op in compiled.get_runtime_model().get_ops()]
        return sum("IsNaN" in name for name in names)

    assert guards(model) == 1
    apply(DecomposeAttention(), model)
    assert guards(model) == 0
