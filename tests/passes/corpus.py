"""Small graphs of every kind that models are made of, for the properties that every pass owes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.tests.support import arithmetic, inside_if, parse

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


def split_attention() -> ir.Model:
    """ai.onnx Attention over heads that nodes split and join."""
    text, weights = projections()
    heads = [line for name in "qkv" for line in split(name)]
    return graph(*text, *heads, "yh = Attention{scale=0.3}(qh, kh, vh)", *JOIN, inputs=X, **weights)


def whole_attention() -> ir.Model:
    """ai.onnx Attention in its 3-D form with a padding mask."""
    text, weights = projections()
    return graph(
        *text, "m = Unsqueeze(keep, [1, 2])", "y = Attention{q_num_heads=4, kv_num_heads=4}(q, k, v, m)",
        inputs=X | KEEP, **weights,
    )  # fmt: skip


def causal_attention() -> ir.Model:
    """Grouped queries under a causal mask of its own."""
    text = ["q = MatMul(x, wq)", "k = MatMul(x, wk)", "v = MatMul(x, wv)"]
    last = "y = Attention{is_causal=1, q_num_heads=4, kv_num_heads=2, softcap=20.0}(q, k, v)"
    return graph(*text, last, inputs=X, wq=normal(32, 32), wk=normal(32, 16), wv=normal(16, 32).T.copy())


def feed_forward() -> ir.Model:
    """Two linear layers around a GELU, a residual sum and a normalization."""
    gelu = arithmetic("g = 0.5 * h * (1 + Erf(h / 1.4142135623730951))")
    return graph(
        "p = MatMul(x, w)", "h = Add(p, b)", *gelu, "o = MatMul(g, v)", "r = Add(o, x)",
        "y = LayerNormalization{axis=-1}(r, s, c)",
        inputs=X, w=normal(32, 64), b=normal(2, 64)[0], v=normal(64, 32), s=normal(2, 32)[1], c=normal(2, 32)[0],
    )  # fmt: skip


def tanh_gelu() -> ir.Model:
    return graph(*arithmetic("y = 0.5 * x * (1 + Tanh(0.7978845608028654 * (x + 0.044715 * x ** 3)))"), inputs=X)


def lstm() -> ir.Model:
    weights = {"w": normal(2, 64, 32), "r": normal(2, 64, 16), "b": normal(2, 128)}
    text = "(y, h, c) = LSTM{hidden_size=16, direction=bidirectional}(x, w, r, b)"
    return graph(text, "z = Identity(h)", inputs={"x": "float[time, batch, 32]"}, outputs=["y", "z"], **weights)


def gru() -> ir.Model:
    text = ["(_, h) = GRU{hidden_size=16, linear_before_reset=1}(e, w, r)", "y = Squeeze(h, [0])", "e = Gather(t, i)"]
    weights = {"t": normal(64, 32), "w": normal(1, 48, 32), "r": normal(1, 48, 16)}
    return graph(text[2], text[0], text[1], inputs={"i": "int64[time, batch]"}, **weights)


def convolution() -> ir.Model:
    return graph(
        "a = Conv{pads=[1, 1, 1, 1]}(x, w, b)", "n = BatchNormalization(a, s, c, m, v)", "r = Relu(n)",
        "y = GlobalAveragePool(r)", inputs={"x": "float[batch, 3, 8, 8]"},
        w=normal(16, 3, 3, 3), b=normal(16), s=normal(2, 16)[0], c=normal(2, 16)[1], m=normal(3, 16)[0],
        v=np.ones(16, np.float32),
    )  # fmt: skip


def shape_chain() -> ir.Model:
    """Reshapes whose targets are computed, and a transpose spelled with reshapes."""
    return graph(
        "s = Shape(x)", "t = Shape(x)", "b = Gather(s, [0])", "q = Gather(t, [1])",
        "into = Concat{axis=0}(b, q, [4, 8])", "h = Reshape(x, into)", "one = Add(zero, 1)",
        "same = Reshape(h, [0, 0, 4, 8])", "wide = Expand(same, one)",
        "f = Cast{to=float}(wide)", "m = Reshape(f, [-1, 4, 8])", "p = Transpose{perm=[0, 2, 1]}(m)", "y = Shape(p)",
        "z = Neg(p)",
        inputs=X, zero=np.array([0]),
    )  # fmt: skip


def swapped_axes() -> ir.Model:
    return graph(
        "m = Reshape(x, [-1, 4, 5])", "t = Transpose{perm=[0, 2, 1]}(m)", "y = Reshape(t, [2, 3, 5, 4])",
        inputs={"x": "float[2, 3, 4, 5]"},
    )  # fmt: skip


def masks() -> ir.Model:
    """A padding mask spread by GatherND, and-ed with one that is true everywhere."""
    return graph(
        "s = Shape(keep)", "b = Gather(s, 0)", "n = Gather(s, 1)", "i0 = Range(0, b, 1)", "j0 = Range(0, n, 1)",
        "i = Unsqueeze(i0, [1, 2, 3])", "j = Unsqueeze(j0, [0, 1, 2])", "b1 = Unsqueeze(b, [0])",
        "n1 = Unsqueeze(n, [0])", "e = Concat{axis=0}(b1, [1, 1], n1)", "ie = Expand(i, e)", "je = Expand(j, e)",
        "iu = Unsqueeze(ie, [-1])",
        "ju = Unsqueeze(je, [-1])", "at = Concat{axis=-1}(iu, ju)", "m = GatherND(keep, at)",
        "yes = GreaterOrEqual(j, 0)", "a = And(yes, m)", "y = Where(a, x, 0.0)",
        "k = And(keep, true)", "z = Not(k)",
        inputs={"x": "float[batch, 4, 6, sequence]"} | KEEP, true=np.ones((1, 1), bool),
    )  # fmt: skip


def tied_table() -> ir.Model:
    """One table for embedding and output, and a bias stored twice."""
    return graph(
        "e = Gather(t, i)", "p = MatMul(e, w)", "h = Add(p, b)", "u = Transpose{perm=[1, 0]}(t)", "l = MatMul(h, u)",
        "g = Add(h, c)", "y = MatMul(g, w2)", inputs={"i": "int64[batch, sequence]"}, outputs=["l", "y"],
        t=normal(64, 32), w=normal(32, 32), b=normal(32), c=normal(32), w2=normal(32, 48),
    )  # fmt: skip


def quantized() -> ir.Model:
    """An int8 table, and int8 layers with activations of their own and shared."""
    model = graph(
        "e = Gather(t, i)", "p = MatMul(e, w)", "h = Add(p, b)", "l = MatMul(h, u)", "m = MatMul(h, v)",
        "y = Add(l, m)",
        inputs={"i": "int64[batch, sequence]"},
        t=normal(64, 32), w=normal(32, 32), b=normal(3, 32)[1], u=normal(32, 48), v=normal(48, 32).T.copy(),
    )  # fmt: skip
    QuantizeDynamic(embeddings=True).apply(model, Context())
    return model


def gelu_layer() -> ir.Model:
    return graph("p = MatMul(x, w)", "h = Add(p, b)", "y = Gelu(h)", inputs=X, w=normal(32, 64), b=normal(2, 64)[0])


def branches() -> ir.Model:
    return inside_if(feed_forward())


def functions() -> ir.Model:
    body = '<domain: "pkg", opset_import: ["": 23]> Twice (a) => (b) { t = Identity (a)  b = Add (t, a) }'
    return parse("g (float[n, 2] x) => (float[n, 2] y) { h = pkg.Twice (x)  y = pkg.Twice (h) }", functions=body)


def constants() -> ir.Model:
    """Weights that nodes lay out, and numbers that nodes compute."""
    return graph(
        "wt = Transpose{perm=[1, 0]}(w)", "k = Sqrt(d)", "p = MatMul(x, wt)", "y = Div(p, k)", "dead = Neg(p)",
        inputs=X, outputs=["y"], w=normal(48, 32), d=np.float32(32),
    )  # fmt: skip


CORPUS: Mapping[str, Callable[[], ir.Model]] = {
    made.__name__: made
    for made in (
        exported_attention, split_attention, whole_attention, causal_attention, feed_forward, tanh_gelu, lstm, gru,
        convolution, shape_chain, swapped_axes, masks, tied_table, quantized, gelu_layer, branches, functions,
        constants,
    )
}  # fmt: skip
