"""As many mask rows as queries, which ONNX Runtime's Attention insists on."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.rules.expand_attention_mask import ExpandAttentionMask
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.tests.backends.onnxruntime.attention_models import feeds
from tersor.tests.support import apply, distance, holds, inside_if, misses, on_onnxruntime

FLAT = {"q": "float[batch, sequence, 16]", "k": "float[batch, keys, 16]", "v": "float[batch, keys, 16]"}
SPLIT = {"q": "float[batch, 4, sequence, 4]", "k": "float[batch, 4, keys, 4]", "v": "float[batch, 4, keys, 4]"}
HEADS = "{q_num_heads=4, kv_num_heads=4}"


def attention(mask: str, *, split: bool = False, **inputs: str) -> ir.Model:
    text = f"y = Attention{'' if split else HEADS}(q, k, v, m)"
    return graph(text, inputs=(SPLIT if split else FLAT) | {"m": mask} | inputs)


@pytest.mark.parametrize(("split", "axis"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("mask", ["float[batch, 1, 1, keys]", "bool[1, 4, 1, keys]", "float[1, keys]"])
def test_rewrites(mask: str, split: bool, axis: int) -> None:
    attributes = "" if split else "{kv_num_heads=4, q_num_heads=4}"
    assert apply(ExpandAttentionMask(), attention(mask, split=split)) == [
        f"y/Shape = Shape{{end={axis + 1}, start={axis}}}(q)",
        "y/Concat = Concat{axis=0}(y/Shape, y/one)",
        "y/Expand = Expand(m, y/Concat)",
        f"y = Attention{attributes}(q, k, v, y/Expand)",
    ]


def test_rewrites_beside_a_cache() -> None:
    caches = dict.fromkeys(("ck", "cv"), "float[batch, 4, past, 4]")
    text = "(y, pk, pv) = Attention(q, k, v, m, ck, cv)"
    model = graph(text, inputs=SPLIT | {"m": "float[batch, 1, 1, total]"} | caches)
    assert apply(ExpandAttentionMask(), model)[-1] == "(y, pk, pv) = Attention(q, k, v, y/Expand, ck, cv)"


def test_rewrites_in_branches() -> None:
    found = apply(ExpandAttentionMask(), inside_if(attention("float[batch, 1, 1, keys]")))
    assert sum("Expand(m" in line for line in found) == 2


@pytest.mark.parametrize(
    ("rule", "model"),
    [
        ("mask", graph(f"y = Attention{HEADS}(q, k, v)", inputs=FLAT)),
        ("mask", attention("float")),
        ("mask", attention("float[keys]")),
        ("rows", attention("float[batch, 1, sequence, keys]")),
        ("rows", attention("float[batch, 4, 5, keys]", q="float[batch, 5, 16]")),
        ("rows", attention("float[batch, 1, 1, keys]", q="float[batch, 1, 16]")),
    ],
)
def test_leaves_alone(rule: str, model: ir.Model) -> None:
    (miss,) = misses(ExpandAttentionMask(), model)
    assert miss.rule == rule
    before = lines(model)
    assert apply(ExpandAttentionMask(), model) == before


def test_leaves_a_contrib_attention_alone() -> None:
    assert misses(ExpandAttentionMask(), graph("y = com.microsoft.Attention{num_heads=4}(x, w, b, m)")) == []


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("mask", ["float[batch, 1, 1, keys]", "float[1, keys]", "float[batch, 4, 1, keys]"])
def test_onnxruntime_computes_what_onnx_says(mask: str, split: bool) -> None:
    """The unexpanded mask is what ONNX Runtime refuses, so the interpreter is the oracle."""
    model = attention(mask, split=split)
    given = feeds(model, 3, 5)
    expected = [runner(model)(given)["y"]]
    ExpandAttentionMask().apply(model, Context())
    assert distance(on_onnxruntime(model, given), expected) <= ExpandAttentionMask.contract.tolerance  # type: ignore[union-attr]


@pytest.mark.parametrize("sizes", [{"batch": 1, "sequence": 1, "keys": 1}, {"batch": 3, "sequence": 5, "keys": 7}])
def test_holds(sizes: dict[str, int]) -> None:
    holds(ExpandAttentionMask(), attention("float[batch, 1, 1, keys]"), sizes)
    assert np.isfinite(holds(ExpandAttentionMask(), attention("float[1, keys]", split=True), sizes))
