"""Attention, quantized weights, and ends that hold: what is free is as good as zero."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.tests.ir.axes.support import Case, assert_case, weight
from tersor.tests.support import on_onnxruntime

RNG = np.random.default_rng(0)

ROWS = {"x": "float[2, 4, 5]"}
PROJECTIONS = ("q = MatMul(x, w)", "k = MatMul(x, u)", "v = MatMul(x, t)")
HEADS = ("qr = Reshape(q, [0, 0, 4, 6])", "kr = Reshape(k, [0, 0, 4, 6])", "vr = Reshape(v, [0, 0, 4, 6])")
TURNED = tuple(f"{name}t = Transpose{{perm=[0, 2, 1, 3]}}({name}r)" for name in "qkv")
BACK = ("ot = Transpose{perm=[0, 2, 1, 3]}(o)", "f = Reshape(ot, [0, 0, 24])", "y = MatMul(f, z)")
MATRICES = {"w": weight(5, 24), "u": weight(5, 24), "t": weight(5, 24), "z": weight(24, 3)}

ATTENTION = [
    Case("four axes", (*PROJECTIONS, *HEADS, *TURNED, "o = Attention(qt, kt, vt)", *BACK), ROWS, MATRICES, [4, 6, 6]),
    Case(
        "queries and keys that are never zero",
        (
            *PROJECTIONS,
            "qs = Sigmoid(q)",
            "ks = Exp(k)",
            "o = Attention{q_num_heads=4, kv_num_heads=4}(qs, ks, v)",
            "y = MatMul(o, z)",
        ),
        ROWS,
        MATRICES,
        [4, 6],
    ),
    Case(
        "a mask for each head",
        (*PROJECTIONS, "o = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v, m)", "y = MatMul(o, z)"),
        ROWS,
        {**MATRICES, "m": weight(1, 4, 4, 4)},
        [4, 6, 6],
    ),
    Case(
        "a mask for each sequence",
        (*PROJECTIONS, "o = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v, m)", "y = MatMul(o, z)"),
        ROWS,
        {**MATRICES, "m": weight(2, 1, 4, 4)},
        [4, 6, 6],
    ),
    Case(
        "a mask for all heads",
        (*PROJECTIONS, "o = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v, m)", "y = MatMul(o, z)"),
        ROWS,
        {**MATRICES, "m": weight(4, 4)},
        [4, 6, 6],
    ),
    Case(
        "a mask for each head by groups",
        (
            "q = MatMul(x, w)",
            "k = MatMul(x, u)",
            "v = MatMul(x, t)",
            "o = Attention{q_num_heads=6, kv_num_heads=3}(q, k, v, m)",
            "y = MatMul(o, z)",
        ),
        ROWS,
        {"w": weight(5, 24), "u": weight(5, 12), "t": weight(5, 12), "z": weight(24, 3), "m": weight(1, 6, 4, 4)},
        [3, 4, 4],
    ),
    Case(
        "one head of keys",
        (
            "q = MatMul(x, w)",
            "k = MatMul(x, u)",
            "v = MatMul(x, t)",
            "o = Attention{q_num_heads=4, kv_num_heads=1}(q, k, v)",
            "y = MatMul(o, z)",
        ),
        ROWS,
        {"w": weight(5, 24), "u": weight(5, 6), "t": weight(5, 3), "z": weight(12, 3)},
        [3, 6],
    ),
    Case(
        "keys and values of before, and after",
        (*PROJECTIONS, "o, pk, pv = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v, _, ok, ov)", "y = MatMul(o, z)"),
        {**ROWS, "ok": "float[2, 4, past, 6]", "ov": "float[2, 4, past, 6]"},
        MATRICES,
        [],
        outputs=(
            "y",
            "pk",
            "pv",
        ),
    ),
    Case(
        "keys of before that are weights",
        (*PROJECTIONS, "o, pk, pv = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v, _, ok, ov)", "y = MatMul(o, z)"),
        ROWS,
        {**MATRICES, "ok": weight(2, 4, 3, 6), "ov": weight(2, 4, 3, 6)},
        [4, 6, 6],
    ),
    Case(
        "keys that are a weight",
        (
            "q = MatMul(x, w)",
            "v = MatMul(x, t)",
            "o = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v)",
            "y = MatMul(o, z)",
        ),
        ROWS,
        {"w": weight(5, 24), "t": weight(5, 24), "k": weight(2, 4, 24), "z": weight(24, 3)},
        [4, 6, 6],
    ),
    Case(
        "values that are a weight",
        (*PROJECTIONS[:2], "o = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v)", "y = MatMul(o, z)"),
        ROWS,
        {"w": weight(5, 24), "u": weight(5, 24), "v": weight(2, 4, 24), "z": weight(24, 3)},
        [4, 6, 6],
    ),
    Case(
        "values of another width",
        (*PROJECTIONS, "o = Attention{q_num_heads=4, kv_num_heads=4, scale=0.3}(q, k, v)", "y = MatMul(o, z)"),
        ROWS,
        {"w": weight(5, 24), "u": weight(5, 24), "t": weight(5, 12), "z": weight(12, 3)},
        [3, 4, 6],
    ),
    Case(
        "rotated",
        (
            *PROJECTIONS,
            "qx = RotaryEmbedding{num_heads=4}(q, co, si)",
            "kx = RotaryEmbedding{num_heads=4}(k, co, si)",
            "o = Attention{q_num_heads=4, kv_num_heads=4}(qx, kx, v)",
            "y = MatMul(o, z)",
        ),
        ROWS,
        {**MATRICES, "co": weight(2, 4, 3), "si": weight(2, 4, 3)},
        [4, 6],
    ),
    Case(
        "rotated in part, by position",
        (
            *PROJECTIONS,
            *HEADS,
            *TURNED,
            "qx = RotaryEmbedding{rotary_embedding_dim=4}(qt, co, si, pos)",
            "kx = RotaryEmbedding{rotary_embedding_dim=4}(kt, co, si, pos)",
            "o = Attention(qx, kx, vt)",
            *BACK,
        ),
        {**ROWS, "pos": "int64[2, 4]"},
        {**MATRICES, "co": weight(9, 2), "si": weight(9, 2)},
        [4, 6],
    ),
    Case(
        "normalized queries and keys",
        (
            *PROJECTIONS,
            *HEADS,
            "qn = LayerNormalization{axis=-1}(qr, g, h)",
            "kn = LayerNormalization{axis=-1}(kr, g, h)",
            "qt = Transpose{perm=[0, 2, 1, 3]}(qn)",
            "kt = Transpose{perm=[0, 2, 1, 3]}(kn)",
            TURNED[2],
            "o = Attention(qt, kt, vt)",
            *BACK,
        ),
        ROWS,
        {**MATRICES, "g": weight(6), "h": weight(6)},
        [4, 6],
    ),
    Case(
        "a kernel in place of the scores",
        (
            *PROJECTIONS,
            *HEADS,
            "qe = Elu(qr)",
            "ke = Elu(kr)",
            "qp = Add(qe, one)",
            "kp = Add(ke, one)",
            's = Einsum{equation="nlhd,nlhm->nhdm"}(kp, vr)',
            'o = Einsum{equation="nlhd,nhdm->nlhm"}(qp, s)',
            "f = Reshape(o, [0, 0, 24])",
            "y = MatMul(f, z)",
        ),
        ROWS,
        {**MATRICES, "one": 1.0},
        [4, 6],
    ),
    Case(
        "letters that stand twice",
        (
            "a = MatMul(x, w)",
            "b = Reshape(a, [0, 0, 4, 6])",
            'd = Einsum{equation="nihd,njhd->nhij"}(b, b)',
            'y = Einsum{equation="nhij,hm->nijm"}(d, e)',
        ),
        ROWS,
        {"w": weight(5, 24), "e": weight(4, 3)},
        [4, 6],
    ),
]

QUANTIZED = [
    Case(
        "one scale for all",
        ("d = DequantizeLinear(w, s, z)", "a = MatMul(x, d)", "y = MatMul(a, v)"),
        {"x": "float[n, 5]"},
        {"w": RNG.integers(-9, 9, (5, 8)).astype(np.int8), "s": 0.5, "z": np.array(0, np.int8), "v": weight(8, 3)},
        [8],
    ),
    Case(
        "blocks of a scale",
        ("d = DequantizeLinear{axis=0, block_size=3}(w, s)", "a = MatMul(x, d)", "y = MatMul(a, v)"),
        {"x": "float[n, 6]"},
        {"w": RNG.integers(-9, 9, (6, 8)).astype(np.int8), "s": np.abs(weight(2, 8)), "v": weight(8, 3)},
        [],
    ),
    Case(
        "activations and back",
        (
            "a = MatMul(x, w)",
            "q = QuantizeLinear(a, s, z)",
            "b = DequantizeLinear(q, s, z)",
            "y = ReduceSum{keepdims=0}(b, [-1])",
        ),
        {"x": "float[n, 5]"},
        {"w": weight(5, 8), "s": 0.1, "z": np.array(3, np.uint8)},
        [8],
    ),
    Case(
        "activations as numbers",
        ("a = MatMul(x, w)", "q = QuantizeLinear(a, s, z)", "b = Cast{to=1}(q)", "y = ReduceSum{keepdims=0}(b, [-1])"),
        {"x": "float[n, 5]"},
        {"w": weight(5, 8), "s": 0.1, "z": np.array(3, np.uint8)},
        [],
    ),
    Case(
        "scales found on the way",
        ("a = MatMul(x, w)", "q, s, z = DynamicQuantizeLinear(a)", "b = DequantizeLinear(q, s, z)", "y = MatMul(b, v)"),
        {"x": "float[n, 5]"},
        {"w": weight(5, 8), "v": weight(8, 3)},
        [],
    ),
]

ENDS = [
    Case(
        "an output on the way",
        ("a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)"),
        {"x": "float[n, 5]"},
        {"w": weight(5, 8), "v": weight(8, 3)},
        [],
        outputs=(
            "y",
            "a",
        ),
    ),
    Case(
        "a dynamic dimension that may be one",
        ("a = MatMul(x, w)", "b = Add(a, z)", "y = MatMul(b, v)"),
        {"x": "float[n, 5]", "z": "float[n, m]"},
        {"w": weight(5, 8), "v": weight(8, 3)},
        [],
    ),
    Case(
        "an op of others",
        ("a = MatMul(x, w)", "b = com.microsoft.QuickGelu(a)", "y = MatMul(b, v)"),
        {"x": "float[n, 5]"},
        {"w": weight(5, 8), "v": weight(8, 3)},
        [],
        on_onnxruntime,
    ),
    Case(
        "a sequence",
        ("a = MatMul(x, w)", "s = SequenceConstruct(a, a)", "b = SequenceAt(s, c)", "y = MatMul(b, v)"),
        {"x": "float[n, 5]"},
        {"w": weight(5, 8), "v": weight(8, 3), "c": np.array(0)},
        [],
    ),
]


@pytest.mark.parametrize("case", [*ATTENTION, *QUANTIZED, *ENDS], ids=lambda case: case.name)
def test_what_is_free_is_as_good_as_zero(case: Case) -> None:
    assert_case(case)
