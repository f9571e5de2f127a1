"""The many graphs around a softmax that are no attention, and why."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.attention.raise_attention import RaiseAttention
from tersor.tests.passes.raising.attention.spelled import FILLED, FLIP, GUARD, KEEP, MASK, MASKED, PLAIN, QKV, model
from tersor.tests.support import apply, misses

SOFT = "p = Softmax(s)"
OUT = "y = MatMul(p, v)"
REFUSED = [
    # the softmax
    ("rank", model("p = Softmax(s)", "y = MatMul(p, v)", s="float[keys]", v="float[keys, 16]")),
    ("rank", model(*PLAIN, **dict.fromkeys("qkv", "float"))),
    ("axis", model(FLIP, "s = MatMul(q, t)", "p = Softmax{axis=2}(s)", OUT)),
    ("axis", model(FLIP, "s = MatMul(q, t)", "p = Softmax{axis=-2}(s)", OUT)),
    # the scores
    ("scores", model("p = Softmax(q)", OUT, q="float[batch, 4, queries, keys]")),
    ("scores", model(FLIP, "s = MatMul(q, t)", "r = Relu(s)", "p = Softmax(r)", OUT)),
    ("rank", model(FLIP, "s = my.MatMul(q, t)", SOFT, OUT)),
    (
        "scores",
        graph(
            "s = MatMul(q, w)",
            SOFT,
            "y = MatMul(p, v)",
            inputs={"q": "float[batch, 4, queries, 8]", "v": "float[batch, 4, 8, 16]"},
            w=np.ones((8, 8), np.float32),
        ),
    ),
    ("scale", model(FLIP, "s = MatMul(q, t)", "d = Mul(s, h)", "p = Softmax(d)", OUT, h="float[4, 1, 1]")),
    ("scale", model(FLIP, "s = MatMul(q, t)", "d = Div(0.5, s)", "p = Softmax(d)", OUT)),
    ("scale", model(FLIP, "s = MatMul(q, t)", "d = Mul(0.0, s)", "p = Softmax(d)", OUT)),
    ("scale", model(FLIP, "s = MatMul(q, t)", "d = Mul(-0.5, s)", "p = Softmax(d)", OUT)),
    ("scale", model(FLIP, "s = MatMul(q, t)", "d = Mul(inf, s)", "p = Softmax(d)", OUT)),
    ("scale", model(FLIP, "s = MatMul(q, t)", "h = Tanh(s)", "g = Mul(h, 0.0)", "p = Softmax(g)", OUT)),
    # the mask
    ("mask", model(FLIP, "s = MatMul(q, t)", "a = Add(s, s)", "p = Softmax(a)", OUT)),
    ("mask", model(*MASKED, m="float[]")),
    ("mask", model(*MASKED, m="float[batch, 1, queries, 1]")),
    ("rank", model(*MASKED, m="float")),
    (
        "mask",
        model(*MASKED, m="float[3, 1, 1, keys]", **{name: kind.replace("batch", "1") for name, kind in QKV.items()}),
    ),
    # the probabilities
    ("probabilities", model(*PLAIN, outputs=["p", "y"])),
    ("probabilities", model(*PLAIN, "z = Neg(p)")),
    ("probabilities", model(*PLAIN[:-1], *GUARD, outputs=["p", "y"])),
    ("probabilities", model(*PLAIN[:-1], *GUARD, "z = Neg(p)")),
    ("probabilities", model(*PLAIN[:-1], *GUARD, "z = Neg(g)")),
    ("guard", model(*PLAIN[:-1], "n = IsNaN(p)", "g = Where(n, 1.0, p)", "y = MatMul(g, v)")),
    ("guard", model(*PLAIN[:-1], "n = IsNaN(d)", "g = Where(n, 0.0, p)", "y = MatMul(g, v)")),
    ("guard", model(*PLAIN[:-1], "n = IsInf(p)", "g = Where(n, 0.0, p)", "y = MatMul(g, v)")),
    ("guard", model(*PLAIN[:-1], "n = IsNaN(p)", "g = Where(n, p, 0.0)", "y = MatMul(g, v)")),
    (
        "guard",
        model(
            *PLAIN[:-1],
            "n = IsNaN(w)",
            "g = Where(n, 0.0, p)",
            "z = Relu(p)",
            "y = MatMul(g, v)",
            w="float[batch, 4, queries, keys]",
        ),
    ),
    ("values", model(*PLAIN[:-1], "y = MatMul(v, p)", v="float[batch, 4, 16, queries]")),
    ("values", model(*PLAIN[:-1], "y = Relu(p)")),
    ("values", model(*PLAIN[:-1], "y = my.MatMul(p, v)")),
    # the operands
    ("keys", model(*PLAIN, k="float[batch, 1, keys, 8]")),
    ("values", model(*PLAIN, v="float[batch, 1, keys, 16]")),
    ("values", model(*PLAIN, v="float[keys, 16]")),
    ("heads", model(*PLAIN, **{name: kind.replace("4", "heads") for name, kind in QKV.items()})),
    ("queries", model(*PLAIN, q="float[1, 4, queries, 8]")),
    ("keys", model(*PLAIN, k="float[1, 4, keys, 8]")),
    ("values", model(*PLAIN, v="float[1, 4, keys, 16]")),
    # soft caps and masked fills
    ("softcap", model(FLIP, "s = MatMul(q, t)", "a = Add(s, m)", "h = Tanh(a)", "p = Softmax(h)", OUT)),
    ("softcap", model(FLIP, "s = MatMul(q, t)", "g = Tanh(s)", "h = Tanh(g)", "p = Softmax(h)", OUT)),
    ("mask", model(FLIP, "s = MatMul(q, t)", "a = Where(c, s, -10000.0)", "p = Softmax(a)", OUT, c=KEEP)),
    ("mask", model(FLIP, "s = MatMul(q, t)", "a = Where(c, s, w)", "p = Softmax(a)", OUT, c=KEEP, w=MASK["m"])),
    ("mask", model(FLIP, "s = MatMul(q, t)", "a = Where(c, s, inf)", "p = Softmax(a)", OUT, c=KEEP)),
    ("guard", model(*FILLED[:-1], "g = Where(b, p, 0.0)", "y = MatMul(g, v)", c=KEEP, b=KEEP)),
    ("guard", model(*FILLED[:-1], "g = Where(c, 0.0, p)", "y = MatMul(g, v)", c=KEEP)),
    ("guard", model(*FILLED[:-1], "g = Where(c, p, 1.0)", "y = MatMul(g, v)", c=KEEP)),
    (
        "mask",
        model(
            *(FLIP, "r = Mul(q, -1.0)", "s = MatMul(r, t)", "a = Where(c, s, -inf)", "b = Mul(a, -1.0)"),
            *("p = Softmax(b)", OUT),
            c=KEEP,
        ),
    ),
    (
        "mask",
        model(FLIP, "s = MatMul(q, t)", "a = Where(c, s, -1e30)", "b = Mul(a, 0.1)", "p = Softmax(b)", OUT, c=KEEP),
    ),
    (
        "guard",
        model(
            *(FLIP, "s = MatMul(q, t)", "a = Where(c, s, -1e30)", "e = Where(d, a, -1e30)", "p = Softmax(e)"),
            *("g = Where(c, p, 0.0)", "y = MatMul(g, v)"),
            c=KEEP,
            d=KEEP,
        ),
    ),
    # rearranged scores
    (
        "layout",
        model(
            FLIP,
            "s = MatMul(q, t)",
            "r = Reshape(s, [2, 4, 5, 6])",
            "p = Softmax(r)",
            "u = Reshape(p, [2, 4, 6, 5])",
            "y = MatMul(u, v)",
            q="float[2, 4, 6, 8]",
            k="float[2, 4, 5, 8]",
            v="float[2, 4, 5, 16]",
        ),
    ),
    (
        "axis",
        model(
            FLIP,
            "s = MatMul(q, t)",
            "r = Transpose{perm=[0, 1, 3, 2]}(s)",
            "p = Softmax(r)",
            OUT,
            v="float[batch, 4, queries, 16]",
        ),
    ),
    (
        "layout",
        model(
            FLIP,
            "s = MatMul(q, t)",
            SOFT,
            "r = Transpose{perm=[0, 1, 3, 2]}(p)",
            "y = MatMul(r, v)",
            v="float[batch, 4, queries, 16]",
        ),
    ),
    (
        "layout",
        model(
            FLIP,
            "s = MatMul(q, t)",
            SOFT,
            "r = Transpose{perm=[1, 0, 2, 3]}(p)",
            "y = MatMul(r, v)",
            v="float[4, batch, keys, 16]",
        ),
    ),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseAttention(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseAttention(), made) == before


def test_leaves_a_softmax_of_another_domain_alone() -> None:
    assert misses(RaiseAttention(), model(*[line.replace("Softmax", "my.Softmax") for line in PLAIN])) == []
