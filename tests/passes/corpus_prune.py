"""Small graphs with more units than they need, for pruning."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph
from tersor.tests.passes.corpus_attention import X, normal


def redundant_layers() -> ir.Model:
    """Two blocks of attention and a gated layer around a stream, whose parts add little to it."""
    text, weights = list[str](), dict[str, np.ndarray]()
    stream = "x"
    for at in range(2):
        text += [
            f"n{at} = RMSNormalization{{axis=-1}}({stream}, g)",
            *(f"{name}{at} = MatMul(n{at}, w{name}{at})" for name in "qkv"),
            f"a{at} = Attention{{q_num_heads=4, kv_num_heads=4}}(q{at}, k{at}, v{at})",
            f"o{at} = MatMul(a{at}, wo{at})", f"s{at} = Add({stream}, o{at})",
            f"m{at} = RMSNormalization{{axis=-1}}(s{at}, g)",
            f"h{at} = MatMul(m{at}, wh{at})", f"u{at} = MatMul(m{at}, wu{at})", f"r{at} = Sigmoid(h{at})",
            f"p{at} = Mul(r{at}, u{at})", f"d{at} = MatMul(p{at}, wd{at})", f"t{at} = Add(s{at}, d{at})",
        ]  # fmt: skip
        stream = f"t{at}"
        weights |= {f"w{name}{at}": np.roll(normal(32, 32), at + shift, 0) for shift, name in enumerate("qkv")}
        weights |= {f"wo{at}": 0.2 * normal(32, 32 + at)[:, :32], f"wd{at}": 0.2 * normal(64 + at, 32)[:64]}
        weights |= {f"wh{at}": normal(32, 64), f"wu{at}": np.roll(normal(32, 64), at + 1, 1)}
    return graph(*text, "y = RMSNormalization{axis=-1}(t1, g)", inputs=X, g=np.ones(32, np.float32), **weights)


def doubled_neurons() -> ir.Model:
    """A layer whose first neurons are there twice."""
    w, b = normal(32, 48), normal(2, 48)[0]
    return graph(
        "p = MatMul(x, w)", "h = Add(p, b)", "g = Gelu(h)", "y = MatMul(g, v)",
        inputs=X, w=np.concatenate([w, w[:, :16]], 1), b=np.concatenate([b, b[:16]]), v=normal(64, 32),
    )  # fmt: skip


def narrow_stream() -> ir.Model:
    """A stream of 32 features of which the words and layers that write it use 16, behind norms with scales."""
    turn = np.linalg.qr(normal(32, 32))[0][:16]
    return graph(
        "e = Gather(table, ids)", "n = LayerNormalization{axis=-1}(e, g, b)", "u = MatMul(n, up)", "r = Relu(u)",
        "d = MatMul(r, down)", "s = Add(e, d)", "y = LayerNormalization{axis=-1}(s, f, b)",
        inputs={"ids": "int64[batch, sequence]"}, table=5 * normal(50, 16) @ turn, down=0.1 * normal(64, 16) @ turn,
        g=1 + normal(2, 32)[0], f=1 + normal(2, 32)[1], b=normal(32), up=normal(32, 64),
    )  # fmt: skip
