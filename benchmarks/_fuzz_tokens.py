"""Recipes for sequences of tokens and of samples: rotation, caches, linear attention, spectra, n-grams."""

from __future__ import annotations

import numpy as np
from tersor.benchmarks._fuzz_graph import FLOATS, Builder, Recipe, Value

_SINGLE = FLOATS[0]


def rotated(g: Builder) -> None:
    heads, width, rows = g.integer(1, 2), g.choose([4, 2, 8]), g.integer(1, 3)
    dtype = g.choose([_SINGLE, _SINGLE, FLOATS[2]])
    flat = g.flag()
    x = g.new(dtype, (1, rows, heads * width) if flat else (1, heads, rows, width))
    turned = width // 2 if width > 2 and g.flag() else 0
    half = (turned or width) // 2
    places = g.give(np.arange(rows, dtype=np.int64)[None] % 3) if g.flag() else None
    shape = (1, rows, half) if places is None else (4, half)
    angles = np.random.default_rng(g.integer(0, 99)).standard_normal(shape)
    tables = [g.give(part.astype(dtype)) for part in (np.cos(angles), np.sin(angles))]
    flags = g.attributes("RotaryEmbedding", interleaved=1, rotary_embedding_dim=turned or None)
    if turned:
        flags["rotary_embedding_dim"] = turned
    g.node("RotaryEmbedding", [x, *tables, places], **flags, **({"num_heads": heads} if flat else {}))


def cached(g: Builder) -> None:
    batch, most, rows = g.integer(1, 2), g.integer(2, 4), g.integer(1, 2)
    cache, update = g.new(_SINGLE, (batch, 2, most, 3)), g.new(_SINGLE, (batch, 2, rows, 3))
    mode = g.choose(["linear", "circular"])
    latest = most - rows if mode == "linear" else most - 1
    at = [g.give(np.full(batch, g.integer(0, latest), np.int64))] if g.flag() else []
    g.node("TensorScatter", [cache, update, *at], **g.attributes("TensorScatter", axis=-2) | {"mode": mode})


def grouped(g: Builder) -> None:
    """Attention as decoders have it: rows of tokens, grouped heads, a past, several outputs."""
    heads, groups, width, rows, total = g.choose([2, 4]), g.choose([1, 2]), 2, g.integer(1, 3), g.integer(0, 2)
    q = g.new(_SINGLE, (2, rows, heads * width))
    k, v = (g.new(_SINGLE, (2, rows, groups * width)) for _ in range(2))
    past: list[Value | None] = [g.new(_SINGLE, (2, groups, total, width)) for _ in range(2)] if g.flag() else [None] * 2
    seen = rows + (total if past[0] else 0)
    mask = g.new(g.choose([_SINGLE, np.dtype("bool")]), (rows, seen)) if g.flag() else None
    flags = g.attributes("Attention", is_causal=1, softcap=2.0, qk_matmul_output_mode=g.integer(0, 3))
    outputs = 4 if "qk_matmul_output_mode" in flags else 3 if past[0] else 1
    g.node("Attention", [q, k, v, mask, *past], outputs, q_num_heads=heads, kv_num_heads=groups, **flags)


def causal_convolution(g: Builder) -> None:
    channels, size, batch = g.integer(1, 3), g.integer(1, 3), g.integer(1, 2)
    dtype = g.dtype([FLOATS[0], FLOATS[2]])
    inputs: list[Value | None] = [
        g.new(dtype, (batch, channels, g.integer(1, 4))),
        g.new(dtype, (channels, 1, size)),
        g.new(dtype, (channels,)) if g.flag() else None,
        g.new(dtype, (batch, channels, size - 1)) if g.flag() else None,
    ]
    flags = g.attributes("CausalConvWithState", activation=g.choose(["silu", "none"]))
    g.node("CausalConvWithState", inputs, 2, **flags)


