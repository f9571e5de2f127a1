"""Small language models around a stream of hidden features, as the field builds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph

Array = np.ndarray
IDS = {"ids": "int64[batch, sequence]"}
WIDTH, INNER, WORDS = 32, 64, 50
SIZES = {"batch": 4, "sequence": 24}


class Weights:
    """Weights of one type by name, made as they are asked for.

    rank: everything that is written into the stream lies in its first so many features; None for all.
    """

    def __init__(self, rank: int | None, dtype: type[np.floating], seed: int = 3) -> None:
        self.rng = np.random.default_rng(seed)
        self.rank, self.dtype = rank, dtype
        self.made: dict[str, Array] = {}

    def matrix(self, name: str, *shape: int, scale: float = 1.0) -> str:
        found = scale * self.rng.standard_normal(shape) / np.sqrt(shape[-2] if len(shape) > 1 else 4)
        self.made[name] = found.astype(self.dtype)
        return name

    def writes(self, name: str, *shape: int, scale: float = 1.0) -> str:
        self.matrix(name, *shape, scale=scale)
        if self.rank is not None:
            self.made[name][..., self.rank :] = 0
        return name

    def scale(self, name: str, *, written: bool = False) -> str:
        self.made[name] = (1 + 0.3 * self.rng.standard_normal(WIDTH)).astype(self.dtype)
        if written and self.rank is not None:
            self.made[name][self.rank :] = 0
        return name


def attention(weights: Weights, at: int, read: str) -> list[str]:
    """q, k, v of what is read, and the projection of what they give."""
    heads = [f"{name}{at} = MatMul({read}, {weights.matrix(f'w{name}{at}', WIDTH, WIDTH)})" for name in "qkv"]
    return [
        *heads,
        f"a{at} = Attention{{q_num_heads=4, kv_num_heads=4}}(q{at}, k{at}, v{at})",
        f"o{at} = MatMul(a{at}, {weights.writes(f'wo{at}', WIDTH, WIDTH, scale=0.5)})",
    ]


def llama(rank: int | None = None, dtype: type[np.floating] = np.float32) -> ir.Model:
    """RMS norms before gated layers, no biases; a head of its own."""
    weights, text = Weights(rank, dtype), list[str]()
    stream = "e"
    text.append(f"e = Gather({weights.writes('table', WORDS, WIDTH, scale=5)}, ids)")
    for at in range(2):
        text += [
            f"n{at} = RMSNormalization{{axis=-1, epsilon=1e-3}}({stream}, {weights.scale(f'g{at}')})",
            *attention(weights, at, f"n{at}"),
            f"s{at} = Add({stream}, o{at})",
            f"m{at} = RMSNormalization{{axis=-1, epsilon=1e-3}}(s{at}, {weights.scale(f'f{at}')})",
            f"h{at} = MatMul(m{at}, {weights.matrix(f'wh{at}', WIDTH, INNER)})",
            f"u{at} = MatMul(m{at}, {weights.matrix(f'wu{at}', WIDTH, INNER)})",
            f"r{at} = Sigmoid(h{at})", f"p{at} = Mul(r{at}, u{at})",
            f"d{at} = MatMul(p{at}, {weights.writes(f'wd{at}', INNER, WIDTH)})",
            f"t{at} = Add(s{at}, d{at})",
        ]  # fmt: skip
        stream = f"t{at}"
    text.append(f"y0 = RMSNormalization{{axis=-1, epsilon=1e-3}}({stream}, {weights.scale('last')})")
    text.append(f"y = MatMul(y0, {weights.matrix('head', WIDTH, WORDS)})")
    return graph(*text, inputs=IDS, outputs=["y"], **weights.made)


def gpt(rank: int | None = None, dtype: type[np.floating] = np.float32) -> ir.Model:
    """Layer norms before layers with biases, learned positions, and a head that has the table of the words."""
    weights, text = Weights(rank, dtype), list[str]()
    text += [
        f"w = Gather({weights.writes('table', WORDS, WIDTH, scale=5)}, ids)",
        f"e = Add(w, {weights.writes('places', 1, SIZES['sequence'], WIDTH)})",
    ]
    stream = "e"

    def norm(made: str, read: str) -> str:
        scale, bias = weights.scale(f"g{made}"), weights.matrix(f"c{made}", WIDTH)
        return f"{made} = LayerNormalization{{axis=-1}}({read}, {scale}, {bias})"

    for at in range(2):
        text += [
            norm(f"n{at}", stream),
            *attention(weights, at, f"n{at}"),
            f"ob{at} = Add(o{at}, {weights.writes(f'bo{at}', WIDTH)})",
            f"s{at} = Add({stream}, ob{at})",
            norm(f"m{at}", f"s{at}"),
            f"h{at} = MatMul(m{at}, {weights.matrix(f'wh{at}', WIDTH, INNER)})",
            f"hb{at} = Add(h{at}, {weights.matrix(f'bh{at}', INNER)})",
            f"r{at} = Gelu(hb{at})",
            f"d{at} = MatMul(r{at}, {weights.writes(f'wd{at}', INNER, WIDTH)})",
            f"db{at} = Add({weights.writes(f'bd{at}', WIDTH)}, d{at})",
            f"t{at} = Add(db{at}, s{at})",
        ]
        stream = f"t{at}"
    text += [
        norm("y0", stream),
        "turned = Transpose{perm=[1, 0]}(table)", "y = MatMul(y0, turned)",
    ]  # fmt: skip
    inputs = {"ids": f"int64[batch, {SIZES['sequence']}]"}
    return graph(*text, inputs=inputs, outputs=["y"], **weights.made)


def bert(rank: int | None = None, dtype: type[np.floating] = np.float32) -> ir.Model:
    """Layer norms behind each sum; what the last one gives is the output."""
    weights, text = Weights(rank, dtype), list[str]()

    def norm(made: str, read: str) -> str:
        scale, bias = weights.scale(f"g{made}", written=True), weights.writes(f"c{made}", WIDTH)
        return f"{made} = LayerNormalization{{axis=-1, epsilon=1e-3}}({read}, {scale}, {bias})"

    text += [
        f"w = Gather({weights.writes('table', WORDS, WIDTH, scale=5)}, ids)",
        f"k = Gather({weights.writes('types', 2, WIDTH, scale=2)}, kinds)", "e = Add(w, k)", norm("x0", "e"),
    ]  # fmt: skip
    for at in range(2):
        text += [
            *attention(weights, at, f"x{at}"),
            f"ob{at} = Add(o{at}, {weights.writes(f'bo{at}', WIDTH)})",
            f"s{at} = Add(ob{at}, x{at})",
            norm(f"m{at}", f"s{at}"),
            f"h{at} = MatMul(m{at}, {weights.matrix(f'wh{at}', WIDTH, 4 * INNER)})",
            f"hb{at} = Add(h{at}, {weights.matrix(f'bh{at}', 4 * INNER)})",
            f"r{at} = Gelu(hb{at})",
            f"d{at} = MatMul(r{at}, {weights.writes(f'wd{at}', 4 * INNER, WIDTH)})",
            f"t{at} = Add(m{at}, d{at})",
            norm(f"x{at + 1}", f"t{at}"),
        ]
    inputs = {**IDS, "kinds": "int64[batch, sequence]"}
    return graph(*text, inputs=inputs, outputs=["x2"], **weights.made)


MODELS: Mapping[str, Callable[..., ir.Model]] = {made.__name__: made for made in (llama, gpt, bert)}


def feeds_of(model: ir.Model, seed: int = 0) -> dict[str, Array]:
    """Words, and kinds of words."""
    rng = np.random.default_rng(seed)
    shape = tuple(SIZES.values())
    found = {"ids": rng.integers(0, WORDS, shape), "kinds": rng.integers(0, 2, shape)}
    return {value.name or "": found[value.name or ""] for value in model.graph.inputs}
