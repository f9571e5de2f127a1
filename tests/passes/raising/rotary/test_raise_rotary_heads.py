"""Rotary positions over heads that lie side by side."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.attention.raise_attention_heads import RaiseAttentionHeads
from tersor.passes.raising.rotary.raise_rotary_heads import RaiseRotaryHeads
from tersor.tests.support import apply, holds, inside_if, misses

X = {"x": "float[batch, 6, 32]"} | dict.fromkeys("cs", "float[batch, 6, 4]")
SPLIT = ("x4 = Reshape(x, [0, 0, 4, 8])", "xh = Transpose{perm=[0, 2, 1, 3]}(x4)")
TURN = "y = RotaryEmbedding(xh, c, s)"


def model(*text: str, outputs: list[str] | None = None, **inputs: str) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    made = {line.split(" = ")[0] for line in text}
    known = {name: kind for name, kind in (X | inputs).items() if name in read and name not in made}
    return graph(*text, inputs=known, outputs=outputs)


class TestRewrites:
    def test_heads_that_were_split(self) -> None:
        assert apply(RaiseRotaryHeads(), model(*SPLIT, TURN)) == [
            "y/RotaryEmbedding = RotaryEmbedding{num_heads=4}(x, c, s)",
            "y/Reshape = Reshape(y/RotaryEmbedding, y/shape)",
            "y = Transpose{perm=[0, 2, 1, 3]}(y/Reshape)",
        ]

    def test_heads_that_never_lay_side_by_side(self) -> None:
        found = apply(RaiseRotaryHeads(), model(SPLIT[1], TURN, x4="float[batch, 6, 4, 8]"))
        assert [line.split(" = ")[1].split("(")[0].split("{")[0] for line in found] == [
            "Reshape",
            "RotaryEmbedding",
            "Reshape",
            "Transpose",
        ]

    def test_attributes_and_positions_stay(self) -> None:
        turn = "y = RotaryEmbedding{interleaved=1, rotary_embedding_dim=4}(xh, c, s, p)"
        tables = dict.fromkeys("cs", "float[9, 2]") | {"p": "int64[batch, 6]"}
        found = apply(RaiseRotaryHeads(), model(*SPLIT, turn, **tables))
        assert "RotaryEmbedding{interleaved=1, num_heads=4, rotary_embedding_dim=4}(x, c, s, p)" in found[0]

    def test_the_transpose_behind_goes_with_attention(self) -> None:
        attend = ("yh = Attention(y, y, y)", "yt = Transpose{perm=[0, 2, 1, 3]}(yh)", "z = Reshape(yt, [0, 0, 32])")
        made = model(*SPLIT, TURN, *attend)
        apply(RaiseRotaryHeads(), made)
        assert len(apply(RaiseAttentionHeads(), made)) == 2

    def test_in_branches(self) -> None:
        found = apply(RaiseRotaryHeads(), inside_if(model(*SPLIT, TURN)))
        assert sum("num_heads=4" in line for line in found) == 2


REFUSED = [
    ("form", model("y = RotaryEmbedding{num_heads=4}(x, c, s)")),
    ("form", model("y = RotaryEmbedding(xh, c, s)", xh="float")),
    ("heads", model(TURN, xh="float[batch, heads, 6, 8]")),
    ("transpose", model(TURN, xh="float[batch, 4, 6, 8]")),
    ("transpose", model(*SPLIT, TURN, "z = Relu(xh)")),
    ("transpose", model(*SPLIT, TURN, outputs=["y", "xh"])),
    ("layout", model("xh = Transpose{perm=[0, 1, 3, 2]}(w)", TURN, w="float[batch, 4, 8, 6]")),
    ("layout", model("xh = Transpose{perm=[1, 0, 2, 3]}(w)", TURN, w="float[4, batch, 6, 8]")),
    ("layout", model("x4 = Reshape(x, [0, 0, 8, 4])", "xh = Transpose{perm=[0, 3, 1, 2]}(x4)", TURN)),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseRotaryHeads(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseRotaryHeads(), made) == before


@pytest.mark.parametrize("batch", [1, 3])
def test_holds(batch: int) -> None:
    holds(RaiseRotaryHeads(), model(*SPLIT, TURN), {"batch": batch})
