"""Masks that hide the future, said by an attribute."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.clean.infer_shapes import InferShapes
from tersor.passes.raising.attention import raise_causal_mask
from tersor.passes.raising.attention.raise_causal_mask import RaiseCausalMask
from tersor.tests.support import apply, holds, inside_if, misses

LOW = float(np.finfo(np.float32).min)
SIZES = dict.fromkeys("qkv", "float[batch, 2, n, 4]") | {"pad": "bool[batch, 1, 1, n]", "bias": "float[batch, 1, n, n]"}
PAST = dict.fromkeys(("pk", "pv"), "float[batch, 2, past, 4]")
COUNT = (
    "sizes = Shape(q)",
    "n = Gather(sizes, 2)",
    "r = Range(0, n, 1)",
    "j = Unsqueeze(r, [0, 1, 2])",
    "i = Unsqueeze(r, [0, 1, 3])",
)
ATTEND = "y = Attention(q, k, v, m)"


def model(*text: str, **inputs: str) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    computed = {line.split(" = ")[0] for line in text}
    known = {name: kind for name, kind in (SIZES | PAST | inputs).items() if name in read and name not in computed}
    made = graph(*text, inputs=known, outputs=["y"])
    InferShapes().apply(made, Context())
    return made


def last(found: list[str]) -> str:
    return found[-1]


class TestRewrites:
    @pytest.mark.parametrize(
        "compare",
        [
            ("c = LessOrEqual(j, i)",),
            ("c = GreaterOrEqual(i, j)",),
            ("g = Greater(j, i)", "c = Not(g)"),
            ("l = Less(i, j)", "c = Not(l)"),
            ("b = Add(i, 1)", "c = Less(j, b)"),
            ("b = Sub(j, 1)", "c = Greater(i, b)"),
            ("f = Cast{to=1}(i)", "g = Cast{to=1}(j)", "c = LessOrEqual(g, f)"),
            ("a = LessOrEqual(j, i)", "b = Not(a)", "c = Not(b)"),
        ],
    )
    def test_however_positions_are_compared(self, compare: tuple[str, ...]) -> None:
        made = model(*COUNT, *compare, "m = Where(c, 0.0, -inf)", ATTEND)
        assert apply(RaiseCausalMask(), made) == ["y = Attention{is_causal=1}(q, k, v)"]

    @pytest.mark.parametrize("fill", ["-inf", repr(LOW)])
    def test_a_floor_of_its_own(self, fill: str) -> None:
        made = model(*COUNT, "c = LessOrEqual(j, i)", f"m = Where(c, 0.0, {fill})", ATTEND)
        assert apply(RaiseCausalMask(), made) == ["y = Attention{is_causal=1}(q, k, v)"]

    def test_a_condition_as_the_mask(self) -> None:
        made = model(*COUNT, "m = LessOrEqual(j, i)", ATTEND)
        assert apply(RaiseCausalMask(), made) == ["y = Attention{is_causal=1}(q, k, v)"]

    def test_padding_stays(self) -> None:
        made = model(*COUNT, "c = LessOrEqual(j, i)", "a = And(c, pad)", "m = Where(a, 0.0, -inf)", ATTEND)
        assert apply(RaiseCausalMask(), made) == ["y = Attention{is_causal=1}(q, k, v, pad)"]

    def test_several_conditions_stay(self) -> None:
        text = ("c = LessOrEqual(j, i)", "a = And(pad, c)", "m = And(a, other)", ATTEND)
        found = apply(RaiseCausalMask(), model(*COUNT, *text, other="bool[batch, 2, n, n]"))
        assert found == ["y/And = And(pad, other)", "y = Attention{is_causal=1}(q, k, v, y/And)"]

    def test_behind_an_expand(self) -> None:
        made = model(*COUNT, "c = LessOrEqual(j, i)", "e = Expand(c, [1, 2, 1, 1])", "m = And(e, pad)", ATTEND)
        assert last(apply(RaiseCausalMask(), made)) == "y = Attention{is_causal=1}(q, k, v, pad)"

    def test_on_top_of_a_past(self) -> None:
        text = (
            "sizes = Shape(q)", "n = Gather(sizes, 2)", "cached = Shape(pk)", "p = Gather(cached, 2)", "t = Add(p, n)",
            "rows = Range(p, t, 1)", "columns = Range(0, t, 1)", "i = Unsqueeze(rows, [1])",
            "m = LessOrEqual(columns, i)", "y = Attention(q, k, v, m, pk, pv)",
        )  # fmt: skip
        assert apply(RaiseCausalMask(), model(*text)) == ["y = Attention{is_causal=1}(q, k, v, _, pk, pv)"]

    @pytest.mark.parametrize("kind", ["truth", "numbers"])
    def test_a_constant_triangle(self, kind: str) -> None:
        seen = np.tri(5, 5, dtype=bool)
        mask = seen if kind == "truth" else np.where(seen, 0.0, -np.inf).astype(np.float32)
        made = graph(ATTEND, inputs=dict.fromkeys("qkv", "float[2, 2, 5, 4]"), m=mask)
        assert apply(RaiseCausalMask(), made) == ["y = Attention{is_causal=1}(q, k, v)"]

    @pytest.mark.parametrize("text", [("m = Trilu{upper=0}(ones, 0)",), ("u = Trilu{upper=1}(ones, 1)", "m = Not(u)")])
    def test_a_triangle_of_ones(self, text: tuple[str, ...]) -> None:
        made = graph(*text, ATTEND, inputs=dict.fromkeys("qkv", "float[2, 2, 5, 4]"), ones=np.ones((5, 5), bool))
        assert apply(RaiseCausalMask(), made) == ["y = Attention{is_causal=1}(q, k, v)"]

    def test_in_branches(self) -> None:
        made = model(*COUNT, "m = LessOrEqual(j, i)", ATTEND)
        assert sum("is_causal=1" in line for line in apply(RaiseCausalMask(), inside_if(made))) == 2


FIXED = dict.fromkeys("qkv", "float[2, 2, 5, 4]")
ROWS = ("i = Unsqueeze(s, [1])", "r = Range(0, 5, 1)", "g = Cast{to=10}(r)")
REFUSED = [
    ("mask", model("y = Attention(q, k, v)")),
    ("mask", model("y = Attention{is_causal=1}(q, k, v, pad)")),
    ("mask", model("y = Attention(q, k, v, bias)")),
    ("mask", model(*COUNT, "c = LessOrEqual(j, i)", "m = Where(c, 0.0, -10000.0)", ATTEND)),
    ("mask", model(*COUNT, "c = LessOrEqual(j, i)", "m = Where(c, -inf, 0.0)", ATTEND)),
    ("mask", model(*COUNT, "c = LessOrEqual(j, i)", "m = Where(c, bias, -inf)", ATTEND)),
    ("past", model(*COUNT, "m = LessOrEqual(j, i)", "y = Attention(q, k, v, m, pk, pv)", pk="float")),
    ("future", model("y = Attention(q, k, v, pad)")),
    ("future", graph(ATTEND, inputs=FIXED, m=np.ones(5, bool))),
    (
        "future",
        model(
            "r = Range(0, 5, 1)",
            "i = Unsqueeze(r, [1])",
            "e = Expand(r, [6, 5])",
            "j = Reshape(e, [5, 6])",
            "m = LessOrEqual(j, i)",
            ATTEND,
            **FIXED | dict.fromkeys("kv", "float[2, 2, 6, 4]"),
        ),
    ),
    ("future", model(*COUNT, "m = Less(j, i)", ATTEND)),
    ("future", model(*COUNT, "m = LessOrEqual(i, j)", ATTEND)),
    ("future", model(*COUNT, "m = GreaterOrEqual(j, i)", ATTEND)),
    ("future", model(*COUNT, "c = LessOrEqual(j, i)", "m = Not(c)", ATTEND)),
    ("future", model(*COUNT, "b = Add(i, 2)", "m = LessOrEqual(j, b)", ATTEND)),
    ("future", model(*COUNT, "b = Sub(1, i)", "m = LessOrEqual(j, b)", ATTEND)),
    ("future", model(*COUNT, "c = LessOrEqual(j, i)", "m = Or(c, pad)", ATTEND)),
    (
        "future",
        model(
            "s = Range(0, 10, 2)",
            "i = Unsqueeze(s, [1])",
            "r = Range(0, 5, 1)",
            "m = LessOrEqual(r, i)",
            ATTEND,
            **FIXED,
        ),
    ),
    (
        "future",
        model(
            "r = Range(0, 5, 1)",
            "i = Unsqueeze(r, [1])",
            "h = Cast{to=10}(i)",
            "g = Cast{to=10}(r)",
            "m = LessOrEqual(g, h)",
            ATTEND,
            **FIXED,
        ),
    ),
    ("future", model(*COUNT, "m = LessOrEqual(j, i)", "y = Attention(q, k, v, m, pk, pv)")),
    ("floor", model(*COUNT, "c = LessOrEqual(j, i)", "a = And(c, pad)", f"m = Where(a, 0.0, {LOW!r})", ATTEND)),
    ("keys", model(*COUNT, "c = LessOrEqual(j, i)", "m = And(c, row)", ATTEND, row="bool[n]")),
    ("keys", model(*COUNT, "c = LessOrEqual(j, i)", "m = And(c, row)", ATTEND, row="bool[batch, 1, n, 1]")),
    ("future", graph(ATTEND, inputs=FIXED, m=np.tri(5, 5, 1, dtype=bool))),
    ("future", graph(ATTEND, inputs=FIXED, m=np.tri(5, 5, dtype=bool).T)),
    ("future", graph(ATTEND[:-1] + ", pk, pv)", inputs=FIXED | PAST, m=np.tri(5, 9, 4, dtype=bool))),
    # more elements than are read
    ("future", graph(ATTEND, inputs=dict.fromkeys("qkv", "float[1, 1, 2049, 1]"), m=np.tri(2049, dtype=bool))),
    ("mask", graph(ATTEND, inputs=FIXED, m=np.where(np.tri(5, 5), 0.0, -1.0).astype(np.float32))),
    ("future", graph("m = Trilu{upper=0}(ones, 1)", ATTEND, inputs=FIXED, ones=np.ones((5, 5), bool))),
    ("future", graph("m = Trilu{upper=1}(ones)", ATTEND, inputs=FIXED, ones=np.ones((5, 5), bool))),
    ("future", graph("m = Trilu{upper=0}(w)", ATTEND, inputs=FIXED | {"w": "bool[5, 5]"})),
    ("future", graph(ATTEND, inputs=FIXED, m=np.ones((1, 1), bool))),
    ("mask", graph(ATTEND, inputs=FIXED, m=np.array([[0.0, *[-np.inf] * 4]], np.float32))),
    ("future", graph(ATTEND, inputs=FIXED, m=np.ones((5, 1), bool))),
    # one row or column that Attention repeats
    ("future", graph(ATTEND, inputs=FIXED, m=np.tri(1, 5, dtype=bool))),
    (
        "places",
        graph("c = Trilu{upper=0}(ones)", "m = Where(c, 0.0, -inf)", ATTEND, inputs=FIXED, ones=np.ones((1, 5), bool)),
    ),
    (
        "places",
        graph(
            "r = Range(0, 5, 1)",
            "i = Unsqueeze(r, [1])",
            "j = Range(0, 1, 1)",
            "m = LessOrEqual(j, i)",
            ATTEND,
            inputs=FIXED,
        ),
    ),
    ("places", graph("m = Trilu{upper=0}(ones)", ATTEND, inputs=FIXED, ones=np.ones((1, 5), bool))),
    (
        "places",
        model(
            *COUNT,
            "t = Shape(other)",
            "o = Squeeze(t)",
            "l = Range(0, o, 1)",
            "h = Unsqueeze(l, [1])",
            "m = LessOrEqual(j, h)",
            ATTEND,
            other="bool[one]",
        ),
    ),
]


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseCausalMask(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseCausalMask(), made) == before


def test_leaves_a_triangle_that_the_caller_may_override_alone() -> None:
    made = graph(ATTEND, inputs=FIXED, m=np.tri(5, dtype=bool))
    made.graph.inputs.append(made.graph.initializers["m"])
    (miss,) = misses(RaiseCausalMask(), made)
    assert miss.rule == "future"


def test_a_mask_that_layers_share_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    compare = raise_causal_mask.triangle
    monkeypatch.setattr(raise_causal_mask, "triangle", lambda *args: [read.append(args), compare(*args)][1])
    layers = [f"y{index} = Attention(q, k, v, m)" for index in range(3)]
    made = graph(*layers, inputs=FIXED, m=np.tri(5, 5, dtype=bool))
    assert sum("is_causal=1" in line for line in apply(RaiseCausalMask(), made)) == 3
    assert len(read) == 1


def test_a_mask_that_was_given_other_numbers_is_read_again() -> None:
    made = graph(ATTEND, inputs=FIXED, m=np.ones((5, 5), bool))
    (miss,) = misses(RaiseCausalMask(), made)
    assert miss.rule == "future"
    made.graph.initializers["m"].const_value = ir.Tensor(np.tri(5, 5, dtype=bool))
    assert apply(RaiseCausalMask(), made) == ["y = Attention{is_causal=1}(q, k, v)"]


@pytest.mark.parametrize("n", [1, 5])
def test_holds(n: int) -> None:
    text = (*COUNT, "c = LessOrEqual(j, i)", "a = And(c, pad)", "m = Where(a, 0.0, -inf)", ATTEND)
    holds(RaiseCausalMask(), model(*text), {"batch": 3, "n": n})


def test_holds_with_a_floor() -> None:
    text = (*COUNT, "c = LessOrEqual(j, i)", f"m = Where(c, 0.0, {LOW!r})", ATTEND)
    holds(RaiseCausalMask(), model(*text), {"batch": 2, "n": 6})
