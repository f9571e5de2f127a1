"""Small graphs of attention, spelled out and whole."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.clean.infer_shapes import InferShapes

WIDTH, HEADS = 32, 4
X = {"x": "float[batch, sequence, 32]"}
KEEP = {"keep": "bool[batch, sequence]"}
LOW = "-3.4028234663852886e+38"


def normal(*shape: int) -> np.ndarray:
    """The same numbers for the same shape, small enough that nothing saturates."""
    return (np.random.default_rng(shape).standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def projections() -> tuple[list[str], dict[str, np.ndarray]]:
    """q, k and v as linear layers of x."""
    text = [line for name in "qkv" for line in (f"p{name} = MatMul(x, w{name})", f"{name} = Add(p{name}, b{name})")]
    weights = {f"w{name}": np.roll(normal(WIDTH, WIDTH), shift, axis=0) for shift, name in enumerate("qkv")}
    return text, weights | {f"b{name}": normal(index + 2, WIDTH)[index] for index, name in enumerate("qkv")}


def split(name: str) -> list[str]:
    return [f"{name}4 = Reshape({name}, [0, 0, 4, 8])", f"{name}h = Transpose{{perm=[0, 2, 1, 3]}}({name}4)"]


JOIN = ["yt = Transpose{perm=[0, 2, 1, 3]}(yh)", "y = Reshape(yt, [0, 0, 32])"]


def exported_attention() -> ir.Model:
    """As torch's exporter decomposes it: split heads, scaled both sides, a guard, shapes computed."""
    text, weights = projections()
    return graph(
        *text,
        *split("q"), *split("v"),
        "sizes = Shape(k)", "lead = Slice(sizes, [0], [2])", "into = Concat{axis=0}(lead, [4, 8])",
        "k4 = Reshape(k, into)", "kt = Transpose{perm=[0, 2, 3, 1]}(k4)",
        "qs = Mul(qh, 0.5946035575013605)", "ks = Mul(kt, 0.5946035575013605)", "s = MatMul(qs, ks)",
        "u = Unsqueeze(keep, [1, 2])", f"m = Where(u, 0.0, {LOW})", "a = Add(s, m)", "p = Softmax{axis=-1}(a)",
        "nan = IsNaN(p)", "g = Where(nan, 0.0, p)", "yh = MatMul(g, vh)",
        *JOIN,
        inputs=X | KEEP, **weights,
    )  # fmt: skip


def filled_attention() -> ir.Model:
    """As people write it by hand: scores filled with a number, which a query may meet at every key."""
    text, weights = projections()
    return graph(
        *text, *split("q"), *split("k"), *split("v"), "kt = Transpose{perm=[0, 1, 3, 2]}(kh)", "s = MatMul(qh, kt)",
        "d = Div(s, 2.8284271)", "u = Unsqueeze(keep, [1, 2])", "f = Where(u, d, -1e9)", "p = Softmax(f)",
        "yh = MatMul(p, vh)", *JOIN, inputs=X | KEEP, **weights,
    )  # fmt: skip


def split_attention() -> ir.Model:
    """ai.onnx Attention over heads that nodes split and join."""
    text, weights = projections()
    heads = [line for name in "qkv" for line in split(name)]
    return graph(*text, *heads, "yh = Attention{scale=0.3}(qh, kh, vh)", *JOIN, inputs=X, **weights)


def repeated_attention() -> ir.Model:
    """ai.onnx Attention over heads of keys and values that are repeated for groups of queries."""
    text, turn = [f"{name} = MatMul(x, w{name})" for name in "qkv"], "Transpose{perm=[0, 2, 1, 3]}"
    for name, heads in (("q", 4), ("k", 2), ("v", 2)):
        text += [f"{name}4 = Reshape({name}, [0, 0, {heads}, 8])", f"{name}h = {turn}({name}4)"]
    text += ["ku = Unsqueeze(kh, [2])", "ke = Expand(ku, [1, 1, 2, 1, 1])", "kr = Reshape(ke, [0, 4, -1, 8])"]
    text += ["vu = Unsqueeze(vh, [2])", "ve = Tile(vu, [1, 1, 2, 1, 1])", "vr = Reshape(ve, [0, 4, -1, 8])"]
    weights = {"wq": normal(32, 32), "wk": normal(32, 16), "wv": normal(16, 32).T.copy()}
    return graph(*text, "yh = Attention{is_causal=1}(qh, kr, vr)", *JOIN, inputs=X, **weights)


def whole_attention() -> ir.Model:
    """ai.onnx Attention in its 3-D form with a padding mask."""
    text, weights = projections()
    return graph(
        *text, "m = Unsqueeze(keep, [1, 2])", "y = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v, m)",
        inputs=X | KEEP, **weights,
    )  # fmt: skip


