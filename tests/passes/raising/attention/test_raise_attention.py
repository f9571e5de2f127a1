"""softmax(scale Q K^T + mask) V in every spelling."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.compare import compare
from tersor.ir.provenance import sources
from tersor.ir.text import lines
from tersor.passes.base import Context
from tersor.passes.raising.attention.raise_attention import RaiseAttention
from tersor.tests.passes.raising.attention.spelled import (
    FILLED,
    FLIP,
    GUARD,
    KEEP,
    LOW,
    MASK,
    MASKED,
    PLAIN,
    QKV,
    model,
    ops,
)
from tersor.tests.support import apply, holds, inside_if

SOFT = "p = Softmax(s)"
OUT = "y = MatMul(p, v)"


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
            ((FLIP, "s = MatMul(q, t)", "d = Mul(s, 0.5)", "p = Softmax{axis=3}(d)", "y = MatMul(p, v)"), 0.5),
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

    def test_a_mask_over_keys_alone_gets_a_second_axis(self) -> None:
        assert apply(RaiseAttention(), model(*MASKED, m="float[keys]")) == [
            "y/Reshape = Reshape(m, [1, 1, 1, -1])".replace("[1, 1, 1, -1]", "y/shape"),
            "y = Attention{scale=0.25}(q, k, v, y/Reshape)",
        ]

    def test_masks_add_up(self) -> None:
        made = model(
            FLIP,
            "s = MatMul(q, t)",
            "a = Add(s, m)",
            "b = Sub(a, w)",
            "p = Softmax(b)",
            "y = MatMul(p, v)",
            w=MASK["m"],
        )
        assert ops(apply(RaiseAttention(), made)) == ["Mul", "Add", "Attention"]

    def test_a_scale_behind_the_mask_scales_it_too(self) -> None:
        made = model(FLIP, "s = MatMul(q, t)", "a = Add(s, m)", "d = Mul(a, 0.5)", "p = Softmax(d)", "y = MatMul(p, v)")
        assert apply(RaiseAttention(), made) == [
            "y/Mul = Mul(m, y/factor)",
            "y = Attention{scale=0.5}(q, k, v, y/Mul)",
        ]

    def test_a_soft_cap_behind_the_scale(self) -> None:
        text = ("s = MatMul(q, t)", "d = Mul(s, 0.01)", "h = Tanh(d)", "c = Mul(h, 50.0)", "a = Add(c, m)")
        assert apply(RaiseAttention(), model(FLIP, *text, "p = Softmax(a)", "y = MatMul(p, v)")) == [
            "y = Attention{scale=0.5, softcap=50.0}(q, k, v, m)"
        ]

    def test_scores_that_are_filled_where_they_are_masked(self) -> None:
        assert apply(RaiseAttention(), model(*FILLED, c=KEEP)) == [
            "y/Where = Where(c, y/zero, y/low)",
            "y = Attention{scale=1.0}(q, k, v, y/Where)",
        ]

    def test_heads_and_batch_as_one_axis(self) -> None:
        flat = [
            f"{name}r = Reshape({name}, [8, {rows}, {size}])"
            for name, rows, size in (("q", 6, 8), ("k", 5, 8), ("v", 5, 16))
        ]
        text = (
            "t = Transpose{perm=[0, 2, 1]}(kr)", "s = MatMul(qr, t)", "s4 = Reshape(s, [2, 4, 6, 5])", "a = Add(s4, m)",
            "s3 = Reshape(a, [8, 6, 5])", "p = Softmax(s3)", "y3 = MatMul(p, vr)", "y = Reshape(y3, [2, 4, 6, 16])",
        )  # fmt: skip
        sizes = {"q": "float[2, 4, 6, 8]", "k": "float[2, 4, 5, 8]", "v": "float[2, 4, 5, 16]"}
        made = model(*flat, *text, **sizes, m="float[2, 1, 6, 5]")
        assert apply(RaiseAttention(), made) == ["y = Attention{scale=1.0}(q, k, v, m)"]

    def test_one_head_over_three_axes(self) -> None:
        three = {"q": "float[batch, 6, 8]", "k": "float[batch, 5, 8]", "v": "float[batch, 5, 16]"}
        made = model(
            "t = Transpose{perm=[0, 2, 1]}(k)", "s = MatMul(q, t)", "p = Softmax(s)", "y = MatMul(p, v)", **three
        )
        assert ops(apply(RaiseAttention(), made)) == ["Reshape", "Reshape", "Reshape", "Attention", "Reshape"]

    @pytest.mark.parametrize("heads", [1, 2])
    def test_groups_of_queries_share_keys(self, heads: int) -> None:
        shared = {name: f"float[batch, {heads}, keys, {size}]" for name, size in (("k", 8), ("v", 16))}
        text = [
            line
            for name, size in (("k", 8), ("v", 16))
            for line in (
                f"{name}u = Unsqueeze({name}, [2])",
                f"{name}e = Expand({name}u, [1, 1, {4 // heads}, 1, 1])",
                f"{name}r = Reshape({name}e, [0, 4, -1, {size}])",
            )
        ]
        attend = ("t = Transpose{perm=[0, 1, 3, 2]}(kr)", "s = MatMul(q, t)", "p = Softmax(s)", "y = MatMul(p, vr)")
        assert apply(RaiseAttention(), model(*text, *attend, **shared)) == ["y = Attention{scale=1.0}(q, k, v)"]

    def test_heads_that_repeat_in_another_order_stay_repeated(self) -> None:
        """Query head h reads key head h % 2, where grouped attention reads h // 4."""
        text = (
            "e = Expand(k, [1, 4, 1, 1, 1])", "r = Reshape(e, [2, 8, 5, 8])", "t = Transpose{perm=[0, 1, 3, 2]}(r)",
            "s = MatMul(q, t)", "p = Softmax(s)", "y = MatMul(p, v)",
        )  # fmt: skip
        sizes = {"q": "float[2, 8, 6, 8]", "k": "float[2, 1, 2, 5, 8]", "v": "float[2, 8, 5, 16]"}
        assert ops(apply(RaiseAttention(), model(*text, **sizes))) == ["Expand", "Reshape", "Attention"]

    @pytest.mark.parametrize(
        ("text", "one"),
        [
            (("e = Expand(k, [1, 1, 5, 1])", "r = Expand(v, [1, 1, 5, 1])"), {"k": (2, 4, 1, 8), "v": (2, 4, 1, 16)}),
            (("e = Expand(k, [1, 1, 1, 8])", "r = Expand(v, [1, 1, 1, 16])"), {"k": (2, 4, 5, 1), "v": (2, 4, 5, 1)}),
        ],
    )
    def test_copies_of_keys_and_within_a_key_stay(self, text: tuple[str, ...], one: dict[str, tuple[int, ...]]) -> None:
        attend = ("t = Transpose{perm=[0, 1, 3, 2]}(e)", "s = MatMul(q, t)", "p = Softmax(s)", "y = MatMul(p, r)")
        made = model(*text, *attend, q="float[2, 4, 6, 8]", **{name: f"float{[*dims]}" for name, dims in one.items()})
        holds(RaiseAttention(), made)
        assert ops(apply(RaiseAttention(), made)) == ["Expand", "Expand", "Attention"]

    def test_groups_as_an_axis_of_their_own(self) -> None:
        text = (
            "q5 = Reshape(q, [0, 2, 2, 6, 8])", "ku = Unsqueeze(k, [2])", "vu = Unsqueeze(v, [2])",
            "t = Transpose{perm=[0, 1, 2, 4, 3]}(ku)", "s = MatMul(q5, t)", "p = Softmax(s)", "y5 = MatMul(p, vu)",
            "y = Reshape(y5, [0, 4, 6, 16])",
        )  # fmt: skip
        sizes = {"q": "float[batch, 4, 6, 8]", "k": "float[batch, 2, 5, 8]", "v": "float[batch, 2, 5, 16]"}
        assert apply(RaiseAttention(), model(*text, **sizes)) == ["y = Attention{scale=1.0}(q, k, v)"]

    def test_half_precision_with_a_softmax_in_float32(self) -> None:
        half = {name: kind.replace("float", "float16") for name, kind in QKV.items()}
        text = ("s = MatMul(q, t)", "w = Cast{to=1}(s)", "p = Softmax(w)", "h = Cast{to=10}(p)", "y = MatMul(h, v)")
        assert apply(RaiseAttention(), model(FLIP, *text, **half)) == [
            "y = Attention{scale=1.0, softmax_precision=1}(q, k, v)"
        ]

    def test_a_guard_against_nan_goes(self) -> None:
        made = model(*PLAIN[:-1], *GUARD)
        assert apply(RaiseAttention(), made) == ["y = Attention{scale=0.25}(q, k, v)"]
        made = model("m = Where(c, 0.0, -inf)", *MASKED[:-1], *GUARD, c="bool[batch, 1, 1, keys]")
        assert ops(apply(RaiseAttention(), made)) == ["Where", "Attention"]
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


