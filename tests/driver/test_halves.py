"""Models of 16-bit floats through the whole compiler."""

from __future__ import annotations

import numpy as np
import tersor
from tersor.ir.text import graph


def test_a_model_of_16_bit_floats_is_held_to_its_own_roundings() -> None:
    rng = np.random.default_rng(4)
    weights = {name: (rng.standard_normal((64, 64)) / 8).astype(np.float16) for name in ("a", "b", "c")}
    half = graph(
        "h = MatMul(x, a)", "g = Gelu(h)", "i = MatMul(g, b)", "j = Gelu(i)", "y = MatMul(j, c)",
        inputs={"x": "float16[batch, 64]"}, **weights,
    )  # fmt: skip
    made = tersor.compile(half, target="onnxruntime")
    contract = made.manifest["contract"]
    assert contract["exact"]
    # runtimes keep float32 between some of the nodes: further apart than float32's roundings, within 16 of float16's
    assert contract["limit"] == 16 * 2.0**-10
    assert 1e-5 < (contract["loss"] or 0.0) < contract["limit"]
