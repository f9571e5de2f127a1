"""What `quantize-dynamic` makes of an encoder gives the same answers on every backend."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.catalogue import BACKENDS
from tersor.ir.compare import compare
from tersor.ir.feeds import random_feeds
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.passes.run import run_pipeline
from tersor.tests.support import installed

#: Of the answers. Quantized activations are 8 bits wide, and each backend rounds at places of its own.
TOLERANCE = 0.03


def encoder() -> ir.Model:
    """Embedding, one block with attention, as text encoders are exported."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    heads = [
        line
        for name in "qkv"
        for line in (
            f"{name}0 = MatMul(e, w{name})",
            f"{name}1 = Add({name}0, b{name})",
            f"{name}2 = Reshape({name}1, [0, 0, 4, 16])",
            f"{name} = Transpose{{perm=[0, 2, 1, 3]}}({name}2)",
        )
    ]
    return graph(
        "e = Gather(table, ids)",
        *heads,
        "a = Attention(q, k, v)",
        "a1 = Transpose{perm=[0, 2, 1, 3]}(a)",
        "a2 = Reshape(a1, [0, 0, 64])",
        "o = MatMul(a2, wo)",
        "s = Add(o, e)",
        "n = LayerNormalization{axis=-1}(s, one, zero)",
        "f = MatMul(n, up)",
        "f1 = Add(f, bup)",
        "g = Gelu(f1)",
        "d = MatMul(g, down)",
        "t = Add(d, n)",
        "y = LayerNormalization{axis=-1}(t, one, zero)",
        inputs={"ids": "int64[batch, sequence]"},
        table=rng.standard_normal((200, 64)).astype(np.float32),
        wo=normal(64, 64),
        up=normal(64, 128),
        down=normal(128, 64),
        bup=normal(128),
        one=np.ones(64, np.float32),
        zero=np.zeros(64, np.float32),
        **{f"w{name}": normal(64, 64) for name in "qkv"},
        **{f"b{name}": normal(64) for name in "qkv"},
    )


@pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=pytest.mark.slow) if name == "inductor" else name for name in BACKENDS]
)
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("headroom", ["pairs", "bits"])
def test_backends_agree_with_the_graph(
    backend: str, rows: bool, embeddings: bool, headroom: Literal["pairs", "bits"]
) -> None:
    model = encoder()
    feeds = random_feeds(model, {"batch": 3, "sequence": 20})
    original = model.clone()
    QuantizeDynamic(rows=rows, embeddings=embeddings, headroom=headroom).apply(model, Context())
    quantized = model.clone()
    made = installed(backend)
    run_pipeline(made.pipeline(), model)
    session = made.compile(model)
    assert compare(quantized, session, feeds).within(TOLERANCE)
    assert compare(original, session, feeds).within(TOLERANCE)
