"""One-hot vectors times a table, and lookups of flattened ids."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.site import Kind, sites
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.pipeline import Pipeline
from tersor.passes.presets import RAISING
from tersor.passes.raising.embedding.raise_embedding import RaiseEmbedding
from tersor.tests.support import apply, holds, inside_if, misses

PASS = RaiseEmbedding()
TRUSTING = RaiseEmbedding(trust_indices=True)
TABLE = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
INPUTS = {
    "ids": "int64[batch, sequence]", "x": "float[batch, sequence, 3]", "b": "bool[batch, sequence]",
    "u": "uint8[batch, sequence]", "f": "float[batch, sequence]", "shape": "int64[3]",
    "flat": "int64[n]", "m": "float[3, 4]", "depth": "int64",
}  # fmt: skip
CONSTANTS = {
    "t": TABLE, "pair": np.array([0, 1], np.float32), "inf": np.where(TABLE == 3, np.inf, TABLE).astype(np.float32),
    "nan": np.where(TABLE == 3, np.nan, TABLE).astype(np.float32), "places": np.arange(3), "wide": np.arange(3)[None],
    "other": np.array([0, 2, 1]), "column": np.arange(3)[:, None], "square": TABLE[:, :3].copy(), "table": TABLE,
    "whole": TABLE.astype(np.int64), "low": np.int64(-3), "least": np.int64(-4), "zero": np.int64(0),
    "high": np.int64(2), "most": np.int64(3), "on": np.array([0, 2], np.float32), "off": np.array([1, 0], np.float32),
    "truths": np.array([False, True]), "one": np.float32(1), "nought": np.float32(0),
    "even": np.eye(3, dtype=np.float32), "bias": np.ones(4, np.float32), "ones": np.ones((1, 1, 1, 1), np.float32),
}  # fmt: skip


def made(*text: str, outputs: list[str] | None = None) -> ir.Model:
    used = {word for line in text for word in re.findall(r"\w+", line.partition("=")[2])}
    inputs = {name: kind for name, kind in INPUTS.items() if name in used}
    return graph(*text, inputs=inputs, outputs=outputs, **{name: CONSTANTS[name] for name in CONSTANTS if name in used})


CLIP = "i = Clip(ids, zero, high)"
HOT = ["h = OneHot(i, 3, pair)", "y = MatMul(h, t)"]
EQUAL = ["v = Unsqueeze(i, [-1])", "e = Equal(v, places)"]
GATHER = "y = Gather{axis=0}(t, i)"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ([CLIP, *HOT], [CLIP, GATHER]),
        (["i = Mod(ids, most)", *HOT], ["i = Mod(ids, most)", GATHER]),
        (["i = ArgMax{axis=-1, keepdims=0}(x)", *HOT], ["i = ArgMax{axis=-1, keepdims=0}(x)", GATHER]),
        (["i = Cast{to=int64}(b)", *HOT], ["i = Cast{to=7}(b)", GATHER]),
        (["i = Cast{to=int32}(b)", *HOT], ["i = Cast{to=6}(b)", GATHER]),
        (["i = Where(b, high, zero)", *HOT], ["i = Where(b, high, zero)", GATHER]),
        # OneHot counts from the end as Gather does
        (["i = Clip(ids, low, high)", *HOT], ["i = Clip(ids, low, high)", GATHER]),
        ([CLIP, "h = OneHot{axis=2}(i, 3, pair)", "y = MatMul(h, t)"], [CLIP, GATHER]),
        ([CLIP, "h = OneHot(i, 3, [0, 1])", "c = Cast{to=float}(h)", "y = MatMul(c, t)"], [CLIP, GATHER]),
        ([CLIP, "h = OneHot(i, 3, truths)", "c = Cast{to=float}(h)", "y = MatMul(c, t)"], [CLIP, GATHER]),
        (["i = Cast{to=uint8}(b)", *HOT],
         ["i = Cast{to=2}(b)", "y/Cast = Cast{to=7}(i)", "y = Gather{axis=0}(t, y/Cast)"]),
        ([CLIP, *EQUAL, "c = Cast{to=float}(e)", "y = MatMul(c, t)"], [CLIP, GATHER]),
        ([CLIP, "v = Unsqueeze(i, [2])", "e = Equal(wide, v)", "c = Cast{to=float}(e)", "y = MatMul(c, t)"],
         [CLIP, GATHER]),
        ([CLIP, *EQUAL, "c = Where(e, one, nought)", "y = MatMul(c, t)"], [CLIP, GATHER]),
        ([CLIP, "v = Reshape(i, [0, 0, 1])", "e = Equal(v, places)", "c = Cast{to=float}(e)", "y = MatMul(c, t)"],
         [CLIP, "v = Reshape(i, const_0)", "y/Squeeze = Squeeze(v, y/axes)", "y = Gather{axis=0}(t, y/Squeeze)"]),
    ],
)  # fmt: skip
def test_raises_products(text: list[str], after: list[str]) -> None:
    found = [re.sub(r"const_\d", "const_0", line) for line in apply(PASS, made(*text))]
    assert found == after
    assert holds(PASS, made(*text)) == 0.0


FLAT = ["n = Reshape(ids, [-1])", "g = Gather(t, n)"]
LOOKUP = ["y = Gather{axis=0}(t, ids)"]


@pytest.mark.parametrize(
    "text",
    [
        [*FLAT, "y = Reshape(g, [2, 3, 4])"],
        ["n = Flatten{axis=0}(ids)", "f = Reshape(n, [6])", "g = Gather(t, f)", "y = Reshape(g, [2, 3, 4])"],
        [*FLAT, "w = Unsqueeze(g, [0])", "y = Reshape(w, [2, 3, 4])"],
    ],
)
def test_raises_flattened_lookups(text: list[str]) -> None:
    def model() -> ir.Model:
        return graph(*text, inputs={"ids": "int64[2, 3]"}, t=TABLE)

    assert apply(PASS, model()) == LOOKUP
    assert holds(PASS, model()) == 0.0


def test_raises_lookups_of_squeezed_ids() -> None:
    text = ["n = Squeeze(ids, [0])", "g = Gather(t, n)", "y = Unsqueeze(g, [0])"]
    model = graph(*text, inputs={"ids": "int64[1, sequence]"}, t=TABLE)
    assert apply(PASS, model.clone()) == LOOKUP
    assert holds(PASS, model) == 0.0


def test_raises_to_dynamic_axes() -> None:
    model = made(*FLAT, "y = Reshape(g, shape)")
    model.graph.outputs[0].shape = ir.Shape(["batch", "sequence", 4])
    assert apply(PASS, model) == LOOKUP


@pytest.mark.parametrize(
    "text",
    [
        ["n = Reshape(i, [-1])", "h = OneHot(n, 3, pair)", "r = MatMul(h, t)"],
        ["n = Reshape(i, [-1])", "h = OneHot(n, 3, pair)", "r = Gemm(h, t)"],
        ["h = OneHot(i, 3, pair)", "n = Reshape(h, [-1, 3])", "r = MatMul(n, t)"],
    ],
)
def test_raises_flat_products_of_whole_models(text: list[str]) -> None:
    """As TensorFlow's BERT writes its token types: flattened ids or vectors, a product, and back."""
    text = [CLIP, *text, "s = Shape(ids)", "w = Concat{axis=0}(s, [4])", "y = Reshape(r, w)"]
    model = made(*text)
    RAISING.apply(model, Context())
    assert [node.op_type for node in model.graph] == ["Clip", "Gather"]
    (site,) = sites(model)
    assert site.kind is Kind.EMBEDDING


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (["h = OneHot(ids, 3, pair)", "y = MatMul(h, t)"], "range"),
        (["i = Clip(ids, zero, most)", *HOT], "range"),
        (["i = Clip(ids, least, high)", *HOT], "range"),
        (["i = Clip(ids, _, high)", *HOT], "range"),
        (["i = Clip(ids, low, high)", *EQUAL, "c = Cast{to=float}(e)", "y = MatMul(c, t)"], "range"),
        (["i = Cast{to=int64}(u)", *HOT], "range"),
        ([CLIP, "h = OneHot(i, 3, pair)", "y = MatMul(h, inf)"], "finite"),
        ([CLIP, "h = OneHot(i, 3, pair)", "y = MatMul(h, nan)"], "finite"),
        ([CLIP, "h = OneHot(i, 3, on)", "y = MatMul(h, t)"], "one-hot"),
        ([CLIP, "h = OneHot(i, 3, off)", "y = MatMul(h, t)"], "one-hot"),
        ([CLIP, "h = OneHot(i, depth, pair)", "y = MatMul(h, t)"], "one-hot"),
        ([CLIP, "h = OneHot{axis=0}(i, 3, pair)", "y = Neg(h)"], "axis"),
        ([CLIP, "h = OneHot{axis=1}(i, 3, pair)", "y = Neg(h)"], "axis"),
        ([CLIP, "h = OneHot(i, 3, pair)", "y = Neg(h)"], "product"),
        ([CLIP, *HOT, "z = Neg(h)"], "product"),
        ([CLIP, "h = OneHot(i, 3, pair)", "y = MatMul(h, m)"], "table"),
        ([CLIP, "h = OneHot(i, 3, pair)", "y = MatMul(square, h)"], "table"),
        (["n = Clip(flat, zero, high)", "h = OneHot(n, 3, pair)", "y = Gemm(h, t, bias)"], "product"),
        (["n = Clip(flat, zero, high)", "h = OneHot(n, 3, pair)", "y = Gemm{alpha=2.0}(h, t)"], "product"),
        (["n = Clip(flat, zero, high)", "h = OneHot(n, 3, pair)", "y = Gemm{transB=1}(h, even)"], "product"),
        (["n = Clip(flat, zero, high)", "h = OneHot(n, 3, pair)", "y = Gemm{transA=1}(h, m)"], "product"),
        (["i = Round(f)", *HOT], "ids"),
        (
            [CLIP, "v = Unsqueeze(i, [-1])", "e = Equal(v, other)", "c = Cast{to=float}(e)", "y = MatMul(c, t)"],
            "one-hot",
        ),
        ([CLIP, "v = Unsqueeze(i, [1])", "e = Equal(v, column)", "c = Cast{to=float}(e)", "y = Neg(c)"], "one-hot"),
        ([CLIP, *EQUAL, "c = Where(e, nought, one)", "y = MatMul(c, t)"], "product"),
        ([CLIP, *EQUAL, "c = Where(e, ones, nought)", "y = MatMul(c, t)"], "product"),
        (["g = Gather(t, ids)", "y = Reshape(g, [-1, 4])"], "ids"),
        ([*FLAT, "y = Neg(g)"], "shape"),
        ([*FLAT, "y = Reshape(g, shape)"], "shape"),
        ([*FLAT, "y = Reshape(g, [2, -1, 4])"], "shape"),
        ([*FLAT, "y = Reshape(g, [-1, 2])"], "shape"),
        (["n = Reshape(ids, [-1])", "g = Gather(m, n)", "y = Neg(g)"], "table"),
        (["n = Reshape(ids, [-1])", "g = Gather{axis=1}(t, n)", "y = Neg(g)"], "table"),
    ],
)
def test_leaves_alone(text: list[str], rule: str) -> None:
    model = made(*text)
    assert rule in {miss.rule for miss in misses(PASS, model)}
    before = lines(model)
    assert apply(PASS, model) == before


