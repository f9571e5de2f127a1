"""Biases and angles of positions, held to ONNX Runtime where it has the op for CPUs, else to the reference."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.passes.raising.contrib.raise_contrib import RaiseContrib
from tersor.tests.passes.raising.contrib.cases import CIRCLE, Arrays, agrees, model, normal
from tersor.tests.support import misses

PLACES = np.array([[[0, 1, 5], [2, 2, 2]], [[0, 3, 4], [9, 1, 0]], [[7, 6, 11], [2, 8, 3]]], np.int64)
WAVLM = {"q": normal(2, 3, 8), "p": normal(1, 2, 3, 3)}
GATE = {"s": normal(8), "w": normal(4, 6), "b": normal(6), "e": normal(1, 2, 1, 1)}


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize(
    ("sections", "layout"), [([4, 2, 2], 0), ([0, 8, 0], 0), ([8, 0, 0], 1), ([4, 2, 2], 1), ([2, 3, 3], 1)]
)
def test_three_positions_of_each_token(sections: list[int], layout: int, interleaved: int) -> None:
    settings = f"mrope_section={sections}, mrope_layout={layout}, interleaved={interleaved}"
    for width in ("", ", rotary_embedding_dim=16"):
        by_heads = f"y = MRotaryEmbedding{{{settings}, num_heads=2{width}}}(x, p, c, s)"
        agrees(by_heads, {"x": normal(2, 3, 40 if width else 32), "p": PLACES}, CIRCLE)
    agrees(f"y = MRotaryEmbedding{{{settings}}}(x, p, c, s)", {"x": normal(2, 2, 3, 16), "p": PLACES}, CIRCLE)


@pytest.mark.parametrize("both", [0, 1])
@pytest.mark.parametrize(("buckets", "longest"), [(8, 20), (32, 128), (7, 16)])
def test_the_bias_of_t5(buckets: int, longest: int, both: int) -> None:
    lengths = {"m": np.array([40], np.int64), "n": np.array([50], np.int64)}
    line = f"y = RelativePositionBias{{max_distance={longest}, is_bidirectional={both}}}(t, m, n)"
    agrees(line, lengths, {"t": normal(buckets, 3)}, kernel=False)


def test_the_gated_bias_of_wavlm() -> None:
    agrees("y = GatedRelativePositionBias{num_heads=2}(q, s, p, w, b, e)", WAVLM, GATE, kernel=False)


@pytest.mark.parametrize("outputs", ["y", "(y, z)"])
def test_the_angles_of_gemma(outputs: str) -> None:
    feeds = {"a": normal(2, 3, 4)} | {name: normal(2, 5, 3, 4, seed=index) for index, name in enumerate("qrkt")}
    agrees(f"{outputs} = GemmaRotaryEmbedding(a, q, r, k, t)", feeds, kernel=False)


REFUSED = [
    ("layout", "y = MRotaryEmbedding{mrope_section=[4, 2, 2], is_packed_batching=1}(x, p, c, s)",
     {"x": normal(2, 3, 32), "p": PLACES}, CIRCLE),
    ("scale", "y = MRotaryEmbedding{mrope_section=[4, 2, 2], scale=2.0}(x, p, c, s)",
     {"x": normal(2, 3, 32), "p": PLACES}, CIRCLE),
    ("sections", "y = MRotaryEmbedding{mrope_section=[4, 2, 1]}(x, p, c, s)",
     {"x": normal(2, 3, 32), "p": PLACES}, CIRCLE),
    ("heads", "y = MRotaryEmbedding{mrope_section=[4, 2, 2]}(x, p, c, s)",
     {"x": normal(2, 3, 32), "p": PLACES}, CIRCLE),
    ("rank", "y = MRotaryEmbedding{mrope_section=[4, 2, 2]}(x, p, c, s)", {"x": normal(6, 16), "p": PLACES}, CIRCLE),
    ("distance", "y = RelativePositionBias{max_distance=4}(t, m, n)",
     {"m": np.array([4], np.int64), "n": np.array([4], np.int64)}, {"t": normal(8, 2)}),
    ("layout", "y = GatedRelativePositionBias{num_heads=2}(q, s, p, w, b, e, o)",
     WAVLM | {"o": np.zeros((2, 3), np.int32)}, GATE),
    ("weight", "y = GatedRelativePositionBias{num_heads=2}(q, s, p, w, b, e)", WAVLM,
     GATE | {"w": normal(4, 5), "b": normal(5)}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "line", "feeds", "constants"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)]
)
def test_leaves_alone(rule: str, line: str, feeds: Arrays, constants: Arrays) -> None:
    (miss,) = misses(RaiseContrib(), model(line, feeds, constants))
    assert miss.rule == rule, miss
