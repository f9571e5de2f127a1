"""Keys and values that are repeated for groups of queries."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.ir.provenance import sources
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.clean.infer_shapes import InferShapes
from tersor.passes.raising.attention.raise_attention_groups import RaiseAttentionGroups
from tersor.tests.support import apply, holds, inside_if, misses

QKV = {"q": "float[batch, 4, queries, 8]", "k": "float[batch, 2, keys, 8]", "v": "float[batch, 2, keys, 16]"}
ATTEND = "y = Attention{scale=0.5}(q, kr, vr)"
KEPT = ["y = Attention{scale=0.5}(q, k, v)"]


def spread(name: str, size: int, copies: int = 2, heads: int = 4) -> tuple[str, ...]:
    return (
        f"{name}u = Unsqueeze({name}, [2])",
        f"{name}e = Expand({name}u, [1, 1, {copies}, 1, 1])",
        f"{name}r = Reshape({name}e, [0, {heads}, -1, {size}])",
    )


def tiled(name: str, size: int, counts: str = "[1, 1, 2, 1, 1]") -> tuple[str, ...]:
    return (
        f"{name}u = Unsqueeze({name}, [2])",
        f"{name}e = Tile({name}u, {counts})",
        f"{name}r = Reshape({name}e, [0, 4, -1, {size}])",
    )


def model(*text: str, outputs: list[str] | None = None, **inputs: str) -> ir.Model:
    made = graph(*text, inputs=QKV | inputs, outputs=outputs or ["y"])
    for node in made.graph:
        for value in node.outputs:
            value.shape = None
    InferShapes().apply(made, Context())
    return made


def shared(**more: str) -> ir.Model:
    return model(*spread("k", 8), *spread("v", 16), ATTEND, **more)


class TestRewrites:
    def test_groups(self) -> None:
        assert apply(RaiseAttentionGroups(), shared()) == KEPT

    def test_one_head_for_all(self) -> None:
        inputs = {"k": "float[batch, 1, keys, 8]", "v": "float[batch, 1, keys, 16]"}
        made = model("kr = Expand(k, [1, 4, 1, 1])", "vr = Expand(v, [1, 4, 1, 1])", ATTEND, **inputs)
        assert apply(RaiseAttentionGroups(), made) == KEPT

    def test_copies_by_tile(self) -> None:
        assert apply(RaiseAttentionGroups(), model(*tiled("k", 8), *spread("v", 16), ATTEND)) == KEPT

    def test_as_torch_exports_it(self) -> None:
        """Sizes computed from the shape of the input."""
        into = (
            "b = Shape{start=0, end=1}(k)", "n = Shape{start=2, end=3}(k)", "i = Concat{axis=0}(b, [2], [2], n, [8])",
            "j = Concat{axis=0}(b, [2], [2], n, [16])",
        )  # fmt: skip
        text = [
            line.replace("[1, 1, 2, 1, 1]", "i" if line[0] == "k" else "j")
            for line in (*spread("k", 8), *spread("v", 16))
        ]
        assert apply(RaiseAttentionGroups(), model(*into, *text, ATTEND)) == KEPT

    def test_what_lies_before_the_copies_stays(self) -> None:
        text = ("kj = Concat{axis=2}(past, k)", *(line.replace("(k,", "(kj,") for line in spread("k", 8)))
        made = model(*text, *spread("v", 16), ATTEND, past="float[batch, 2, past, 8]")
        assert apply(RaiseAttentionGroups(), made) == [
            "kj = Concat{axis=2}(past, k)",
            "y = Attention{scale=0.5}(q, kj, v)",
        ]

    def test_copies_of_heads_that_are_groups_already(self) -> None:
        """Four copies of one head, made two and two."""
        text = ("k2 = Expand(k, [1, 2, 1, 1])", *(line.replace("(k,", "(k2,") for line in spread("k", 8)))
        more = ("v2 = Expand(v, [1, 2, 1, 1])", *(line.replace("(v,", "(v2,") for line in spread("v", 16)))
        inputs = {"k": "float[batch, 1, keys, 8]", "v": "float[batch, 1, keys, 16]"}
        assert apply(RaiseAttentionGroups(), model(*text, *more, ATTEND, **inputs)) == KEPT

    def test_a_mask_and_the_other_attributes_stay(self) -> None:
        made = model(
            *spread("k", 8), *spread("v", 16), "y = Attention{is_causal=1, softcap=30.0}(q, kr, vr, m)",
            m="float[batch, 1, queries, keys]",
        )  # fmt: skip
        assert apply(RaiseAttentionGroups(), made) == ["y = Attention{is_causal=1, softcap=30.0}(q, k, v, m)"]

    def test_copies_that_others_read_stay(self) -> None:
        made = model(*spread("k", 8), *spread("v", 16), ATTEND, "z = Neg(kr)", outputs=["y", "z"])
        assert apply(RaiseAttentionGroups(), made) == [
            *spread_lines("k"),
            "y = Attention{scale=0.5}(q, k, v)",
            "z = Neg(kr)",
        ]

    def test_in_branches(self) -> None:
        found = apply(RaiseAttentionGroups(), inside_if(shared()))
        assert [line.strip() for line in found[1:] if "Attention" in line] == [
            "y_else = Attention{scale=0.5}(q, k, v)",
            "y_then = Attention{scale=0.5}(q, k, v)",
        ]

    def test_it_stands_for_what_it_replaced(self) -> None:
        made = shared()
        apply(RaiseAttentionGroups(), made)
        assert set(sources(made.graph.node(0))) == {"ku", "ke", "kr", "vu", "ve", "vr", "y"}


def spread_lines(name: str) -> list[str]:
    return [
        f"{name}u = Unsqueeze({name}, const_0)",
        f"{name}e = Expand({name}u, const_1)",
        f"{name}r = Reshape({name}e, const_2)",
    ]


@pytest.mark.parametrize(
    ("made", "rule", "need"),
    [
        # query head h would read key head h % 2
        (model(*spread("k", 8), "vr = Tile(v, [1, 2, 1, 1])", ATTEND), "copies", "side by side"),
        (model("kr = Tile(k, [1, 2, 1, 1])", *spread("v", 16), ATTEND), "copies", "side by side"),
        (model(*spread("k", 8), ATTEND, vr="float[batch, 4, keys, 16]"), "copies", "side by side"),
        (model(ATTEND, kr="float[batch, 4, keys, 8]", vr="float[batch, 4, keys, 16]"), "copies", "side by side"),
        # copies of the batch, and of the keys
        (
            model(
                "kr = Expand(k, [2, 1, 1, 1])", "vr = Expand(v, [2, 1, 1, 1])", ATTEND, q="float[2, 4, queries, 8]",
                k="float[1, 4, keys, 8]", v="float[1, 4, keys, 16]",
            ),
            "copies", "side by side",
        ),
        (
            model(*spread("k", 8), "vr = Expand(v, [1, 4, 1, 1])", ATTEND, v="float[batch, 1, keys, 16]"),
            "heads", "as many",
        ),
        (model(*spread("k", 8), *spread("v", 16), ATTEND, q="float[batch, 8, queries, 8]"), "heads", "as many"),
        (model(*spread("k", 8), *spread("v", 16), ATTEND, q="float[batch, ?, queries, 8]"), "heads", "as many"),
        (model(*spread("k", 8), *spread("v", 16), ATTEND, q="float"), "rank", "[batch, heads, sequence, size]"),
        (
            model(*spread("k", 8), *spread("v", 16), "(y, p, w) = Attention(q, kr, vr)", outputs=["y", "p"]),
            "outputs", "no present",
        ),
        (
            model(
                *spread("k", 8), *spread("v", 16), "y = Attention(q, kr, vr, _, pk, pv)",
                pk="float[batch, 4, past, 8]", pv="float[batch, 4, past, 16]",
            ),
            "form", "without a past",
        ),
        (
            graph(
                "y = Attention{q_num_heads=4, kv_num_heads=2}(q, k, v)",
                inputs={"q": "float[b, s, 32]", "k": "float[b, s, 16]", "v": "float[b, s, 16]"},
            ),
            "form", "split heads",
        ),
    ],
)  # fmt: skip
def test_leaves_alone(made: ir.Model, rule: str, need: str) -> None:
    (miss,) = misses(RaiseAttentionGroups(), made)
    assert miss.rule == rule
    assert need in miss.need
    before = lines(made)
    assert apply(RaiseAttentionGroups(), made) == before


@pytest.mark.parametrize("sizes", [{"batch": 1, "queries": 1, "keys": 1}, {"batch": 3, "queries": 5, "keys": 7}])
@pytest.mark.parametrize(
    "made",
    [
        shared(),
        model(*tiled("k", 8), *tiled("v", 16), ATTEND),
        model(*spread("k", 8), *spread("v", 16), "y = Attention{is_causal=1}(q, kr, vr, m)", m="float[queries, keys]"),
        model(*spread("k", 8, 3, 6), *spread("v", 16, 3, 6), ATTEND, q="float[batch, 6, queries, 8]"),
        inside_if(shared()),
    ],
)  # fmt: skip
def test_holds(made: ir.Model, sizes: dict[str, int]) -> None:
    holds(RaiseAttentionGroups(), made, sizes)
