"""Numbers that scale queries and keys of Attention."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.fuse.fold_attention_scale import FoldAttentionScale
from tersor.tests.support import apply, holds, inside_if, misses

SIDE = dict.fromkeys("qkv", "float[batch, n, 8]")
APART = dict.fromkeys("qkv", "float[batch, 2, n, 4]")
JOINED = "Attention{kv_num_heads=2, q_num_heads=2}"


def joined(*text: str, outputs: tuple[str, ...] = ("y",), **more: object) -> ir.Model:
    return _model(SIDE, text, outputs, more)


def apart(*text: str, outputs: tuple[str, ...] = ("y",), **more: object) -> ir.Model:
    return _model(APART, text, outputs, more)


def _model(kinds: dict[str, str], text: tuple[str, ...], outputs: tuple[str, ...], more: dict[str, object]) -> ir.Model:
    given = kinds | {name: kind for name, kind in more.items() if isinstance(kind, str)}
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    held = {name: value for name, value in more.items() if name not in given}
    return graph(*text, inputs={name: kind for name, kind in given.items() if name in read}, outputs=outputs, **held)


def scale(model: ir.Model) -> float:
    (node,) = (node for node in model.graph if node.op_type == "Attention")
    return node.attributes["scale"].as_float()


class TestRewrites:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (("s = Mul(q, 0.25)", f"y = {JOINED}(s, k, v)"), 0.125),
            (("s = Mul(0.25, k)", f"y = {JOINED}(q, s, v)"), 0.125),
            (("s = Div(q, 4.0)", f"y = {JOINED}(s, k, v)"), 0.125),
            (("s = Mul(q, [[2.0]])", f"y = {JOINED}(s, k, v)"), 1.0),
            (("s = Mul(q, 0.5)", "y = Attention{kv_num_heads=2, q_num_heads=2, scale=3.0}(s, k, v)"), 1.5),
            (("s = Mul(q, 0.5)", "t = Mul(k, 0.25)", f"y = {JOINED}(s, t, v)"), 0.0625),
            (("s = Mul(q, 0.5)", "t = Mul(s, 0.25)", f"y = {JOINED}(t, k, v)"), 0.0625),
        ],
    )
    def test_heads_side_by_side(self, text: tuple[str, ...], expected: float) -> None:
        made = joined(*text)
        (line,) = apply(FoldAttentionScale(), made)
        assert line.endswith("(q, k, v)")
        assert scale(made) == pytest.approx(expected)

    def test_heads_apart(self) -> None:
        made = apart("s = Mul(k, 0.5)", "y = Attention{softcap=2.0, is_causal=1}(q, s, v)")
        assert apply(FoldAttentionScale(), made) == ["y = Attention{is_causal=1, scale=0.25, softcap=2.0}(q, k, v)"]

    def test_through_views_and_rotations(self) -> None:
        made = apart(
            "s = Mul(q, 0.5)", "t = Transpose{perm=[0, 2, 1, 3]}(s)", "r = RotaryEmbedding(t, c, z)",
            "y = Attention(r, k, v)", q="float[batch, n, 2, 4]", c="float[batch, n, 2]", z="float[batch, n, 2]",
        )  # fmt: skip
        assert apply(FoldAttentionScale(), made) == [
            "t = Transpose{perm=[0, 2, 1, 3]}(q)",
            "r = RotaryEmbedding(t, c, z)",
            "y = Attention{scale=0.25}(r, k, v)",
        ]

    def test_queries_of_a_past(self) -> None:
        made = apart(
            "s = Mul(q, 0.5)", "(y, pk, pv) = Attention(s, k, v, m, ok, ov)", outputs=("y", "pk", "pv"),
            m="float[n, total]", ok="float[batch, 2, past, 4]", ov="float[batch, 2, past, 4]",
        )  # fmt: skip
        assert apply(FoldAttentionScale(), made) == ["(y, pk, pv) = Attention{scale=0.25}(q, k, v, m, ok, ov)"]

    def test_in_branches(self) -> None:
        made = inside_if(joined("s = Mul(q, 0.25)", f"y = {JOINED}(s, k, v)"))
        assert not any("Mul" in line for line in apply(FoldAttentionScale(), made))


CACHE = {"ok": "float[batch, 2, past, 4]", "ov": "float[batch, 2, past, 4]"}
NUMBERS = ("-0.5", "0.0", "inf", "nan", "1e20")
REFUSED = [
    ("queries", joined(f"y = {JOINED}(q, k, v)")),
    ("queries", joined("s = Mul(v, 0.5)", f"y = {JOINED}(q, k, s)")),
    ("queries", joined("s = Mul(q, f)", f"y = {JOINED}(s, k, v)", f="float[1]")),
    ("queries", joined("s = Div(2.0, q)", f"y = {JOINED}(s, k, v)")),
    ("queries", joined("s = Mul(q, 0.5)", "t = Relu(s)", f"y = {JOINED}(t, k, v)")),
    ("factor", joined("s = Mul(q, f)", f"y = {JOINED}(s, k, v)", f=np.ones(8, np.float32))),
    *(("factor", joined(f"s = Mul(q, {by})", f"y = {JOINED}(s, k, v)")) for by in NUMBERS),
    ("factor", joined("s = Div(q, 0.0)", f"y = {JOINED}(s, k, v)")),
    ("factor", joined("s = Div(q, inf)", f"y = {JOINED}(s, k, v)")),
    ("factor", joined("s = Mul(q, 2.0)", "y = Attention{kv_num_heads=2, q_num_heads=2, scale=-1.0}(s, k, v)")),
    (
        "factor",
        joined(
            "s = Mul(q, f)", f"y = {JOINED}(s, k, v)",
            **dict.fromkeys("qkv", "float16[batch, n, 8]"), f=np.float16(2),
        ),
    ),
    ("broadcast", apart("s = Mul(q, f)", "y = Attention(s, k, v)", q="float[2, n, 4]", f=np.ones((1, 1, 1, 1), "f"))),
    ("readers", joined("s = Mul(q, 0.5)", f"y = {JOINED}(s, s, v)")),
    ("readers", joined("s = Mul(q, 0.5)", f"y = {JOINED}(s, k, v)", "z = Relu(s)", outputs=("y", "z"))),
    ("readers", joined("s = Mul(q, 0.5)", f"y = {JOINED}(s, k, v)", outputs=("y", "s"))),
    ("scores", joined("s = Mul(q, 0.5)", f"(y, _, _, z) = {JOINED}(s, k, v)", outputs=("y", "z"))),
    ("cache", apart("s = Mul(k, 0.5)", "(y, z, w) = Attention(q, s, v)", outputs=("y", "z"))),
    ("cache", apart("s = Mul(k, 0.5)", "(y, z, w) = Attention(q, s, v, _, ok, ov)", **CACHE)),
    ("scale", apart("s = Mul(q, 0.5)", "y = Attention(s, k, v)", q="float[batch, 2, n, size]")),
    ("scale", joined("s = Mul(q, 0.5)", "y = Attention{kv_num_heads=3, q_num_heads=3}(s, k, v)")),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(FoldAttentionScale(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    FoldAttentionScale().apply(made, Context())
    assert lines(made) == before


def test_what_the_user_may_override_is_no_constant() -> None:
    made = joined("s = Mul(q, f)", f"y = {JOINED}(s, k, v)", f=np.float32(0.5))
    made.graph.inputs.append(made.graph.initializers["f"])
    assert [miss.rule for miss in misses(FoldAttentionScale(), made)] == ["queries"]


@pytest.mark.parametrize(
    "made",
    [
        joined("s = Mul(q, 0.25)", "t = Div(k, 0.3)", f"y = {JOINED}(s, t, v)"),
        apart("s = Mul(q, 3.0)", "y = Attention{softcap=1.5, is_causal=1}(s, k, v)"),
        apart("s = Mul(k, 3.0)", "y = Attention{scale=0.7}(q, s, v, m)", m="float[n, n]"),
        apart(
            "s = Mul(q, 0.5)", "(y, pk, pv) = Attention(s, k, v, _, ok, ov)", outputs=("y", "pk", "pv"), **CACHE
        ),
    ],
)  # fmt: skip
def test_holds(made: ir.Model) -> None:
    sizes = {"batch": 2, "n": 5} | ({"past": 3} if any(value.name == "ok" for value in made.graph.inputs) else {})
    holds(FoldAttentionScale(), made, sizes)