def linear_attention(g: Builder) -> None:
    heads, groups, rows, key, value = g.choose([1, 2, 4]), g.choose([1, 2]), g.integer(1, 3), 2, g.choose([2, 3])
    heads = max(heads, groups)
    rule = g.choose(["linear", "gated", "delta", "gated_delta"])
    q, k, v = (
        g.new(_SINGLE, (1, rows, count * width)) for count, width in ((heads, key), (groups, key), (groups, value))
    )
    draws = np.random.default_rng(g.integer(0, 99))
    inputs: list[Value | None] = [
        *(q, k, v),
        g.new(_SINGLE, (1, groups, key, value)) if g.flag() else None,
        g.give(-draws.random((1, rows, groups)).astype(_SINGLE)) if "gated" in rule else None,
        g.give(draws.random((1, rows, groups)).astype(_SINGLE)) if "delta" in rule else None,
    ]
    flags = g.attributes("LinearAttention", scale=0.5)
    g.node("LinearAttention", inputs, 2, q_num_heads=heads, kv_num_heads=groups, update_rule=rule, **flags)


def gated(g: Builder) -> None:
    x = g.pick(g.types("SwiGLU"))
    g.node("SwiGLU", [x, g.pick([x.dtype], shape=x.shape)], **g.attributes("SwiGLU", alpha=g.number(0.5, 2.0)))


def spectra(g: Builder) -> None:
    dtype = g.choose([_SINGLE, FLOATS[1]])
    length, frame = g.integer(4, 9), g.integer(2, 4)
    x = g.new(dtype, (g.integer(1, 2), length, g.choose([1, 1, 2])))
    step = g.give(np.array(g.integer(1, 3), np.int64), fixed=True)
    window = g.new(dtype, (frame,)) if g.flag() else None
    size = g.give(np.array(frame, np.int64), fixed=True) if window is None or g.flag() else None
    flags = {"onesided": 0} if x.shape[2] == 2 else g.attributes("STFT", onesided=g.integer(0, 1))
    g.node("STFT", [x, step, window, size], **flags)


def mel(g: Builder) -> None:
    sizes = [g.give(np.array(n, np.int64), fixed=True) for n in (g.integer(1, 4), g.choose([8, 16]), 800)]
    edges = [g.give(np.array(n, _SINGLE), fixed=True) for n in (g.choose([0.0, 20.0]), g.choose([100.0, 400.0]))]
    g.node("MelWeightMatrix", [*sizes, *edges], **g.attributes("MelWeightMatrix", output_datatype=g.choose([1, 11, 7])))


def grams(g: Builder) -> None:
    x = g.give(np.random.default_rng(g.integer(0, 99)).integers(0, 5, (g.choose([1, 2]), g.integer(1, 6))))
    most = g.integer(1, 2)
    flags = {"weights": [0.5, 1.0, 2.0, 3.0, 1.5]} if g.flag() else {}
    g.node(
        "TfIdfVectorizer",
        [x],
        mode=g.choose(["TF", "IDF", "TFIDF"]),
        min_gram_length=g.integer(1, most),
        max_gram_length=most,
        max_skip_count=g.integer(0, 2),
        ngram_counts=[0, 3],
        ngram_indexes=[0, 1, 2, 3, 4],
        pool_int64s=[1, 2, 3, 1, 2, 3, 4],
        **flags,
    )


def determinant(g: Builder) -> None:
    n = g.integer(1, 3)
    g.node("Det", [g.new(g.dtype(g.types("Det")), (*g.shape(most=2), n, n))])


def dropout(g: Builder) -> None:
    """With nothing dropped, as which elements are is chance."""
    x = g.pick(g.types("Dropout"))
    if g.opset < 12:
        g.node("Dropout", [x], g.integer(1, 2), **g.attributes("Dropout", ratio=0.3))
        return
    train = g.flag()
    ratio = g.give(np.array(0.0 if train else 0.7, _SINGLE)) if train or g.flag() else None
    g.node("Dropout", [x, ratio, g.give(np.array(train))], g.integer(1, 2))


TOKENS: tuple[Recipe, ...] = (
    *(rotated, cached, grouped, grouped, causal_convolution, linear_attention, gated, spectra, mel, grams),
    *(determinant, dropout),
)
