"""Attention of ONNX Runtime, in all its layouts, masks and caches."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.ir.text import lines
from tersor.passes.raising.contrib.raise_contrib import RaiseContrib
from tersor.tests.passes.raising.contrib.cases import (
    CACHE,
    CIRCLE,
    PADDED,
    PROJECTED,
    QKV,
    Arrays,
    X,
    agrees,
    grouped,
    model,
    normal,
    run,
)
from tersor.tests.support import apply, distance, on_onnxruntime

PACKED = [
    ("y = Attention{num_heads=2}(x, w, b)", {}),
    ("y = Attention{num_heads=2, scale=0.3, unidirectional=1}(x, w, b)", {}),
    ("y = Attention{num_heads=2}(x, w, b, m)", {"m": PADDED}),
    ("y = Attention{num_heads=2, mask_filter_value=-3.0}(x, w, b, m)", {"m": PADDED}),
    ("y = Attention{num_heads=2, unidirectional=1}(x, w, b, m)", {"m": PADDED}),
    ("y = Attention{num_heads=2}(x, w, b, m)", {"m": np.array([3, 1], np.int32)}),
    ("y = Attention{num_heads=2}(x, w, b, m)", {"m": np.array([3, 2, 1, 0], np.int32)}),
    ("y = Attention{num_heads=2}(x, w, b, m)", {"m": np.tile(PADDED[:, None], (1, 3, 1))}),
    ("y = Attention{num_heads=2}(x, w, b, m)", {"m": np.tril(np.ones((2, 1, 6, 6), np.int32))}),
    ("y = Attention{num_heads=2}(x, w, b, _, _, r)", {"r": normal(2, 2, 3, 3)}),
    ("y = Attention{num_heads=2}(x, w, b, m, _, r)", {"m": PADDED, "r": normal(1, 2, 3, 3)}),
    ("(y, p) = Attention{num_heads=2}(x, w, b, _, past)", {"past": normal(2, 2, 2, 5, 4)}),
    ("(y, p) = Attention{num_heads=2, unidirectional=1}(x, w, b, _, past)", {"past": normal(2, 2, 2, 5, 4)}),
    ("(y, p) = Attention{num_heads=2, unidirectional=1}(x, w, b, m, past)",
     {"past": normal(2, 2, 2, 5, 4), "m": np.array([[1] * 8, [0] * 2 + [1] * 6], np.int32)}),
    ("(y, p) = Attention{num_heads=2}(x, w, b)", {}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "more"), PACKED, ids=[f"{i}-{case[0]}" for i, case in enumerate(PACKED)])
@pytest.mark.parametrize("constant", [True, False])
def test_packed_attention(line: str, more: Arrays, constant: bool) -> None:
    feeds = X | more
    # the CPU kernel takes no mask of four axes
    kernel = "m" not in more or more["m"].ndim < 4
    agrees(line, feeds if constant else feeds | PROJECTED, PROJECTED if constant else {}, kernel=kernel)


def test_packed_attention_with_values_of_another_width() -> None:
    weights = {"w": normal(8, 28) / 3, "b": normal(28)}
    agrees("y = Attention{num_heads=2, qkv_hidden_sizes=[8, 8, 12]}(x, w, b)", X, weights)


APART = [
    ("y = MultiHeadAttention{num_heads=2}(q, k, v)", QKV),
    ("y = MultiHeadAttention{num_heads=2, scale=0.2}(q, k, v, b)", QKV | {"b": normal(24)}),
    ("y = MultiHeadAttention{num_heads=2}(q, k, v, _, m)", QKV | {"m": np.array([[1] * 5, [1, 1, 0, 0, 1]], np.int32)}),
    ("y = MultiHeadAttention{num_heads=2}(q, k, v, _, m)", QKV | {"m": np.array([5, 2], np.int32)}),
    ("y = MultiHeadAttention{num_heads=2}(q, k, v, _, _, r)", QKV | {"r": normal(1, 2, 3, 5)}),
    ("y = MultiHeadAttention{num_heads=2}(q, k, v, _, m, r)",
     QKV | {"m": np.array([[1] * 5, [1, 1, 0, 0, 1]], np.int32), "r": normal(2, 2, 3, 5)}),
    ("y = MultiHeadAttention{num_heads=2, unidirectional=1}(q, q, q)", {"q": QKV["q"]}),
    ("y = MultiHeadAttention{num_heads=2}(q)", {"q": normal(2, 3, 2, 3, 4)}),
    ("y = MultiHeadAttention{num_heads=2}(q, k)", {"q": QKV["q"], "k": normal(2, 5, 2, 2, 4)}),
    ("y = MultiHeadAttention{num_heads=2}(q, k, v)",
     {"q": QKV["q"], "k": normal(2, 2, 5, 4), "v": normal(2, 2, 5, 4, seed=1)}),
    ("y = MultiHeadAttention{num_heads=2}(q, k, v, b)",
     {"q": QKV["q"], "k": normal(2, 2, 5, 4), "v": normal(2, 2, 5, 4, seed=1), "b": normal(24)}),
    ("(y, nk, nv) = MultiHeadAttention{num_heads=2}(q, k, v, _, _, _, pk, pv)", QKV | CACHE),
    ("(y, nk, nv) = MultiHeadAttention{num_heads=2, unidirectional=1}(q, q, q, b, _, _, pk, pv)",
     {"q": QKV["q"], "b": normal(24)} | CACHE),
    ("(y, nk, nv) = MultiHeadAttention{num_heads=2}(q, k, v)", QKV),
    ("(y, nk, nv) = DecoderMaskedMultiHeadAttention{num_heads=2}(q, k, v, _, _, pk, pv)",
     {name: array[:, :1] for name, array in QKV.items()} | CACHE),
]  # fmt: skip


@pytest.mark.parametrize(("line", "feeds"), APART, ids=[f"{i}-{case[0]}" for i, case in enumerate(APART)])
def test_multi_head_attention(line: str, feeds: Arrays) -> None:
    fixed = {"b": feeds["b"]} if "b" in feeds else {}
    # packed inputs and a cache that grows under one new token have no CPU kernel
    kernel = "v" in feeds and "DecoderMasked" not in line
    if "q, q, q" in line:
        kernel = True
    agrees(line, {name: array for name, array in feeds.items() if name not in fixed}, fixed, kernel=kernel)
    agrees(line, feeds, kernel=kernel)


@pytest.mark.parametrize("places", [np.array([3], np.int64), np.array([[0, 1, 2], [5, 7, 9]], np.int64)])
@pytest.mark.parametrize("x", [normal(2, 3, 32), normal(2, 2, 3, 16)], ids=["flat", "heads"])
@pytest.mark.parametrize("options", ["interleaved=0", "interleaved=1"])
def test_rotary_embedding(x: np.ndarray, places: np.ndarray, options: str) -> None:
    agrees(f"y = RotaryEmbedding{{{options}}}(x, p, c, s)", {"x": x, "p": places}, CIRCLE)


def test_rotary_embedding_of_part_of_a_head() -> None:
    half = {name: np.ascontiguousarray(array[:, :4]) for name, array in CIRCLE.items()}
    line = "y = RotaryEmbedding{num_heads=2, rotary_embedding_dim=8}(x, p, c, s)"
    agrees(line, {"x": normal(2, 3, 32), "p": np.array([[0, 1, 2], [5, 7, 9]], np.int64)}, half)


STEPS = {
    "prompt": (5, None, [5, 5]),
    "one token": (1, 6, [7, 7]),
    "one token, shorter rows": (1, 6, [7, 4]),
    "several tokens": (3, 6, [9]),
    "nothing cached": (4, 0, [4, 4]),
    "a longer cache": (1, 9, [5, 5]),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize(
    "options",
    ["", "scale=0.3", "softcap=2.0", "local_window_size=3", "do_rotary=1", "do_rotary=1, rotary_interleaved=1"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_grouped_queries(step: str, options: str, packed: bool) -> None:
    feeds = grouped(*STEPS[step], packed=packed)
    inputs = f"{'p, _, _' if packed else 'q, k, v'}, {'pk, pv' if 'pk' in feeds else '_, _'}, n, t"
    rotary = "do_rotary" in options
    line = f"(y, nk, nv) = GroupQueryAttention{{num_heads=4, kv_num_heads=2{', ' * bool(options)}{options}}}({inputs}"
    before = model(f"{line}{', c, s' if rotary else ''})", feeds, CIRCLE if rotary else {})
    after = before.clone()
    apply(RaiseContrib(), after)
    assert not any(node.domain for node in after.graph), lines(after)
    expected, found = on_onnxruntime(before, feeds), run(after, feeds)
    assert distance(found[:1], expected[:1]) <= RaiseContrib.contract.tolerance
    # what lies beyond a row's end is nobody's business
    for row, length in enumerate(feeds["n"] + 1):
        kept = [[array[row, :, :length] for array in outputs[1:]] for outputs in (found, expected)]
        assert distance(*kept) <= RaiseContrib.contract.tolerance


def test_grouped_queries_with_a_bias() -> None:
    line = "(y, nk, nv) = GroupQueryAttention{num_heads=4, kv_num_heads=2}(q, k, v, pk, pv, n, t, _, _, _, r)"
    agrees(line, grouped(1, 6, [7, 7]) | {"r": normal(1, 4, 1, 7)})
