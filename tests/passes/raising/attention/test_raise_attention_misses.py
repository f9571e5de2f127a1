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
TURNED = "y = MatMul(r, v)"
SOFTMAX = ("p = Softmax(d)", OUT)
BACK = ("r = CastLike(p, v)", TURNED)
FOUR = {"q": "float[4, 4, 6, 8]", "k": "float[4, 4, 5, 8]", "v": "float[4, 4, 5, 16]"}
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
    ("rank", model(FLIP, "s = MatMul(q, t)", "d = Reshape(s, [4, 4, 6, 5])", *SOFTMAX, **FOUR | {"q": "float"})),
    (
        "rank",
        model(
            *("s = MatMul(q, k)", "d = Reshape(s, [1, 5])", *SOFTMAX),
            q="float[8]",
            k="float[8, 5]",
            v="float[5, 16]",
        ),
    ),
    ("queries", model(FLIP, "s = MatMul(q, t)", SOFT, OUT, q="float[8]", k="float[2, 4, 5, 8]", v="float[2, 5, 16]")),
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
    ("mask", model(*MASKED, m="float[batch, ?, queries, keys]")),
    ("mask", model(*MASKED, m="float[1, 1, 1, 1, keys]")),
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
    ("guard", model(*PLAIN[:-1], "n = IsNaN(p)", "g = Where(n, [[[[[0.0]]]]], p)", "y = MatMul(g, v)")),
    ("values", model(*PLAIN[:-1], "y = my.MatMul(p, v)")),
    ("values", model(*PLAIN[:-1], "y = MatMul(p, p)", k="float[batch, 4, queries, 8]")),
    (
        "precision",
        model(
            *(FLIP, "s = MatMul(q, t)", "w = Cast{to=1}(s)", "p = Softmax(w)", "f = Cast{to=1}(v)", "y = MatMul(p, f)"),
            **{name: f"float16[batch, 4, {name}s, 8]" for name in "qk"},
            v="float16[batch, 4, ks, 16]",
        ),
    ),
    ("precision", model(*PLAIN[:-1], "c = Cast{to=10}(p)", "y = MatMul(c, v)", v="float16[batch, 4, keys, 16]")),
    ("precision", model(*PLAIN[:-1], "c = Cast{to=10}(p)", "r = Cast{to=1}(c)", TURNED)),
    (
        "precision",
        model(
            *(
                FLIP,
                "s = MatMul(q, t)",
                "w = Cast{to=1}(s)",
                "p = Softmax(w)",
                "h = Cast{to=11}(p)",
                "y = MatMul(h, v)",
            ),
            **{name: f"float16[batch, 4, {name}s, 8]" for name in "qk"},
            v="double[batch, 4, ks, 16]",
        ),
    ),
    # the operands
    ("keys", model(*PLAIN, k="float[batch, 1, keys, 8]")),
    ("values", model(*PLAIN, v="float[batch, 1, keys, 16]")),
    ("values", model(*PLAIN, v="float[keys, 16]")),
    ("heads", model(*PLAIN, **{name: kind.replace("4", "heads") for name, kind in QKV.items()})),
    ("queries", model(*PLAIN, q="float[1, 4, queries, 8]")),
    ("keys", model(*PLAIN, k="float[1, 4, keys, 8]")),
    ("values", model(*PLAIN, v="float[1, 4, keys, 16]")),
    ("values", model(*PLAIN, v="float[keys]")),
    (
        "values",
        model(
            "t = Transpose{perm=[0, 2, 1]}(k)",
            *("s = MatMul(q, t)", SOFT, OUT),
            q="float[4, queries, 8]",
            k="float[4, keys, 8]",
        ),
    ),
    # soft caps and masked fills
    ("softcap", model(FLIP, "s = MatMul(q, t)", "a = Add(s, m)", "h = Tanh(a)", "p = Softmax(h)", OUT)),
    ("softcap", model(FLIP, "s = MatMul(q, t)", "g = Tanh(s)", "h = Tanh(g)", "p = Softmax(h)", OUT)),
    ("mask", model(FLIP, "s = MatMul(q, t)", "a = Where(c, s, -9000.0)", "p = Softmax(a)", OUT, c=KEEP)),
    ("mask", model(FLIP, "s = MatMul(q, t)", "a = Where(c, s, w)", "p = Softmax(a)", OUT, c=KEEP, w=MASK["m"])),
    ("mask", model(FLIP, "s = MatMul(q, t)", "a = Where(c, s, inf)", "p = Softmax(a)", OUT, c=KEEP)),
    ("mask", model(FLIP, "s = MatMul(q, t)", "a = Where(c, s, -1e4)", "d = Mul(a, 0.99)", *SOFTMAX, c=KEEP)),
    ("mask", model(*FILLED, c="bool[1, 1, 1, 1, keys]")),
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
        "guard",
        model(
            *(FLIP, "s = MatMul(q, t)", "a = Where(c, s, -1e30)", "e = Where(d, a, -1e30)", "p = Softmax(e)"),
            *("g = Where(c, p, 0.0)", "y = MatMul(g, v)"),
            c=KEEP,
            d=KEEP,
        ),
    ),
    # precision
    ("precision", model(FLIP, "s = MatMul(q, t)", "d = Cast{to=11}(s)", "p = Softmax(d)", *BACK)),
    (
        "precision",
        model(
            *(FLIP, "s = MatMul(q, t)", "d = Cast{to=11}(s)", "p = Softmax(d)", *BACK),
            **{name: kind.replace("float", "float16") for name, kind in QKV.items()},
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
    ("layout", model(FLIP, "s = MatMul(q, t)", SOFT, "r = Transpose{perm=[1, 0, 2, 3]}(p)", TURNED, **FOUR)),
    (
        "layout",
        model(
            *("t = Transpose{perm=[0, 2, 1]}(k)", "s = MatMul(q, t)", SOFT, "p4 = Reshape(p, [4, 4, 6, 5])"),
            *("p5 = Transpose{perm=[1, 0, 2, 3]}(p4)", "r = Reshape(p5, [16, 6, 5])", TURNED),
            **{name: kind.replace("4, 4", "16") for name, kind in FOUR.items()},
        ),
    ),
    ("layout", model(FLIP, "s = MatMul(q, t)", SOFT, "r = Reshape(p, [4, 4, 5, 6])", "y = MatMul(r, q)", **FOUR)),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseAttention(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseAttention(), made) == before


def test_leaves_a_softmax_of_another_domain_alone() -> None:
    assert misses(RaiseAttention(), model(*[line.replace("Softmax", "my.Softmax") for line in PLAIN])) == []


@pytest.mark.parametrize(
    ("rule", "line", "inputs"), [("scores", "my.Tanh(s)", {}), ("mask", "Add(s, m)", {"m": "float"})]
)
def test_leaves_alone_what_has_its_shape_by_declaration_only(rule: str, line: str, inputs: dict[str, str]) -> None:
    made = model(FLIP, "s = MatMul(q, t)", f"d = {line}", *SOFTMAX, **inputs)
    known = {value.name: value for node in made.graph for value in node.outputs}
    known["d"].shape = known["p"].shape = known["s"].shape
    known["y"].shape = ir.Shape(["batch", 4, "queries", 16])
    (miss,) = misses(RaiseAttention(), made)
    assert miss.rule == rule


def test_a_mask_for_some_of_the_heads_is_named() -> None:
    groups = {"q": "float[batch, 2, 2, 6, 8]", "k": "float[batch, 2, 1, 5, 8]", "v": "float[batch, 2, 1, 5, 16]"}
    text = ("t = Transpose{perm=[0, 1, 2, 4, 3]}(k)", *MASKED[1:])
    (miss,) = misses(RaiseAttention(), model(*text, **groups, m="float[batch, 1, 2, 6, 5]"))
    assert "the same for all or none" in miss.need
