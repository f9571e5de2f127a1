"""Attention in the shapes that exporters give it, for the tests of the rules that fuse it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph

HEADS, WIDTH = 4, 16
LOWEST = "-3.4028234663852886e+38"
BOOLEAN = ("m = Unsqueeze(keep, [1, 2])",)


def additive(fill: str = LOWEST) -> tuple[str, ...]:
    return ("u = Unsqueeze(keep, [1, 2])", f"m = Where(u, 0.0, {fill})")


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def projected(
    mask: tuple[str, ...] = (),
    attributes: str = "",
    *,
    biases: str = "qkv",
    x: str = "float[batch, sequence, 16]",
    z: str | None = None,
    widths: dict[str, int] | None = None,
    more: tuple[str, ...] = (),
    outputs: list[str] | None = None,
    heads: int = HEADS,
    key_heads: int = HEADS,
    **inputs: str,
) -> ir.Model:
    """Attention over linear layers of x; with `z`, keys and values are layers of z."""
    widths = {"q": WIDTH, "k": WIDTH, "v": WIDTH} | (widths or {})
    text, weights = [], {}
    for index, (name, width) in enumerate(widths.items()):
        source = "z" if z is not None and name != "q" else "x"
        weights[f"w{name}"] = normal(WIDTH, width, seed=index)
        product = f"p{name}" if name in biases else name
        text.append(f"{product} = MatMul({source}, w{name})")
        if name in biases:
            weights[f"b{name}"] = normal(width, seed=index)
            text.append(f"{name} = Add(p{name}, b{name})")
    given = {"x": x} | ({"z": z} if z is not None else {}) | ({"keep": "bool[batch, keys]"} if mask else {}) | inputs
    given = {name: kind.replace("keys", "sequence" if z is None else "keys") for name, kind in given.items()}
    settings = f"q_num_heads={heads}, kv_num_heads={key_heads}{', ' * bool(attributes)}{attributes}"
    last = f"y = Attention{{{settings}}}(q, k, v{', m' * bool(mask)})"
    return graph(*text, *mask, last, *more, inputs=given, outputs=outputs, **weights)


def feeds(
    model: ir.Model, batch: int, sequence: int, keys: int = 7, *, padding: str = "right"
) -> dict[str, np.ndarray]:
    """Inputs of the given sizes; the mask pads on one side, in every row but the first."""
    sizes = {"batch": batch, "sequence": sequence, "keys": keys}
    found = {}
    for value in model.graph.inputs:
        shape = tuple(dim if isinstance(dim, int) else sizes[str(dim.value)] for dim in value.shape or ())
        if value.name == "keep":
            lengths = np.maximum(shape[1] - np.arange(batch), 1)[:, None]
            found["keep"] = np.arange(shape[1]) < lengths
        else:
            found[value.name or ""] = normal(*shape, seed=9)
    return found
