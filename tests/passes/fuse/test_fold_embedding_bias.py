"""Rows that are added to lookups."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.fuse.fold_embedding_bias import FoldEmbeddingBias
from tersor.tests.support import apply, holds, inside_if, misses

PASS = FoldEmbeddingBias()
INPUTS = {"ids": "int64[batch, sequence]", "at": "int64[1, sequence]", "x": "float[batch, sequence, 4]",
          "thin": "float[batch, sequence, 1]"}  # fmt: skip


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


CONSTANTS = {
    "w": normal(9, 4), "p": normal(6, 4), "c": normal(4), "wide": normal(1, 1, 4), "deep": normal(1, 1, 1, 4),
    "number": np.float32(0.5), "two": normal(2, 1, 4), "inf": np.full(4, np.inf, np.float32),
    "half": normal(6, 4).astype(np.float16), "light": normal(4).astype(np.float16),
}  # fmt: skip


def made(*text: str, outputs: list[str] | None = None) -> ir.Model:
    used = {word for line in text for word in re.findall(r"\w+", line.partition("=")[2])}
    inputs = {name: kind for name, kind in INPUTS.items() if name in used}
    return graph(*text, inputs=inputs, outputs=outputs, **{name: CONSTANTS[name] for name in CONSTANTS if name in used})


WORDS, PLACES = "a = Gather(w, ids)", "b = Gather(p, at)"


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ([WORDS, "s = Add(a, c)", "y = Neg(s)"], ["a = Gather{axis=0}(a/w, ids)", "y = Neg(a)"]),
        ([WORDS, "y = Add(c, a)"], ["y = Gather{axis=0}(a/w, ids)"]),
        ([WORDS, "s = Add(a, wide)", "y = Neg(s)"], ["a = Gather{axis=0}(a/w, ids)", "y = Neg(a)"]),
        ([WORDS, "s = Add(a, number)", "y = Neg(s)"], ["a = Gather{axis=0}(a/w, ids)", "y = Neg(a)"]),
        ([WORDS, PLACES, "s = Add(a, c)", "y = Add(s, b)"], [WORDS, "b = Gather{axis=0}(b/p, at)", "y = Add(a, b)"]),
        ([WORDS, PLACES, "s = Add(a, b)", "y = Add(s, c)"], [WORDS, "b = Gather{axis=0}(b/p, at)", "y = Add(a, b)"]),
        ([PLACES, "s = Add(x, c)", "y = Add(b, s)"], ["b = Gather{axis=0}(b/p, at)", "y = Add(b, x)"]),
    ],
)  # fmt: skip
def test_folds(text: list[str], after: list[str]) -> None:
    assert apply(PASS, made(*text)) == after
    holds(PASS, made(*text))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (["s = Add(x, c)", "y = Neg(s)"], "lookup"),
        ([PLACES, "y = Add(x, b)"], "row"),
        ([WORDS, "s = Add(a, c)", "y = Add(s, a)"], "lookup"),
        ([WORDS, "s = Add(a, c)", "y = Neg(s)", "z = Transpose(w)"], "lookup"),
        ([PLACES, "s = Add(x, c)", "y = Add(b, s)", "z = Neg(s)"], "lookup"),
        ([PLACES, "s = Add(x, c)", "n = Neg(s)", "y = Add(b, n)"], "lookup"),
        ([PLACES, "s = Add(b, two)", "y = Neg(s)"], "row"),
        ([PLACES, "s = Add(b, inf)", "y = Neg(s)"], "row"),
        (["b = Gather(half, at)", "s = Add(b, light)", "y = Neg(s)"], "row"),
        ([PLACES, "s = Add(b, deep)", "y = Neg(s)"], "width"),
        ([PLACES, "s = Add(thin, c)", "y = Add(b, s)"], "width"),
        (["b = Gather{axis=1}(p, at)", "y = Add(b, number)"], "lookup"),
    ],
)
def test_leaves_alone(text: list[str], rule: str) -> None:
    model = made(*text)
    assert rule in {miss.rule for miss in misses(PASS, model)}
    before = lines(model)
    assert apply(PASS, model) == before


def test_leaves_large_tables_and_outputs_alone() -> None:
    assert {miss.rule for miss in misses(FoldEmbeddingBias(limit=8), made(PLACES, "y = Add(b, c)"))} == {"limit"}
    model = made(WORDS, "s = Add(a, c)", "y = Neg(s)", outputs=["a", "y"])
    assert {miss.rule for miss in misses(PASS, model)} == {"lookup"}


def test_the_table_is_read_late() -> None:
    model = made(PLACES, "y = Add(b, c)")
    apply(PASS, model)
    (table,) = model.graph.initializers.values()
    assert isinstance(table.const_value, ir.LazyTensor)
    np.testing.assert_allclose(table.const_value.numpy(), CONSTANTS["p"] + CONSTANTS["c"], rtol=1e-6)


def test_in_branches() -> None:
    """A table that both branches read stays as it is."""
    model = inside_if(made(PLACES, "s = Add(b, c)", "y = Neg(s)"))
    assert {miss.rule for miss in misses(PASS, model)} == {"lookup"}