def scaled_attention() -> ir.Model:
    """Queries and keys that are scaled one by one, values before and behind."""
    text, weights = projections()
    return graph(
        *text, "qs = Mul(q, 0.25)", "ks = Div(k, 0.5)", "vs = Mul(v, c)",
        "a = Attention{q_num_heads=4, kv_num_heads=4}(qs, ks, vs)", "b = Mul(a, 2.0)", "y = MatMul(b, w)",
        inputs=X, w=normal(32, 32), c=normal(32) + 2, **weights,
    )  # fmt: skip


def floored_attention() -> ir.Model:
    """A bias and a mask of the lowest float, which a query may meet at every key."""
    text, weights = projections()
    mask = ["u = Unsqueeze(keep, [1])", "t = Unsqueeze(keep, [2])", "both = And(u, t)", "c = Unsqueeze(both, [1])"]
    last = ["m = Add(w, bias)", "y = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v, m)"]
    return graph(
        *text, *mask, f"w = Where(c, 0.0, {LOW})", *last, inputs=X | KEEP, bias=normal(4, 1, 1), **weights
    )  # fmt: skip


def causal_attention() -> ir.Model:
    """Grouped queries under a causal mask of its own."""
    text = ["q = MatMul(x, wq)", "k = MatMul(x, wk)", "v = MatMul(x, wv)"]
    last = "y = Attention{is_causal=1, q_num_heads=4, kv_num_heads=2, softcap=20.0}(q, k, v)"
    return graph(*text, last, inputs=X, wq=normal(32, 32), wk=normal(32, 16), wv=normal(16, 32).T.copy())


def future_mask() -> ir.Model:
    """A mask that compares positions, beside padding."""
    text, weights = projections()
    count = ["n = Shape{start=1, end=2}(x)", "n0 = Squeeze(n)", "r = Range(0, n0, 1)", "i = Unsqueeze(r, [1])"]
    mask = ["c = LessOrEqual(r, i)", "u = Unsqueeze(keep, [1, 2])", "a = And(c, u)", "m = Where(a, 0.0, -inf)"]
    last = "y = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v, m)"
    made = graph(*text, *count, *mask, last, inputs=X | KEEP, **weights)
    # that the mask has a place for each query and key
    InferShapes().apply(made, Context())
    return made


def turned_heads() -> ir.Model:
    """Rotary positions on heads that a transpose split."""
    text = ["q = MatMul(x, wq)", *split("q"), "n = Shape{start=1, end=2}(x)", "n0 = Squeeze(n)", "r = Range(0, n0, 1)"]
    ids = ["b = Shape{end=1}(x)", "e = Concat{axis=0}(b, n)", "p = Expand(r, e)"]
    turn = "yh = RotaryEmbedding(qh, cos, sin, p)"
    return graph(*text, *ids, turn, *JOIN, inputs=X, wq=normal(32, 32), cos=normal(600, 4), sin=normal(600, 4) + 1)


def shared_tables() -> ir.Model:
    """Rotary positions on half of each head, from tables that all rows of a batch share."""
    turn = ["a = Slice(qh, [0], [4], [3])", "r = RotaryEmbedding(a, cos, sin)", "b = Slice(qh, [4], [8], [3])"]
    tables = dict.fromkeys(("cos", "sin"), "float[1, sequence, 2]")
    return graph(
        "q = MatMul(x, wq)",
        *split("q"),
        *turn,
        "yh = Concat{axis=3}(r, b)",
        *JOIN,
        inputs=X | tables,
        wq=normal(32, 32),
    )


def cached_attention() -> ir.Model:
    """Keys and values of the past joined with new ones, in and out."""
    heads = ("q", "k", "v")
    text = [line for name in heads for line in (f"{name} = MatMul(x, w{name})", *split(name))]
    joins = ["present_key = Concat{axis=2}(past_key, kh)", "present_value = Concat{axis=2}(past_value, vh)"]
    past = dict.fromkeys(("past_key", "past_value"), "float[batch, 4, past, 8]")
    return graph(
        *text, *joins, "yh = Attention{scale=0.3}(qh, present_key, present_value)", *JOIN,
        inputs=X | past, outputs=["y", "present_key", "present_value"],
        **{f"w{name}": np.roll(normal(32, 32), shift, axis=1) for shift, name in enumerate(heads)},
    )  # fmt: skip


def rounded_products() -> ir.Model:
    """Queries times keys, both rounded to 8 bits, and what they attend to rounded to a float of 8 bits."""
    return graph(
        "q8 = QuantizeLinear(q, s, z)", "qd = DequantizeLinear(q8, s, z)",
        "k8 = QuantizeLinear(k, s, n)", "kd = DequantizeLinear(k8, s, n)",
        "kt = Transpose{perm=[0, 1, 3, 2]}(kd)", "a = MatMul(qd, kt)", "p = Softmax{axis=-1}(a)",
        "v8 = QuantizeLinear(v, s, f)", "vd = DequantizeLinear(v8, s, f)", "y = MatMul(p, vd)",
        inputs=dict.fromkeys("qkv", "float[batch, 4, sequence, 16]"),
        s=np.float32(0.02), z=np.array(100, np.uint8), n=np.array(0, np.int8), f=np.array(0, ml_dtypes.float8_e4m3fn),
    )  # fmt: skip
