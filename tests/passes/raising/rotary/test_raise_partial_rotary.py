"""Rotary positions on the first elements of each head."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.rotary.raise_partial_rotary import RaisePartialRotary
from tersor.tests.support import apply, holds, inside_if, misses

SIZES = {"x": "float[batch, 4, 6, 16]"} | dict.fromkeys("cs", "float[batch, 6, 2]")
CUT = ("a = Slice(x, [0], [4], [-1])", "b = Slice(x, [4], [9223372036854775807], [-1])")
TURN = "r = RotaryEmbedding(a, c, s)"
JOIN = "y = Concat{axis=-1}(r, b)"


def model(*text: str, outputs: list[str] | None = None, **inputs: str) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    made = {name.strip("() ") for line in text for name in line.split(" = ")[0].split(",")}
    known = {name: kind for name, kind in (SIZES | inputs).items() if name in read and name not in made}
    return graph(*text, inputs=known, outputs=["y"] if outputs is None else outputs)


WHOLE = "y = RotaryEmbedding{num_heads=4, rotary_embedding_dim=4}(x, c, s)"


class TestRewrites:
    def test_slices(self) -> None:
        assert apply(RaisePartialRotary(), model(*CUT, TURN, JOIN)) == [WHOLE]

    def test_a_split(self) -> None:
        made = model("(a, b) = Split{axis=3}(x, [4, 12])", TURN, JOIN)
        assert apply(RaisePartialRotary(), made) == [WHOLE]

    def test_ends_counted_from_the_right(self) -> None:
        cut = ("a = Slice(x, [-16], [-12], [3], [1])", "b = Slice(x, [-12], [16], [3])")
        assert apply(RaisePartialRotary(), model(*cut, TURN, JOIN)) == [WHOLE]

    def test_attributes_and_positions_stay(self) -> None:
        turn = "r = RotaryEmbedding{interleaved=1}(a, c, s, p)"
        tables = dict.fromkeys("cs", "float[9, 2]") | {"p": "int64[batch, 6]"}
        (line,) = apply(RaisePartialRotary(), model(*CUT, turn, JOIN, **tables))
        assert line == "y = RotaryEmbedding{interleaved=1, num_heads=4, rotary_embedding_dim=4}(x, c, s, p)"

    def test_in_branches(self) -> None:
        found = apply(RaisePartialRotary(), inside_if(model(*CUT, TURN, JOIN)))
        assert sum("rotary_embedding_dim=4" in line for line in found) == 2


REFUSED = [
    ("form", model("y = RotaryEmbedding{rotary_embedding_dim=4, num_heads=4}(x, c, s)")),
    ("heads", model(*CUT, TURN, JOIN, x="float[batch, heads, 6, 16]")),
    ("part", model("y = RotaryEmbedding(x, c, s)", c="float[batch, 6, 8]", s="float[batch, 6, 8]")),
    ("part", model(*CUT, TURN, JOIN, x="float[batch, 4, 6, n]")),
    ("part", model("a = Slice(x, [4], [8], [-1])", CUT[1], TURN, JOIN)),
    ("part", model("a = Slice(x, [0], [8], [-1], [2])", CUT[1], TURN, JOIN)),
    ("join", model(*CUT, TURN, "y = Concat{axis=-1}(b, r)")),
    ("join", model(*CUT, TURN, "y = Concat{axis=-1}(r, b, b)")),
    ("join", model(*CUT, TURN, JOIN, "z = Relu(r)", outputs=["y", "z"])),
    ("join", model(*CUT, TURN, JOIN, outputs=["y", "r"])),
    ("axis", model(CUT[0], TURN, "y = Concat{axis=2}(r, a)")),
    ("rest", model(*CUT, TURN, "y = Concat{axis=-1}(r, a)")),
    ("rest", model(CUT[0], "b = Slice(x, [5], [16], [-1])", TURN, JOIN)),
    ("rest", model(CUT[0], "b = Slice(x, [4], [15], [-1])", TURN, JOIN)),
    ("rest", model(CUT[0], "b = Slice(w, [4], [16], [-1])", TURN, JOIN, w=SIZES["x"])),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaisePartialRotary(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaisePartialRotary(), made) == before


@pytest.mark.parametrize("batch", [1, 3])
def test_holds(batch: int) -> None:
    holds(RaisePartialRotary(), model(*CUT, TURN, JOIN), {"batch": batch})
