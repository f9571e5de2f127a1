"""softmax(scale Q K^T + mask) V in every spelling, and the many graphs that are not it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.provenance import sources
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.raising.raise_attention import RaiseAttention
from tersor.tests.support import apply, holds, inside_if, misses

QKV = {
    "q": "float[batch, 4, queries, 8]",
    "k": "float[batch, 4, keys, 8]",
    "v": "float[batch, 4, keys, 16]",
}
MASK = {"m": "float[batch, 1, 1, keys]"}
FLIP = "t = Transpose{perm=[0, 1, 3, 2]}(k)"
PLAIN = (FLIP, "s = MatMul(q, t)", "d = Mul(s, 0.25)", "p = Softmax{axis=-1}(d)", "y = MatMul(p, v)")
MASKED = (FLIP, "s = MatMul(q, t)", "d = Div(s, 4.0)", "a = Add(d, m)", "p = Softmax(a)", "y = MatMul(p, v)")
GUARD = ("n = IsNaN(p)", "g = Where(n, 0.0, p)", "y = MatMul(g, v)")
LOW = float(np.finfo(np.float32).min)


def model(*text: str, outputs: list[str] | None = None, **inputs: str) -> ir.Model:
    """A graph over q, k, v and, where it is read, the mask m."""
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    made = {line.split(" = ")[0] for line in text}
    known = {name: kind for name, kind in (QKV | MASK | inputs).items() if name in read and name not in made}
    return graph(*text, inputs=known, outputs=outputs)


def ops(found: list[str]) -> list[str]:
    return [line.split(" = ")[1].split("(")[0].split("{")[0] for line in found]


class TestRewrites:
    def test_without_a_mask(self) -> None:
        assert apply(RaiseAttention(), model(*PLAIN)) == ["y = Attention{scale=0.25}(q, k, v)"]

    def test_with_a_mask(self) -> None:
        assert apply(RaiseAttention(), model(*MASKED)) == ["y = Attention{scale=0.25}(q, k, v, m)"]

    @pytest.mark.parametrize(
        ("text", "scale"),
        [
            ((FLIP, "s = MatMul(q, t)", "p = Softmax(s)", "y = MatMul(p, v)"), 1.0),
            ((FLIP, "r = Mul(q, 0.5)", "s = MatMul(r, t)", "p = Softmax(s)", "y = MatMul(p, v)"), 0.5),
            (
                (
                    FLIP,
                    "r = Mul(q, 0.5)",
                    "u = Div(t, 4.0)",
                    "s = MatMul(r, u)",
                    "d = Mul(2.0, s)",
                    "p = Softmax(d)",
                    "y = MatMul(p, v)",
                ),
                0.25,
            ),
            (
                (
                    FLIP,
                    "s = MatMul(q, t)",
                    "d = Mul(s, 0.5)",
                    "a = Add(m, d)",
                    "o = Mul(a, 1.0)",
                    "p = Softmax(o)",
                    "y = MatMul(p, v)",
                ),
                0.5,
            ),
            ((FLIP, "s = MatMul(q, t)", "d = Mul(s, -0.5)", "p = Softmax{axis=3}(d)", "y = MatMul(p, v)"), -0.5),
        ],
    )
    def test_wherever_the_scale_stands(self, text: tuple[str, ...], scale: float) -> None:
        made = model(*text)
        apply(RaiseAttention(), made)
        (node,) = made.graph
        assert node.op_type == "Attention"
        assert node.attributes["scale"].as_float() == pytest.approx(scale)

    def test_keys_that_come_already_transposed_are_turned_back(self) -> None:
        made = model("s = MatMul(q, k)", "p = Softmax(s)", "y = MatMul(p, v)", k="float[batch, 4, 8, keys]")
        assert apply(RaiseAttention(), made) == [
            "y/Transpose = Transpose{perm=[0, 1, 3, 2]}(k)",
            "y = Attention{scale=1.0}(q, y/Transpose, v)",
        ]

    def test_keys_whose_heads_lie_last_but_one(self) -> None:
        text = ("t = Transpose{perm=[0, 2, 3, 1]}(k)", "s = MatMul(q, t)", "p = Softmax(s)", "y = MatMul(p, v)")
        assert apply(RaiseAttention(), model(*text, k="float[batch, keys, 4, 8]")) == [
            "y/Transpose = Transpose{perm=[0, 2, 1, 3]}(k)",
            "y = Attention{scale=1.0}(q, y/Transpose, v)",
        ]

    @pytest.mark.parametrize(
        "mask", ["float[queries, keys]", "float[1, keys]", "float[batch, 4, queries, keys]", "float[4, 1, keys]"]
    )
    def test_masks_that_broadcast(self, mask: str) -> None:
        assert apply(RaiseAttention(), model(*MASKED, m=mask)) == ["y = Attention{scale=0.25}(q, k, v, m)"]

    def test_a_guard_against_nan_goes_when_the_mask_is_finite(self) -> None:
        made = model(*PLAIN[:-1], *GUARD)
        assert apply(RaiseAttention(), made) == ["y = Attention{scale=0.25}(q, k, v)"]
        made = model(f"m = Where(c, 0.0, {LOW!r})", *MASKED[:-1], *GUARD, c="bool[batch, 1, 1, keys]")
        assert ops(apply(RaiseAttention(), made)) == ["Where", "Attention"]

    def test_what_else_reads_the_keys_stays(self) -> None:
        made = model(*PLAIN, "z = Neg(t)")
        assert ops(apply(RaiseAttention(), made)) == ["Transpose", "Attention", "Neg"]

    def test_two_attentions_over_one_pair_of_keys_and_values(self) -> None:
        made = model(*PLAIN, "s2 = MatMul(w, t)", "p2 = Softmax(s2)", "z = MatMul(p2, v)", w=QKV["q"])
        assert ops(apply(RaiseAttention(), made)) == ["Attention", "Attention"]

    def test_in_branches(self) -> None:
        found = apply(RaiseAttention(), inside_if(model(*MASKED)))
        assert [line.strip() for line in found if "Attention" in line] == [
            "y_else = Attention{scale=0.25}(q, k, v, m)",
            "y_then = Attention{scale=0.25}(q, k, v, m)",
        ]

    def test_it_stands_for_what_it_replaced(self) -> None:
        made = model(*MASKED)
        apply(RaiseAttention(), made)
        assert set(sources(made.graph.node(0))) == {"t", "s", "d", "a", "p", "y"}


SOFT = "p = Softmax(s)"
OUT = "y = MatMul(p, v)"
REFUSED = [
    # the softmax
    (
        "rank",
        model(
            "t = Transpose{perm=[0, 2, 1]}(k)",
            "s = MatMul(q, t)",
            SOFT,
            OUT,
            **dict.fromkeys("qkv", "float[batch, n, 8]"),
        ),
    ),
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
    ("scale", model(FLIP, "s = MatMul(q, t)", "a = Add(s, m)", "d = Mul(a, 0.5)", "p = Softmax(d)", OUT)),
    # the mask
    ("mask", model(FLIP, "s = MatMul(q, t)", "a = Add(s, m)", "b = Add(a, w)", "p = Softmax(b)", OUT, w=MASK["m"])),
    ("mask", model(FLIP, "s = MatMul(q, t)", "a = Add(s, s)", "p = Softmax(a)", OUT)),
    ("mask", model(*MASKED, m="float[keys]")),
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
    ("guard", model(*MASKED[:-1], *GUARD)),
    ("guard", model("m = Where(c, 0.0, -inf)", *MASKED[:-1], *GUARD, c="bool[batch, 1, 1, keys]")),
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
    ("keys", model("t = Transpose(k)", "s = MatMul(q, t)", SOFT, OUT, k="float[keys, 8, 4, batch]")),
    ("heads", model(*PLAIN, k="float[batch, 1, keys, 8]")),
    ("heads", model(*PLAIN, v="float[batch, 1, keys, 16]")),
    ("heads", model(*PLAIN, v="float[keys, 16]")),
    ("heads", model(*PLAIN, **{name: kind.replace("4", "heads") for name, kind in QKV.items()})),
    ("batch", model(*PLAIN, q="float[1, 4, queries, 8]")),
    ("batch", model(*PLAIN, k="float[1, 4, keys, 8]")),
    ("batch", model(*PLAIN, v="float[1, 4, keys, 16]")),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseAttention(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseAttention(), made) == before


def test_leaves_a_softmax_of_another_domain_alone() -> None:
    assert misses(RaiseAttention(), model(*[line.replace("Softmax", "my.Softmax") for line in PLAIN])) == []


SIZES = [{"batch": 1, "queries": 1, "keys": 1}, {"batch": 3, "queries": 5, "keys": 7}]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize(
    "made",
    [
        model(*PLAIN),
        model(*MASKED),
        model(*MASKED, m="float[queries, keys]"),
        model(*MASKED, m="float[4, 1, keys]"),
        model(
            FLIP,
            "r = Mul(q, 0.5)",
            "u = Div(t, 4.0)",
            "s = MatMul(r, u)",
            "d = Mul(2.0, s)",
            SOFT.replace("s)", "d)"),
            OUT,
        ),
        model("s = MatMul(q, k)", SOFT, OUT, k="float[batch, 4, 8, keys]"),
        model("t = Transpose{perm=[0, 2, 3, 1]}(k)", "s = MatMul(q, t)", SOFT, OUT, k="float[batch, keys, 4, 8]"),
        model(f"m = Where(c, 0.0, {LOW!r})", *MASKED[:-1], *GUARD, c="bool[batch, 1, 1, keys]"),
        inside_if(model(*MASKED)),
    ],
)
def test_holds(made: ir.Model, sizes: dict[str, int]) -> None:
    holds(RaiseAttention(), made, sizes)


def test_holds_where_every_key_is_masked() -> None:
    """A finite mask that is the same everywhere leaves a softmax over the bare scores."""
    made = model(f"m = Where(c, 0.0, {LOW!r})", *MASKED[:-1], *GUARD, c="bool[batch, 1, 1, keys]")
    after = made.clone()
    RaiseAttention().apply(after, Context())
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 4, 3, 8), "k": (2, 4, 5, 8), "v": (2, 4, 5, 16)}
    feeds = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    feeds["c"] = np.zeros((2, 1, 1, 5), bool)
    assert compare(made, after, feeds).within(RaiseAttention.contract.tolerance)
