"""Attention spelled out in text, for the tests of its raising."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph

QKV = {
    "q": "float[batch, 4, queries, 8]",
    "k": "float[batch, 4, keys, 8]",
    "v": "float[batch, 4, keys, 16]",
}
MASK = {"m": "float[batch, 1, 1, keys]"}
FLIP = "t = Transpose{perm=[0, 1, 3, 2]}(k)"
PLAIN = (FLIP, "s = MatMul(q, t)", "d = Mul(s, 0.25)", "p = Softmax{axis=-1}(d)", "y = MatMul(p, v)")
MASKED = (FLIP, "s = MatMul(q, t)", "d = Div(s, 4.0)", "a = Add(d, m)", "p = Softmax(a)", "y = MatMul(p, v)")
FILLED = (FLIP, "s = MatMul(q, t)", "a = Where(c, s, -inf)", "p = Softmax(a)", "y = MatMul(p, v)")
KEEP = "bool[batch, 1, 1, keys]"
GUARD = ("n = IsNaN(p)", "g = Where(n, 0.0, p)", "y = MatMul(g, v)")
LOW = float(np.finfo(np.float32).min)


def model(*text: str, outputs: list[str] | None = None, **inputs: str) -> ir.Model:
    """A graph over q, k, v and, where it is read, the mask m."""
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    made = {line.split(" = ")[0] for line in text}
    known = {name: kind for name, kind in (QKV | MASK | inputs).items() if name in read and name not in made}
    return graph(*text, inputs=known, outputs=outputs)


def ops(found: list[str]) -> list[str]:
    return [line.split(" = ")[1].split("(")[0].split("{")[0] for line in found]
