"""Attention whose projections cannot be packed: com.microsoft MultiHeadAttention."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.onnxruntime.rules.expand_attention_mask import ExpandAttentionMask
from tersor.backends.onnxruntime.rules.fuse_multi_head_attention import FuseMultiHeadAttention
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.edit import constant_of
from tersor.tests.backends.onnxruntime.attention_models import BOOLEAN, additive, feeds, projected
from tersor.tests.support import apply, distance, holds, inside_if, misses, on_onnxruntime

TOLERANCE = FuseMultiHeadAttention.contract.tolerance  # type: ignore[union-attr]
OTHER = "float[batch, keys, 16]"
QKV = {"q": "float[batch, sequence, 16]", "k": OTHER, "v": OTHER}


def bare(mask: tuple[str, ...] = (), attributes: str = "", **inputs: str) -> ir.Model:
    """Attention over inputs, no projections around."""
    settings = f"q_num_heads=4, kv_num_heads=4{', ' * bool(attributes)}{attributes}"
    last = f"y = Attention{{{settings}}}(q, k, v{', m' * bool(mask)})"
    keep = {"keep": "bool[batch, keys]"} if mask else {}
    return graph(*mask, last, inputs=QKV | keep | inputs)


class TestRewrites:
    def test_cross_attention_takes_the_biases(self) -> None:
        model = projected(z=OTHER)
        biases = [constant_of(model.graph.initializers[f"b{name}"]) for name in "qkv"]
        assert apply(FuseMultiHeadAttention(), model)[-1] == (
            "y = com.microsoft.MultiHeadAttention{num_heads=4}(pq, pk, pv, y/packed_bias)"
        )
        np.testing.assert_array_equal(constant_of(model.graph.initializers["y/packed_bias"]), np.hstack(biases))

    def test_without_projections(self) -> None:
        assert apply(FuseMultiHeadAttention(), bare()) == ["y = com.microsoft.MultiHeadAttention{num_heads=4}(q, k, v)"]

    def test_without_biases(self) -> None:
        found = apply(FuseMultiHeadAttention(), projected(z=OTHER, biases=""))
        assert found[-1] == "y = com.microsoft.MultiHeadAttention{num_heads=4}(q, k, v)"

    def test_a_projection_that_others_read_keeps_its_bias(self) -> None:
        found = apply(FuseMultiHeadAttention(), projected(z=OTHER, more=("u = Neg(k)",)))
        assert any(line.endswith("(q, k, v)") for line in found)

    def test_padding(self) -> None:
        assert apply(FuseMultiHeadAttention(), bare(BOOLEAN)) == [
            "y/Cast = Cast{to=6}(keep)",
            "y = com.microsoft.MultiHeadAttention{mask_filter_value=-3.4028235e+38, num_heads=4}(q, k, v, _, y/Cast)",
        ]

    def test_in_branches(self) -> None:
        found = apply(FuseMultiHeadAttention(), inside_if(projected(BOOLEAN, z=OTHER)))
        assert sum("MultiHeadAttention" in line for line in found) == 2


NARROW = dict.fromkeys("kv", "float[batch, keys, 8]")
HALF = dict.fromkeys("qkv", "float16[batch, keys, 16]")
REFUSED = [
    ("form", graph("y = Attention(q, k, v)", inputs=dict.fromkeys("qkv", "float[b, 4, s, 8]"))),
    (
        "heads",
        graph(
            "y = Attention{q_num_heads=4, kv_num_heads=2}(q, k, v)",
            inputs={**QKV, "k": "float[batch, keys, 8]", "v": "float[batch, keys, 8]"},
        ),
    ),
    ("softcap", bare(attributes="softcap=20.0")),
    ("dtype", bare(**HALF)),
    ("causal", bare(attributes="is_causal=1")),
    (
        "causal",
        bare(attributes="is_causal=1", q="float[batch, 5, 16]", k="float[batch, 7, 16]", v="float[batch, 7, 16]"),
    ),
    ("mask", bare(("m = Unsqueeze(full, [1])",), full="bool[batch, sequence, keys]")),
    ("mask", bare(BOOLEAN, keep="bool[batch, sequence]")),
    ("mask", bare(BOOLEAN, keep="bool[1, keys]")),
    ("mask", bare(additive("-inf"))),
    ("mask", bare(("m = Relu(n)",), n="float[batch, 1, 1, keys]")),
]


@pytest.mark.parametrize(("rule", "model"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, model: ir.Model) -> None:
    for value in [value for value in model.graph.inputs if not value.uses()]:
        model.graph.inputs.remove(value)
    (miss,) = misses(FuseMultiHeadAttention(), model)
    assert miss.rule == rule, miss
    before = lines(model)
    assert apply(FuseMultiHeadAttention(), model) == before


MODELS = {
    "inputs": bare(),
    "inputs, padded": bare(BOOLEAN),
    "inputs, padded additively": bare(additive()),
    "inputs, scaled": bare(attributes="scale=0.7"),
    "inputs, causal": bare(attributes="is_causal=1", k=QKV["q"], v=QKV["q"]),
    "cross": projected(z=OTHER),
    "cross, padded": projected(BOOLEAN, z=OTHER),
    "cross, without biases": projected(BOOLEAN, z=OTHER, biases=""),
    "cross, two biases": projected(BOOLEAN, z=OTHER, biases="kv"),
    "cross, values of another width": projected(BOOLEAN, z=OTHER, widths={"v": 8}),
    "self": projected(BOOLEAN),
}


@pytest.mark.parametrize(("batch", "sequence", "keys"), [(1, 1, 1), (3, 5, 7), (3, 7, 5)])
@pytest.mark.parametrize("name", MODELS)
def test_onnxruntime_computes_the_same(name: str, batch: int, sequence: int, keys: int) -> None:
    model = MODELS[name]
    given = feeds(model, batch, sequence, keys)
    before, after = model.clone(), model.clone()
    ExpandAttentionMask().apply(before, Context())
    assert FuseMultiHeadAttention().apply(after, Context()).matches == 1
    assert distance(on_onnxruntime(after, given), on_onnxruntime(before, given)) <= TOLERANCE


@pytest.mark.parametrize("name", ["inputs, padded", "cross, two biases", "inputs, causal"])
def test_holds(name: str) -> None:
    holds(FuseMultiHeadAttention(), MODELS[name])