@pytest.mark.parametrize("lows", list(itertools.product(("-inf", "-1e30", "-2e30", repr(LOW)), repeat=2)))
def test_holds_where_one_fill_lies_over_another(lows: tuple[str, str]) -> None:
    """What is filled in last counts, wherever no key is left."""
    made = model(
        *(FLIP, "s = MatMul(q, t)", f"a = Where(c, s, {lows[0]})", "o = Add(a, m)", f"b = Where(d, {lows[1]}, o)"),
        *("p = Softmax(b)", "n = IsNaN(p)", "g = Where(n, 0.0, p)", "y = MatMul(g, v)"),
        c="bool[queries, keys]",
        d=KEEP,
    )
    after = made.clone()
    RaiseAttention().apply(after, Context())
    assert ops(lines(after)) == ["Where", "Add", "Where", "Attention"]
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 4, 3, 8), "k": (2, 4, 5, 8), "v": (2, 4, 5, 16), "m": (2, 1, 1, 5)}
    feeds = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    for chance in (0.0, 0.3, 0.7, 1.0):
        feeds["c"] = rng.random((3, 5)) < chance
        feeds["d"] = rng.random((2, 1, 1, 5)) > chance
        assert compare(made, after, feeds).within(RaiseAttention.contract.tolerance)


def test_a_soft_cap_of_two_negative_numbers_is_one_of_positive_ones() -> None:
    made = model(FLIP, "s = MatMul(q, t)", "r = Div(s, -4.0)", "h = Tanh(r)", "c = Mul(h, -4.0)", "p = Softmax(c)", OUT)
    holds(RaiseAttention(), made)