def test_leaves_a_table_of_another_depth_alone() -> None:
    model = graph("i = Cast{to=int64}(b)", "h = OneHot(i, 2, pair)", "y = MatMul(h, m)",
                  inputs={"b": "bool[n]", "m": "float[2, 4]"}, pair=CONSTANTS["pair"])  # fmt: skip
    assert {miss.rule for miss in misses(PASS, model)} == {"table"}


def test_leaves_transposed_lookups_alone() -> None:
    """[batch, sequence] read as [sequence, batch] is another order, even where the sizes are equal."""
    text = ["r = Transpose{perm=[1, 0]}(ids)", "n = Reshape(r, [-1])", "g = Gather(t, n)", "y = Reshape(g, [3, 3, 4])"]
    model = graph(*text, inputs={"ids": "int64[3, 3]"}, t=TABLE)
    assert apply(PASS, model.clone()) == ["r = Transpose{perm=[1, 0]}(ids)", "y = Gather{axis=0}(t, r)"]
    assert holds(PASS, model) == 0.0


def test_no_elements_may_be_reshaped_to_another_width() -> None:
    model = graph(*FLAT, "y = Reshape(g, [0, 3, 5])", inputs={"ids": "int64[0, 3]"}, t=TABLE)
    model.graph.outputs[0].shape = ir.Shape([0, 3, 5])
    assert {miss.rule for miss in misses(PASS, model)} == {"shape"}


def test_leaves_outputs_alone() -> None:
    model = made(CLIP, *HOT, outputs=["h", "y"])
    assert {miss.rule for miss in misses(PASS, model)} == {"product"}


def test_trusts_indices_where_told() -> None:
    text = ["h = OneHot(ids, 3, pair)", "y = MatMul(h, t)"]
    (miss,) = misses(PASS, made(*text))
    assert miss.near and miss.value == "ids: any number" and "trust-indices" in miss.need
    assert apply(TRUSTING, made(*text)) == LOOKUP
    assert holds(TRUSTING, made(*text)) == 0.0
    assert Pipeline.of("raise-embedding{trust-indices=true}") == Pipeline(steps=(TRUSTING,))


def test_in_branches() -> None:
    model = inside_if(made(CLIP, *HOT))
    assert holds(PASS, model) == 0.0
    assert sum("= Gather{" in line for line in apply(PASS, model)) == 2
