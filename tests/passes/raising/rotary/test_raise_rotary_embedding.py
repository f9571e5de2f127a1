"""x cos + rotate(x) sin in every spelling, and the many graphs that are not it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.provenance import sources
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.raising.rotary.raise_rotary_embedding import RaiseRotaryEmbedding
from tersor.tests.support import apply, holds, inside_if, misses

X = "float[batch, 4, sequence, 8]"
FULL = {"x": X, "c": "float[batch, 1, sequence, 4]", "s": "float[batch, 1, sequence, 4]"}
ANGLES = {"x": X, "f": "float[1, sequence, 4]"}
TABLES = (
    "ff = Concat{axis=-1}(f, f)",
    "c3 = Cos(ff)",
    "s3 = Sin(ff)",
    "c = Unsqueeze(c3, [1])",
    "s = Unsqueeze(s3, [1])",
)
HALVES = ("a = Slice(x, [0], [4], [-1])", "b = Slice(x, [4], [9223372036854775807], [-1])")
ROTATED = (*HALVES, "n = Neg(b)", "r = Concat{axis=-1}(n, a)")
SUM = ("p = Mul(x, c)", "q = Mul(r, s)", "y = Add(p, q)")
PRODUCTS = (
    "ac = Mul(a, c)",
    "bs = Mul(b, s)",
    "bc = Mul(b, c)",
    "as = Mul(a, s)",
    "u = Sub(ac, bs)",
    "v = Add(bc, as)",
)
STRIDED = ("a = Slice(x, [0], [8], [3], [2])", "b = Slice(x, [1], [8], [3], [2])")
STACK = ("ue = Unsqueeze(u, [-1])", "ve = Unsqueeze(v, [-1])", "uv = Concat{axis=-1}(ue, ve)")


def ops(found: list[str]) -> list[str]:
    return [line.split(" = ")[1].split("(")[0].split("{")[0] for line in found]


def made(*text: str, inputs: Mapping[str, str] = ANGLES, **constants: object) -> ir.Model:
    return graph(*text, inputs=dict(inputs), outputs=["y"], **constants)


def rotation(model: ir.Model) -> ir.Node:
    (node,) = [node for node in model.graph.all_nodes() if node.op_type == "RotaryEmbedding"]
    return node


HALF = made(*TABLES, *ROTATED, *SUM)
EXPLICIT = made(*HALVES, *PRODUCTS, "y = Concat{axis=-1}(u, v)", inputs=FULL)
NEIGHBOURS = made(*STRIDED, *PRODUCTS, *STACK, "y = Reshape(uv, [0, 0, 0, 8])", inputs=FULL)
COMPLEX = made(
    "z = Reshape(x, [0, 0, 0, -1, 2])",
    "a = Gather{axis=-1}(z, 0)",
    "b = Gather{axis=4}(z, 1)",
    *PRODUCTS,
    *STACK,
    "y = Reshape(uv, [0, 0, 0, 8])",
    inputs=FULL,
)
GPTJ = made(
    "c3 = Cos(f)",
    "s3 = Sin(f)",
    "c4 = Unsqueeze(c3, [-1])",
    "cw = Concat{axis=-1}(c4, c4)",
    "cr = Reshape(cw, [0, 0, 8])",
    "sr = Gather{axis=-1}(s3, [0, 0, 1, 1, 2, 2, 3, 3])",
    "c = Unsqueeze(cr, [1])",
    "s = Unsqueeze(sr, [1])",
    *STRIDED,
    "n = Neg(b)",
    "ne = Unsqueeze(n, [-1])",
    "ae = Unsqueeze(a, [-1])",
    "t = Concat{axis=-1}(ne, ae)",
    "r = Reshape(t, [0, 0, 0, 8])",
    *SUM,
)
PARTIAL = made(
    "cc = Cos(f)",
    "ss = Sin(f)",
    "c = Unsqueeze(cc, [1])",
    "s = Unsqueeze(ss, [1])",
    "(h, rest) = Split{axis=-1}(x, [4, 4])",
    "(a, b) = Split{axis=3, num_outputs=2}(h)",
    *PRODUCTS,
    "t = Concat{axis=-1}(u, v)",
    "y = Concat{axis=-1}(t, rest)",
    inputs={"x": X, "f": "float[batch, sequence, 2]"},
)


class TestRewrites:
    def test_halves_of_tables_made_twice_as_long(self) -> None:
        found = apply(RaiseRotaryEmbedding(), HALF.clone())
        assert ops(found) == ["Shape", "Concat", "Cos", "Expand", "Sin", "Expand", "RotaryEmbedding"]
        assert "y/Cos = Cos(f)" in found
        assert found[-1] == "y = RotaryEmbedding(x, y/Expand, y/Expand_1)"

    def test_halves_written_out(self) -> None:
        assert apply(RaiseRotaryEmbedding(), EXPLICIT.clone()) == [
            "y/Squeeze = Squeeze(c, y/axes)",
            "y/Squeeze_1 = Squeeze(s, y/axes_1)",
            "y = RotaryEmbedding(x, y/Squeeze, y/Squeeze_1)",
        ]

    @pytest.mark.parametrize("model", [NEIGHBOURS, COMPLEX, GPTJ], ids=["strided", "complex", "gpt-j"])
    def test_neighbours(self, model: ir.Model) -> None:
        model = model.clone()
        assert ops(apply(RaiseRotaryEmbedding(), model))[-1] == "RotaryEmbedding"
        assert rotation(model).attributes["interleaved"].as_int() == 1
        assert {node.op_type for node in model.graph}.isdisjoint({"Add", "Sub", "Mul", "Neg"})

    def test_the_first_elements_alone(self) -> None:
        model = PARTIAL.clone()
        assert apply(RaiseRotaryEmbedding(), model)[-1] == "y = RotaryEmbedding{rotary_embedding_dim=4}(x, cc, ss)"
        assert ops(lines(model)) == ["Cos", "Sin", "RotaryEmbedding"]

    def test_a_part_by_itself_where_the_rest_comes_first(self) -> None:
        sums = [line.replace("y =", "t =") for line in SUM]
        text = ("(rest, x) = Split{axis=-1}(w, [4, 8])", *TABLES, *ROTATED, *sums, "y = Concat{axis=-1}(rest, t)")
        model = made(*text, inputs={"w": "float[batch, 4, t, 12]", "f": "float[batch, t, 4]"})
        assert ops(apply(RaiseRotaryEmbedding(), model)) == ["Split", "Cos", "Sin", "RotaryEmbedding", "Concat"]

    @pytest.mark.parametrize(
        "last",
        [
            ("p = Mul(c, x)", "q = Mul(s, r)", "y = Add(q, p)"),
            ("p = Mul(x, c)", "m = Neg(r)", "q = Mul(m, s)", "y = Sub(p, q)"),
        ],
        ids=["commuted", "subtracted"],
    )
    def test_whichever_way_it_is_summed(self, last: tuple[str, ...]) -> None:
        assert ops(apply(RaiseRotaryEmbedding(), made(*TABLES, *ROTATED, *last)))[-1] == "RotaryEmbedding"

    def test_negated_before_it_is_cut(self) -> None:
        text = ("m = Neg(x)", "n = Slice(m, [4], [8], [3])", "a = Slice(x, [0], [4], [3])", "r = Concat{axis=3}(n, a)")
        assert ops(apply(RaiseRotaryEmbedding(), made(*TABLES, *text, *SUM)))[-1] == "RotaryEmbedding"

    @pytest.mark.parametrize(
        "ff",
        [
            ("ff = Tile(f, [1, 1, 2])",),
            ("ff = Concat{axis=2}(f, f)",),
            ("ff = Gather{axis=2}(f, [0, 1, 2, 3, 0, 1, 2, 3])",),
        ],
        ids=["tile", "concat", "gather"],
    )
    def test_however_tables_are_repeated(self, ff: tuple[str, ...]) -> None:
        model = made(*ff, *TABLES[1:], *ROTATED, *SUM, inputs={"x": "float[2, 4, 6, 8]", "f": "float[1, 6, 4]"})
        found = apply(RaiseRotaryEmbedding(), model)
        assert ops(found) == ["Cos", "Expand", "Sin", "Expand", "RotaryEmbedding"]

    @pytest.mark.parametrize("wide", ["Expand(e, [1, 1, 1, 2])", "Tile(e, [1, 1, 1, 2])", "Concat{axis=-1}(e, e)"])
    def test_however_tables_are_repeated_for_neighbours(self, wide: str) -> None:
        text = ("e = Unsqueeze(f, [-1])", f"w = {wide}", "ff = Reshape(w, [0, 0, 8])", *TABLES[1:])
        turned = ("t = Concat{axis=-1}(ne, ae)", "r = Reshape(t, [0, 0, 0, 8])")
        parts = (*STRIDED, "n = Neg(b)", "ne = Unsqueeze(n, [-1])", "ae = Unsqueeze(a, [-1])", *turned)
        model = made(*text, *parts, *SUM, inputs={"x": "float[1, 4, 6, 8]", "f": "float[1, 6, 4]"})
        assert ops(apply(RaiseRotaryEmbedding(), model)) == ["Cos", "Sin", "RotaryEmbedding"]

    def test_repeated_while_the_axis_of_heads_is_put_in(self) -> None:
        text = ("e = Unsqueeze(f, [2, -1])", "w = Expand(e, [1, 1, 1, 1, 2])", "t = Reshape(w, [0, 0, 0, 8])")
        turned = ("n = Neg(b)", "ne = Unsqueeze(n, [-1])", "ae = Unsqueeze(a, [-1])", "j = Concat{axis=-1}(ne, ae)")
        last = ("r = Reshape(j, [0, 0, 0, 8])", "p = Mul(x, t)", "q = Mul(r, t)", "y = Add(p, q)")
        model = made(*text, *STRIDED, *turned, *last, inputs={"x": "float[1, 6, 4, 8]", "f": "float[1, 6, 4]"})
        assert apply(RaiseRotaryEmbedding(), model) == [
            "y/Reshape = Reshape(x, y/shape)",
            "y/RotaryEmbedding = RotaryEmbedding{interleaved=1, num_heads=4}(y/Reshape, f, f)",
            "y = Reshape(y/RotaryEmbedding, y/shape_1)",
        ]

    def test_scaled_tables_stay_scaled(self) -> None:
        tables = [line.replace("c3 =", "c2 =").replace("s3 =", "s2 =") for line in TABLES]
        scaled = ("c3 = Mul(c2, 0.8)", "s3 = Mul(0.8, s2)")
        inputs = ANGLES | {"f": "float[batch, sequence, 4]"}
        model = made(*tables[:3], *scaled, *tables[3:], *ROTATED, *SUM, inputs=inputs)
        assert ops(apply(RaiseRotaryEmbedding(), model)) == ["Cos", "Mul", "Sin", "Mul", "RotaryEmbedding"]

    def test_tables_of_all_positions(self) -> None:
        angles = np.outer(np.arange(16), 0.1 ** np.arange(4)).astype(np.float32)
        tables = {"cs": np.tile(np.cos(angles), 2), "ss": np.tile(np.sin(angles), 2)}
        text = ("c3 = Gather(cs, at)", "s3 = Gather(ss, at)", "c = Unsqueeze(c3, [1])", "s = Unsqueeze(s3, [1])")
        model = made(*text, *ROTATED, *SUM, inputs={"x": X, "at": "int64[batch, sequence]"}, **tables)
        found = apply(RaiseRotaryEmbedding(), model)
        assert ops(found) == ["Gather", "Gather", "RotaryEmbedding"]
        assert [value.shape for value in model.graph.initializers.values()] == [(16, 4)] * 2

    def test_tables_that_are_constants(self) -> None:
        angles = np.outer(np.arange(6), 0.1 ** np.arange(4)).astype(np.float32)
        tables = {"c": np.tile(np.cos(angles), 2), "s": np.tile(np.sin(angles), 2)}
        model = made(*ROTATED, *SUM, inputs={"x": "float[1, 4, 6, 8]"}, **tables)
        assert ops(apply(RaiseRotaryEmbedding(), model)) == ["Unsqueeze", "Unsqueeze", "RotaryEmbedding"]

    def test_heads_behind_the_sequence(self) -> None:
        tables = [line.replace("[1])", "[2])") for line in TABLES]
        inputs = {"x": "float[batch, sequence, 4, 8]", "f": "float[batch, sequence, 4]"}
        model = made(*tables, *ROTATED, *SUM, inputs=inputs)
        assert ops(apply(RaiseRotaryEmbedding(), model)) == ["Reshape", "Cos", "Sin", "RotaryEmbedding", "Reshape"]
        assert rotation(model).attributes["num_heads"].as_int() == 4

    def test_a_transpose_moves_behind(self) -> None:
        inputs = {"w": "float[batch, sequence, 32]", "f": "float[batch, sequence, 4]"}
        text = ("w4 = Reshape(w, [0, 0, 4, 8])", "x = Transpose{perm=[0, 2, 1, 3]}(w4)")
        model = made(*text, *TABLES, *ROTATED, *SUM, inputs=inputs)
        assert ops(apply(RaiseRotaryEmbedding(), model)) == ["Cos", "Sin", "RotaryEmbedding", "Reshape", "Transpose"]
        assert rotation(model).inputs[0] is model.graph.inputs[0]

    def test_a_transpose_that_is_read_elsewhere_stays(self) -> None:
        inputs = {"w": "float[batch, sequence, 4, 8]", "f": "float[batch, sequence, 4]"}
        text = ("x = Transpose{perm=[0, 2, 1, 3]}(w)", "z = Relu(x)", "y0 = Add(o, z)")
        rest = [line.replace("y =", "o =") for line in SUM]
        model = made(text[0], *TABLES, *ROTATED, *rest, text[1], "y = Add(o, z)", inputs=inputs)
        assert ops(apply(RaiseRotaryEmbedding(), model)) == [
            "Transpose",
            "Cos",
            "Sin",
            "RotaryEmbedding",
            "Relu",
            "Add",
        ]

    def test_one_head(self) -> None:
        lines_ = [line.replace(", c)", ", c3)").replace(", s)", ", s3)") for line in (*ROTATED, *SUM)]
        model = made(*TABLES[:3], *lines_, inputs={"x": "float[batch, t, 8]", "f": "float[batch, t, 4]"})
        apply(RaiseRotaryEmbedding(), model)
        assert rotation(model).attributes["num_heads"].as_int() == 1

    def test_in_branches(self) -> None:
        model = inside_if(HALF)
        apply(RaiseRotaryEmbedding(), model)
        assert [node.op_type for node in model.graph.all_nodes()].count("RotaryEmbedding") == 2

    def test_it_stands_for_what_it_replaced(self) -> None:
        model = HALF.clone()
        apply(RaiseRotaryEmbedding(), model)
        assert len(sources(rotation(model))) >= 6


def halves(inputs: Mapping[str, str] | None = None, **lines_: str | tuple[str, ...]) -> ir.Model:
    """The rotation by halves, the lines of some names written otherwise."""
    text: list[str] = []
    for line in (*TABLES, *ROTATED, *SUM):
        new = lines_.get(line.split(" = ")[0], line)
        text += [new] if isinstance(new, str) else new
    return made(*text, inputs=ANGLES | dict(inputs or {}))


def explicit(last: str | tuple[str, ...] = "y = Concat{axis=-1}(u, v)", **inputs: str) -> ir.Model:
    """The rotation written out, joined by `last`."""
    return made(*HALVES, *PRODUCTS, *([last] if isinstance(last, str) else last), inputs=FULL | inputs)


REPEATED = ("fe = Unsqueeze(f, [-1])", "fw = Concat{axis=-1}(fe, fe)", "ff = Reshape(fw, [0, 0, 8])")
THIRDS = {"x": "float[batch, 4, sequence, 9]", **dict.fromkeys("cs", "float[batch, 1, sequence, 3]")}
LEFT: dict[str, tuple[Callable[[], ir.Model], str]] = {
    "turned the other way": (lambda: halves(n="n = Neg(a)", r="r = Concat{axis=-1}(b, n)"), "sign"),
    "subtracted": (lambda: halves(y="y = Sub(p, q)"), "sign"),
    "both negative": (lambda: halves(r=("na = Neg(a)", "r = Concat{axis=-1}(n, na)")), "sign"),
    "parts the other way": (lambda: explicit("y = Concat{axis=-1}(v, u)"), "sign"),
    "halves swapped": (lambda: halves(r="r = Concat{axis=-1}(a, n)"), "pairs"),
    "one of the two terms": (lambda: halves(y="y = Add(q, q)"), "pairs"),
    "real part twice": (lambda: explicit("y = Concat{axis=-1}(u, u)"), "sign"),
    "halves stacked": (lambda: explicit((*STACK, "y = Reshape(uv, [0, 0, 0, 8])")), "pairs"),
    "an odd number": (
        lambda: made(
            "(a, b, e) = Split{axis=-1, num_outputs=3}(x)", *PRODUCTS, "y = Concat{axis=-1}(u, v, e)",
            inputs=FULL | THIRDS,
        ),
        "pairs",
    ),
    "another x": (lambda: halves({"w": X}, p="p = Mul(w, c)"), "rotation"),
    "another axis": (
        lambda: halves(
            {"s": "float[batch, 1, 1, 1]"}, s=(), r="r = Concat{axis=1}(n, a)",
            y=("z = Slice(q, [0], [4], [1])", "y = Add(p, z)"),
        ),
        "rotation",
    ),
    "unequal halves": (lambda: halves({"g": ANGLES["f"]}, ff="ff = Concat{axis=-1}(f, g)"), "table"),
    "tables repeated as for neighbours": (lambda: halves(ff=REPEATED), "table"),
    "tables without a proof": (
        lambda: made(*ROTATED, *SUM, inputs={"x": X, **dict.fromkeys("cs", "float[1, 1, sequence, 8]")}), "table",
    ),
    "several tables": (
        lambda: made(
            *HALVES, *(line.replace("(b, c)", "(b, d)") for line in PRODUCTS), "y = Concat{axis=-1}(u, v)",
            inputs=FULL | {"d": FULL["c"]},
        ),
        "table",
    ),
    "a table for each head": (lambda: explicit(c="float[batch, 4, sequence, 4]"), "table"),
    "one angle for all": (lambda: explicit(c="float[batch, 1, sequence, 1]"), "table"),
    "one position for all": (lambda: explicit(s="float[batch, 1, 1, 4]"), "sequence"),
    "tables of another length": (lambda: explicit(s="float[batch, 1, other, 4]"), "sequence"),
    "tables of another batch": (lambda: explicit(x="float[1, 4, sequence, 8]"), "batch"),
    "tables over the heads": (lambda: explicit(c="float[4, 1, 4]", s="float[4, 1, 4]"), "heads"),
    "a rest that changes": (
        lambda: made(
            "(a, b, e) = Split{axis=-1}(x, [4, 4, 2])", *PRODUCTS, "m = Neg(e)", "y = Concat{axis=-1}(u, v, m)",
            inputs=FULL | {"x": "float[batch, 4, sequence, 10]"},
        ),
        "rest",
    ),
    "double precision": (
        lambda: explicit(**{name: kind.replace("float", "double") for name, kind in FULL.items()}), "type",
    ),
    "five axes": (lambda: explicit(x="float[2, batch, 4, sequence, 8]"), "rotation"),
    "heads of unknown size": (lambda: explicit(x="float[batch, 4, sequence, n]"), "rotation"),
    "heads of unknown number": (
        lambda: explicit(x="float[batch, sequence, heads, 8]", c="float[sequence, 1, 4]", s="float[sequence, 1, 4]"),
        "heads",
    ),
}  # fmt: skip


class TestLeavesAlone:
    @pytest.mark.parametrize(("build", "rule"), LEFT.values(), ids=LEFT)
    def test_what_is_no_rotation(self, build: Callable[[], ir.Model], rule: str) -> None:
        model = build()
        found = misses(RaiseRotaryEmbedding(), model)
        assert rule in [miss.rule for miss in found]
        before = lines(model)
        RaiseRotaryEmbedding().apply(model, Context())
        assert lines(model) == before

    @pytest.mark.parametrize("bad", [np.nan, 0.5])
    def test_constant_tables_whose_halves_differ_somewhere(self, bad: float) -> None:
        table = np.tile(np.ones((6, 4), np.float32), 2)
        table[3, 6] = bad
        model = made(*ROTATED, *SUM, inputs={"x": "float[1, 4, 6, 8]"}, c=table, s=np.ones_like(table))
        assert [miss.rule for miss in misses(RaiseRotaryEmbedding(), model)] == ["table"]

    def test_masks_and_norms_are_no_places(self) -> None:
        model = graph("m = Sub(1.0, k)", "n = Neg(k)", "y = Add(m, n)", inputs={"k": X})
        assert misses(RaiseRotaryEmbedding(), model) == []


class TestHolds:
    @pytest.mark.parametrize(
        "model", [HALF, EXPLICIT, NEIGHBOURS, COMPLEX, GPTJ, PARTIAL],
        ids=["half", "explicit", "strided", "complex", "gpt-j", "partial"],
    )  # fmt: skip
    @pytest.mark.parametrize("sizes", [{"batch": 1, "sequence": 1}, {"batch": 3, "sequence": 5}])
    def test_in_every_form(self, model: ir.Model, sizes: dict[str, int]) -> None:
        holds(RaiseRotaryEmbedding(), model, sizes)

    @pytest.mark.parametrize("rest", [0, 2])
    @pytest.mark.parametrize("stretched", ["1", "batch"])
    def test_with_heads_behind_the_sequence(self, rest: int, stretched: str) -> None:
        text = (
            f"(a, b, e) = Split{{axis=-1}}(x, [4, 4, {rest}])",
            "c = Unsqueeze(f, [2])",
            "s = Unsqueeze(g, [2])",
            *PRODUCTS,
            "y = Concat{axis=-1}(u, v, e)" if rest else "y = Concat{axis=-1}(u, v)",
        )
        inputs = {"x": f"float[batch, sequence, 4, {8 + rest}]"}
        inputs |= dict.fromkeys("fg", f"float[{stretched}, sequence, 4]")
        holds(RaiseRotaryEmbedding(), made(*text, inputs=inputs), {"batch": 2, "sequence": 3})

    def test_behind_a_transpose(self) -> None:
        inputs = {"w": "float[batch, sequence, 32]", "f": "float[1, sequence, 4]"}
        text = ("w4 = Reshape(w, [0, 0, 4, 8])", "x = Transpose{perm=[0, 2, 1, 3]}(w4)")
        holds(RaiseRotaryEmbedding(), made(*text, *TABLES, *ROTATED, *SUM, inputs=inputs), {"batch": 2, "sequence": 3})

    def test_in_half_precision(self) -> None:
        text = [*TABLES[:3], "ch = Cast{to=10}(c3)", "sh = Cast{to=10}(s3)", "c = Unsqueeze(ch, [1])",
                "s = Unsqueeze(sh, [1])", *ROTATED, *SUM]  # fmt: skip
        model = made(*text, inputs={"x": X.replace("float", "float16"), "f": ANGLES["f"]})
        holds(RaiseRotaryEmbedding(), model, {"batch": 2, "sequence": 3})
