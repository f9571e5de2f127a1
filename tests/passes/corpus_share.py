"""Small graphs with weights that are alike, for sharing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.clean.infer_shapes import InferShapes
from tersor.tests.passes.corpus_attention import X, normal


def shared_basis() -> ir.Model:
    """Two feed-forward blocks around a stream, whose weights of one role combine the same few columns."""
    up, down = normal(32, 10), normal(64, 10)
    text, weights = list[str](), dict[str, np.ndarray]()
    stream = "x"
    for at in range(2):
        text += [
            f"n{at} = LayerNormalization{{axis=-1}}({stream}, g{at}, b{at})",
            f"p{at} = MatMul(n{at}, u{at})", f"h{at} = Add(p{at}, c{at})", f"r{at} = Relu(h{at})",
            f"d{at} = MatMul(r{at}, v{at})", f"s{at} = Add({stream}, d{at})",
        ]  # fmt: skip
        stream = f"s{at}"
        weights |= {
            f"u{at}": (up @ normal(10 + at, 64)[:10]).astype(np.float32),
            f"v{at}": (0.3 * down @ normal(10 + at, 32)[:10]).astype(np.float32),
            f"g{at}": np.ones(32, np.float32), f"b{at}": 0.1 * normal(32 + at)[:32], f"c{at}": normal(64 + at)[:64],
        }  # fmt: skip
    return graph(*text, "y = Neg(s1)", inputs=X, **weights)


def layer(seed: int = 0, *, noise: float = 0.0, turned: bool = False) -> dict[str, np.ndarray]:
    """The weights of a block of `layers`: of one model for any seed, up to noise and the order of neurons and heads."""
    weights = {
        **{f"w{name}": normal(32, 32 + at)[:, :32] for at, name in enumerate("qkv")},
        "wo": 0.3 * normal(32, 36)[:, :32], "up": normal(32, 48), "ub": normal(48), "down": 0.3 * normal(48, 32),
        "db": 0.1 * normal(3, 32)[0], "g": 1 + 0.1 * normal(3, 32)[1], "b": 0.1 * normal(3, 32)[2],
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    if turned:
        neurons, heads = rng.permutation(48), rng.permutation(4)
        features = (heads[:, None] * 8 + np.arange(8)).reshape(-1)
        weights |= {name: weights[name][:, features] for name in ("wq", "wk", "wv")}
        weights |= {"wo": weights["wo"][features], "up": weights["up"][:, neurons], "ub": weights["ub"][neurons]}
        weights["down"] = weights["down"][neurons]
    return {
        name: (array + noise * rng.standard_normal(array.shape) * np.sqrt(np.mean(array**2))).astype(np.float32)
        for name, array in weights.items()
    }


def layers(*found: dict[str, np.ndarray], epsilons: Sequence[float] = (), beside: Sequence[str] = ()) -> ir.Model:
    """Blocks of attention and a feed-forward layer around a stream, each with weights of its own.

    epsilons: of each block's norms. beside: what is an output of the model too.
    """
    text, weights, stream = list[str](), dict[str, np.ndarray](), "x"
    for at, block in enumerate(found):
        norm = f"LayerNormalization{{axis=-1, epsilon={epsilons[at] if epsilons else 1e-5}}}"
        text += [
            f"n{at} = {norm}({stream}, g{at}, b{at})",
            *(f"{name}{at} = MatMul(n{at}, w{name}{at})" for name in "qkv"),
            f"a{at} = Attention{{q_num_heads=4, kv_num_heads=4}}(q{at}, k{at}, v{at})",
            f"o{at} = MatMul(a{at}, wo{at})", f"s{at} = Add({stream}, o{at})", f"m{at} = {norm}(s{at}, g{at}, b{at})",
            f"p{at} = MatMul(m{at}, up{at})", f"h{at} = Add(p{at}, ub{at})", f"r{at} = Gelu(h{at})",
            f"d{at} = MatMul(r{at}, down{at})", f"e{at} = Add(d{at}, db{at})", f"t{at} = Add(s{at}, e{at})",
        ]  # fmt: skip
        stream = f"t{at}"
        weights |= {f"{name}{at}": array for name, array in block.items()}
    model = graph(*text, f"y = Neg({stream})", inputs=X, outputs=["y", *beside], **weights)
    InferShapes().apply(model, Context())
    return model


def equal_layers() -> ir.Model:
    """Three blocks with the same weights, each stored for itself."""
    return layers(*(layer() for _ in range(3)))


def similar_layers() -> ir.Model:
    """Three blocks that nearly have the same weights, their neurons and heads in other orders."""
    return layers(*(layer(at, noise=0.02, turned=at > 0) for at in range(3)))


def near_copies() -> ir.Model:
    """A table, an output head that is nearly its transpose, and two layers that are nearly one."""
    table, weight = normal(64, 32), normal(32, 32)
    return graph(
        "e = Gather(t, i)", "p = MatMul(e, w)", "q = MatMul(p, v)", "s = Add(e, q)", "l = MatMul(s, h)",
        "f = Gather(t, j)", "m = Gemm(f, u)",
        inputs={"i": "int64[batch, sequence]", "j": "int64[batch]"}, outputs=["l", "m"],
        t=table, h=table.T * np.float32(1.002), w=weight, v=weight * np.float32(0.998), u=table.T.copy(),
    )  # fmt: skip


def words_of_few_parts() -> ir.Model:
    """A table of words made of a few sub-vectors for each place, along one direction each."""
    codes = np.random.default_rng(0).integers(0, 6, (2048, 8))
    parts, along = 1 + np.arange(6, dtype=np.float32), normal(8, 4)
    table = np.concatenate([parts[codes[:, at], None] * along[at] for at in range(8)], 1)
    return graph(
        "e = Gather(t, ids)", "y = LayerNormalization{axis=-1}(e, g, b)", inputs={"ids": "int64[batch, sequence]"},
        t=table.astype(np.float32), g=np.ones(32, np.float32), b=normal(32),
    )  # fmt: skip
