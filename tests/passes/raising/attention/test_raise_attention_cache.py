"""Keys and values of the past, joined by the Attention that reads them."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.attention.raise_attention_cache import RaiseAttentionCache
from tersor.tests.support import apply, holds, inside_if, misses

SIZES = {
    "q": "float[batch, 4, queries, 8]",
    "k": "float[batch, 2, queries, 8]",
    "v": "float[batch, 2, queries, 6]",
    "pk": "float[batch, 2, past, 8]",
    "pv": "float[batch, 2, past, 6]",
    "m": "float[batch, 1, queries, keys]",
}
JOINS = ("wk = Concat{axis=2}(pk, k)", "wv = Concat{axis=-2}(pv, v)")
ATTEND = "y = Attention{scale=0.5, softcap=3.0}(q, wk, wv, m)"
OUTPUTS = ["y", "wk", "wv"]


def model(*text: str, outputs: list[str] | None = None, **inputs: str) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    made = {name.strip("() ") for line in text for name in line.split(" = ")[0].split(",")}
    known = {name: kind for name, kind in (SIZES | inputs).items() if name in read and name not in made}
    return graph(*text, inputs=known, outputs=OUTPUTS if outputs is None else outputs)


class TestRewrites:
    def test_past_in_and_present_out(self) -> None:
        assert apply(RaiseAttentionCache(), model(*JOINS, ATTEND)) == [
            "(y, wk, wv) = Attention{scale=0.5, softcap=3.0}(q, k, v, m, pk, pv)"
        ]

    def test_without_a_mask(self) -> None:
        assert apply(RaiseAttentionCache(), model(*JOINS, "y = Attention(q, wk, wv)")) == [
            "(y, wk, wv) = Attention(q, k, v, _, pk, pv)"
        ]

    def test_a_present_that_nobody_asks_for(self) -> None:
        (line,) = apply(RaiseAttentionCache(), model(*JOINS, ATTEND, outputs=["y"]))
        assert line.endswith("Attention{scale=0.5, softcap=3.0}(q, k, v, m, pk, pv)")

    def test_in_branches(self) -> None:
        found = apply(RaiseAttentionCache(), inside_if(model(*JOINS, ATTEND)))
        assert sum("(q, k, v, m, pk, pv)" in line for line in found) == 2
        assert not any("Concat" in line for line in found)


REFUSED = [
    ("form", model("y = Attention(q, k, v, _, pk, pv)", outputs=["y"])),
    (
        "form",
        model(
            "y = Attention{q_num_heads=4, kv_num_heads=2}(q, k, v)",
            outputs=["y"],
            q="float[batch, queries, 32]",
            k="float[batch, queries, 16]",
            v="float[batch, queries, 12]",
        ),
    ),
    ("outputs", model(*JOINS, "(y, a, b) = Attention(q, wk, wv)", outputs=["y", "a", "b"])),
    ("join", model("y = Attention(q, k, v)", outputs=["y"])),
    ("join", model(JOINS[0], "y = Attention(q, wk, v)", outputs=["y", "wk"])),
    ("join", model("wk = Concat{axis=2}(pk, k, k)", JOINS[1], "y = Attention(q, wk, wv)")),
    ("join", model("wk = my.Concat{axis=2}(pk, k)", JOINS[1], "y = Attention(q, wk, wv)")),
    ("rank", model(*JOINS, "y = Attention(q, wk, wv)", k="float", pk="float")),
    ("axis", model("wk = Concat{axis=1}(pk, k)", "wv = Concat{axis=1}(pv, v)", "y = Attention(q, wk, wv)")),
    (
        "axis",
        model("wk = Concat{axis=3}(pk, k)", JOINS[1], "y = Attention(q, wk, wv)", pk="float[batch, 2, queries, 3]"),
    ),
    ("readers", model(*JOINS, ATTEND, "z = Relu(wk)", outputs=["y", "z"])),
    ("readers", model(*JOINS, "n = Shape(wv)", ATTEND, outputs=["y", "n"])),
    ("readers", model("wk = Concat{axis=2}(pk, k)", "y = Attention(q, wk, wk)", outputs=["y"])),
    ("past", model(*JOINS, ATTEND, pv="float[batch, 2, other, 6]")),
    ("causal", model(*JOINS, "y = Attention{is_causal=1}(q, wk, wv)")),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseAttentionCache(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseAttentionCache(), made) == before


@pytest.mark.parametrize("past", [0, 1, 4])
@pytest.mark.parametrize("queries", [1, 3])
def test_holds(past: int, queries: int) -> None:
    sizes = {"batch": 2, "past": past, "queries": queries, "keys": past + queries}
    holds(RaiseAttentionCache(), model(*JOINS, ATTEND), sizes)
