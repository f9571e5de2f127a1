"""Small graphs with weights that have fewer numbers than they take, for factorising and for shorter tables."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph
from tersor.tests.passes.corpus_attention import X, normal


def low_rank(rows: int, columns: int, rank: int) -> np.ndarray:
    """A matrix of that rank, numbers of the size of `normal`."""
    return (normal(rows, rank) @ normal(rank + 1, columns)[:rank]).astype(np.float32)


def low_rank_layers() -> ir.Model:
    """Attention whose projections read the same few features, one of them split, and a feed forward of few features."""
    shared = normal(32, 6)
    inner = {name: normal(at + 7, 32)[:6] for at, name in enumerate("qkv")}
    return graph(
        *(f"{name} = MatMul(x, w{name})" for name in "qkv"), "a = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v)",
        "o = MatMul(a, wo)", "s = Add(x, o)", "n = LayerNormalization{axis=-1}(s, g, b)",
        "p = MatMul(n, wi)", "h = Add(p, c)", "(f, u) = Split{axis=-1, num_outputs=2}(h)", "r = Sigmoid(f)",
        "m = Mul(r, u)", "d = MatMul(m, wd)", "e = Add(d, t)", "y = Add(s, e)",
        inputs=X, g=np.ones(32, np.float32), b=normal(32), c=normal(96), t=normal(33)[:32],
        wo=low_rank(32, 32, 8), wi=np.concatenate([low_rank(32, 48, 4), low_rank(32, 48, 9)], 1),
        wd=low_rank(48, 32, 7),
        **{f"w{name}": (shared @ each).astype(np.float32) for name, each in inner.items()},
    )  # fmt: skip


def tied_words() -> ir.Model:
    """A table of words that differ in few features, looked up and read by the output head."""
    return graph(
        "e = Gather(t, ids)", "h = LayerNormalization{axis=-1}(e, g, c)", "u = Transpose{perm=[1, 0]}(t)",
        "l = MatMul(h, u)", "y = Add(l, b)",
        inputs={"ids": "int64[batch, sequence]"}, t=low_rank(2048, 48, 6), b=normal(2048), g=np.ones(48, np.float32),
        c=normal(48),
    )  # fmt: skip


def stacked_recurrence() -> ir.Model:
    """Two layers of LSTM: what multiplies the states of the first reads few directions of them."""
    states, words = normal(32, 6), normal(24, 5)
    weights = {
        "w0": words @ normal(6, 128)[:5], "r0": states @ normal(7, 128)[:6], "w1": states @ normal(8, 128)[:6],
        "r1": low_rank(32, 128, 7),
    }  # fmt: skip
    return graph(
        "h = LSTM{hidden_size=32}(x, w0, r0, b0)", "s = Squeeze(h, [1])",
        "(y, _, c) = LSTM{hidden_size=32}(s, w1, r1, b1)",
        inputs={"x": "float[time, batch, 24]"}, outputs=["y", "c"], b0=normal(1, 256), b1=normal(2, 256)[1:],
        **{name: np.ascontiguousarray(array.T[None], np.float32) for name, array in weights.items()},
    )  # fmt: skip


def tensor_layers() -> ir.Model:
    """Layers and a convolution that are products of few small tensors, in four spellings."""
    first, second = normal(2, 4, 4), normal(2, 8, 16)
    products = sum(np.kron(a, b) for a, b in zip(first, second, strict=True))
    taps = np.einsum("or,ir,kr->oik", normal(16, 3), normal(64, 3), normal(5, 3))
    return graph(
        "p = MatMul(x, w)", "h = Add(p, b)", "g = Tanh(h)", "t = Transpose{perm=[0, 2, 1]}(g)",
        "c = Conv{pads=[2, 2]}(t, k, d)", "r = Relu(c)", "l = MatMul(u, r)", "y = Transpose{perm=[0, 2, 1]}(l)",
        inputs=X, w=products.astype(np.float32), b=normal(64), k=taps.astype(np.float32), d=normal(16),
        u=np.kron(normal(6, 4), normal(8, 4)).astype(np.float32),
    )  # fmt: skip
