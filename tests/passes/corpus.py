"""Small graphs of every kind that models are made of, for the properties that every pass owes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph
from tersor.passes.base import Context
from tersor.passes.quantize.quantize_dynamic import QuantizeDynamic
from tersor.tests.passes import corpus_attention as attention
from tersor.tests.passes import corpus_factorize as factorize
from tersor.tests.passes import corpus_prune as prune
from tersor.tests.passes import corpus_share as share
from tersor.tests.passes.corpus_attention import KEEP, X, normal, split
from tersor.tests.passes.raising.recurrence.graphs import GRU, LSTM, numbers, scan, step, weights
from tersor.tests.support import arithmetic, inside_if, parse


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


def linear_layers() -> ir.Model:
    """Linear layers that flatten what they read, that turn their weight, and that have it on the left."""
    return graph(
        "f = Reshape(x, [-1, 32])", "g = Gemm{transB=1, alpha=0.5, beta=2.0}(f, w, b)",
        "s = Shape{end=2}(x)", "into = Concat{axis=0}(s, [48])", "h = Reshape(g, into)",
        "vt = Transpose{perm=[1, 0]}(v)", "r = MatMul(h, vt)", "rt = Transpose{perm=[0, 2, 1]}(r)",
        "c = Conv(rt, k, d)", "ct = Transpose{perm=[0, 2, 1]}(c)", "u = Transpose{perm=[0, 2, 1]}(ct)",
        "l = MatMul(a, u)", "m = Add(l, e)", "y = Transpose{perm=[0, 2, 1]}(m)",
        inputs=X, w=normal(48, 32), b=normal(48), v=normal(32, 48), k=normal(16, 32, 1), d=normal(16),
        a=normal(24, 16), e=normal(24, 1),
    )  # fmt: skip


def integer_product() -> ir.Model:
    """As ONNX Runtime's dynamic quantization writes a linear layer."""
    return graph(
        "(q, s, z) = DynamicQuantizeLinear(x)", "m = MatMulInteger(q, w, z, zero)", "c = Cast{to=1}(m)",
        "u = Mul(s, scale)", "p = Mul(c, u)", "y = Add(p, b)",
        inputs=X, w=(normal(32, 16) * 300).astype(np.int8), zero=np.array(0, np.int8), scale=np.float32(0.003),
        b=normal(16),
    )  # fmt: skip


def einsums() -> ir.Model:
    """Scores of heads that lie side by side, and a linear layer that makes them."""
    return graph(
        "q = Einsum{equation='bsd,dhe->bshe'}(x, w)", "k = Einsum{equation='bsd,dhe->bshe'}(x, v)",
        "y = Einsum{equation='bind,bjnd->bnij'}(q, k)", inputs=X, w=normal(32, 4, 8), v=normal(32, 4, 8) * 2,
    )  # fmt: skip


def optimized_encoder() -> ir.Model:
    """As ONNX Runtime writes a layer: packed projections, a mask of integers, sums inside the normalizations."""
    ms = "com.microsoft."
    return graph(
        f"a = {ms}Attention{{num_heads=4}}(x, w, b, m)",
        f"(n, _, _, t) = {ms}SkipLayerNormalization(a, x, s, c)",
        "p = MatMul(n, u)", f"g = {ms}BiasGelu(p, d)", f"y = {ms}FusedMatMul{{transB=1, alpha=0.5}}(g, t)",
        inputs=X | {"m": "int32[batch, sequence]"}, w=normal(32, 96), b=normal(96), s=normal(2, 32)[0],
        c=normal(2, 32)[1], u=normal(32, 32), d=normal(3, 32)[0],
    )  # fmt: skip


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


def channels_last() -> ir.Model:
    """Convolutions between transposes, as converters from frameworks with channels last write them."""
    to, back = "Transpose{perm=[0, 3, 1, 2]}", "Transpose{perm=[0, 2, 3, 1]}"
    return graph(
        f"a = {to}(x)", "b = Conv{pads=[1, 1, 1, 1]}(a, w)", f"c = {back}(b)", "d = Add(c, s)", "e = Relu(d)",
        f"f = {to}(e)", "g = Conv{pads=[1, 1, 1, 1]}(f, v)", f"h = {back}(g)", "y = Add(h, e)",
        inputs={"x": "float[batch, 5, 6, 3]"}, w=normal(8, 3, 3, 3), v=normal(8, 8, 3, 3), s=normal(2, 8)[1],
    )  # fmt: skip


def grouped_channels() -> ir.Model:
    """A group normalization by way of an instance normalization, as torch exports it."""
    return graph(
        "c = Conv{pads=[1, 1, 1, 1]}(x, w)", "r = Reshape(c, [0, 2, -1])",
        "i = InstanceNormalization{epsilon=0.001}(r, [1.0, 1.0], [0.0, 0.0])", "n = Reshape(i, [0, 8, 5, 6])",
        "m = Mul(n, g)", "a = Add(m, b)", "y = Relu(a)",
        inputs={"x": "float[batch, 3, 5, 6]"}, w=normal(8, 3, 3, 3), g=normal(8, 1, 1), b=normal(8, 1, 1) - 1,
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


def rounded_states() -> ir.Model:
    """An LSTM whose input and state are quantized at run time, and a GRU that reads what it makes."""
    lstm = {"w": normal(1, 64, 32), "r": normal(1, 64, 16), "b": normal(1, 128)}
    gru = {"u": normal(1, 48, 16), "v": normal(1, 48, 16).copy()}
    model = graph(
        "(a, _, c) = LSTM{hidden_size=16}(x, w, r, b)", "s = Squeeze(a, [1])",
        "(y, h) = GRU{hidden_size=16}(s, u, v)", inputs={"x": "float[time, batch, 32]"}, outputs=["y", "c"],
        **lstm, **gru,
    )  # fmt: skip
    QuantizeDynamic(recurrent="computed", smallest=1).apply(model, Context())
    return model


def scaled_layers() -> ir.Model:
    """Constants added to and multiplied with what linear layers read and make."""
    return graph(
        "s = Mul(x, c)", "p = MatMul(s, w)", "a = Add(p, b)", "h = Div(a, d)", "t = Add(h, e)", "q = MatMul(t, u)",
        "r = Add(q, b)", "y = Add(r, 0.5)",
        inputs=X, w=normal(32, 32), u=normal(32, 32).T.copy(), b=normal(2, 32)[1],
        **{name: normal(3, 32)[index] + 2 for index, name in enumerate("cde")},
    )  # fmt: skip


def normalizations() -> ir.Model:
    """Layer and root mean square normalisation spelled out, and one whose scale and bias follow it."""
    return graph(
        "m = ReduceMean(x, [-1])", "d = Sub(x, m)", "q = Pow(d, 2.0)", "v = ReduceMean(q, [-1])", "a = Add(v, 1e-05)",
        "r = Sqrt(a)", "n = Div(d, r)", "g = Mul(n, s)", "h = Add(g, c)",
        "q2 = Mul(h, h)", "v2 = ReduceMean(q2, [-1])", "a2 = Add(v2, 1e-06)", "r2 = Sqrt(a2)", "i2 = Reciprocal(r2)",
        "n2 = Mul(h, i2)", "h2 = Mul(n2, s)",
        "n3 = LayerNormalization{axis=-1}(h2, ones)", "g3 = Mul(n3, s)", "y = Add(g3, c)",
        inputs=X, s=normal(2, 32)[1], c=normal(2, 32)[0], ones=np.ones(32, np.float32),
    )  # fmt: skip


def rotary_positions() -> ir.Model:
    """Queries turned by halves of a head, keys in their first elements alone."""
    return graph(
        "i = Unsqueeze(positions, [-1])", "at = Cast{to=1}(i)", "f = Mul(at, rates)", "ff = Concat{axis=-1}(f, f)",
        "cos = Cos(ff)", "sin = Sin(ff)", "c = Unsqueeze(cos, [1])", "s = Unsqueeze(sin, [1])",
        "q = MatMul(x, w)", *split("q"), "a = Slice(qh, [0], [4], [-1])", "b = Slice(qh, [4], [8], [-1])",
        "n = Neg(b)", "r = Concat{axis=-1}(n, a)", "qc = Mul(qh, c)", "rs = Mul(r, s)", "y = Add(qc, rs)",
        "k = MatMul(x, u)", *split("k"), "(h, rest) = Split{axis=-1, num_outputs=2}(kh)",
        "(e, d) = Split{axis=-1, num_outputs=2}(h)", "cc = Slice(c, [0], [2], [-1])", "ss = Slice(s, [0], [2], [-1])",
        "ec = Mul(e, cc)", "ds = Mul(d, ss)", "es = Mul(e, ss)", "dc = Mul(d, cc)", "m = Sub(ec, ds)",
        "o = Add(es, dc)", "z = Concat{axis=-1}(m, o, rest)",
        inputs=X | {"positions": "int64[batch, sequence]"}, outputs=["y", "z"],
        w=normal(32, 32), u=normal(33, 32)[1:], rates=np.asarray([1.0, 0.1, 0.01, 0.001], np.float32),
    )  # fmt: skip


def gated() -> ir.Model:
    """A gated unit whose activation is spelled out, and a softplus as torch guards it."""
    return graph(
        "g = MatMul(x, w)", "u = MatMul(x, v)", "s = Sigmoid(g)", "a = Mul(g, s)", "h = Mul(a, u)",
        "e = Exp(h)", "o = Add(e, 1.0)", "l = Log(o)", "c = LessOrEqual(h, 20.0)", "z = Where(c, l, h)",
        "(p, q) = Split{axis=-1, num_outputs=2}(z)", "r = Relu(p)", "y = Mul(q, r)",
        inputs=X, w=normal(32, 16), v=normal(16, 32).T.copy(),
    )  # fmt: skip


def sentence() -> ir.Model:
    """The mean of the positions that a mask keeps, at length one."""
    return graph(
        "u = Unsqueeze(mask, [-1])", "s = Shape(x)", "e = Expand(u, s)", "m = Cast{to=float}(e)", "k = Mul(x, m)",
        "n = ReduceSum{keepdims=0}(k, [1])", "c = ReduceSum{keepdims=0}(m, [1])", "d = Clip(c, 1e-09)",
        "p = Div(n, d)", "l = ReduceL2(p, [1])", "t = Max(l, 1e-12)", "y = Div(p, t)",
        inputs=X | {"mask": "int64[batch, sequence]"},
    )  # fmt: skip


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


def lstm_cell() -> ir.Model:
    """One step of an LSTM as its gates."""
    return step(*LSTM, outputs=("h1", "c1"), **weights(4))


def scanned_gru() -> ir.Model:
    """A GRU as its gates inside a Scan."""
    return scan(*GRU, states={"h": "h1"}, **weights(3))


def two_directions() -> ir.Model:
    """A plain recurrence forward and one backward, side by side."""
    return graph(
        "(e, h) = RNN{hidden_size=4}(x, w, r)", "(f, k) = RNN{hidden_size=4, direction=reverse}(x, v, q)",
        "e1 = Squeeze(e, [1])", "f1 = Squeeze(f, [1])", "y = Concat{axis=-1}(e1, f1)", "z = Concat{axis=0}(h, k)",
        inputs={"x": "float[time, batch, 6]"}, outputs=["y", "z"],
        w=numbers(1, 4, 6), r=numbers(1, 4, 4), v=numbers(1, 4, 6, seed=1), q=numbers(1, 4, 4, seed=1),
    )  # fmt: skip


def looped_rnn() -> ir.Model:
    """A plain recurrence, one step of it in each trip of a Scan."""
    return scan(
        "ax = Constant <value_ints = [0]> ()", "xu = Unsqueeze(x, ax)", "hu = Unsqueeze(h, ax)",
        'e, hn = RNN{hidden_size=4}(xu, w, r, "", "", hu)', "h1 = Squeeze(hn, ax)",
        states={"h": "h1"}, w=numbers(1, 4, 6), r=numbers(1, 4, 4),
    )  # fmt: skip


def turned_rnn() -> ir.Model:
    """A plain recurrence over the sequence turned around and back."""
    low = np.iinfo(np.int64).min
    return graph(
        f"t = Slice(x, [-1], [{low}], [0], [-1])", "(f, k) = RNN{hidden_size=4}(t, v, q)", "f1 = Squeeze(f, [1])",
        f"y = Slice(f1, [-1], [{low}], [0], [-1])", inputs={"x": "float[time, batch, 6]"}, outputs=["y", "k"],
        v=numbers(1, 4, 6, seed=1), q=numbers(1, 4, 4, seed=1),
    )  # fmt: skip


def unrolled_rnn() -> ir.Model:
    """A plain recurrence written out over two steps."""
    return graph(
        "x0 = Gather{axis=0}(x, 0)", "x1 = Gather{axis=0}(x, 1)", "p0 = Gemm(x0, w, b)", "q0 = MatMul(s, r)",
        "a0 = Add(p0, q0)", "h0 = Tanh(a0)", "p1 = Gemm(x1, w, b)", "q1 = MatMul(h0, r)", "a1 = Add(p1, q1)",
        "h1 = Tanh(a1)", "u0 = Unsqueeze(h0, [0])", "u1 = Unsqueeze(h1, [0])", "y = Concat{axis=0}(u0, u1)",
        inputs={"x": "float[2, batch, 6]", "s": "float[batch, 4]"}, outputs=["y", "h1"],
        w=numbers(6, 4), r=numbers(4, 4), b=numbers(4),
    )  # fmt: skip


def settled_branch() -> ir.Model:
    """An If on a condition that no size of the dimensions bears out."""
    return parse("""
        g (float[n] x) => (float[n] y) {
            s = Shape (x)  m = Constant <value = int64[1] {-1}> ()  c = Equal (s, m)
            h = If (c) <then_branch = t () => (float[n] a) { a = Neg (x) },
                        else_branch = e () => (float[n] b) { r = Relu (x)  b = Exp (r) }>
            y = Mul (h, x)
        }""")


def flat_mask() -> ir.Model:
    """A mask of padding read place by place from its flattened form, and a shape read from a computed value."""
    return graph(
        "s = Shape(m)", "n = Gather(s, 0)", "k = Gather(s, 1)", "i = Range(0, n, 1)", "j = Range(0, k, 1)",
        "row = Unsqueeze(i, [1, 2, 3])", "column = Unsqueeze(j, [0, 1, 2])", "start = Mul(row, k)",
        "at = Add(column, start)", "flat = Flatten{axis=2}(m)", "g = Gather(flat, at)", "y = Not(g)",
        inputs={"m": "bool[batch, keys]"},
    )  # fmt: skip


def typed_embedding() -> ir.Model:
    """Words, positions, types that nobody passed, and types chosen by a product with one-hot vectors of flat ids."""
    return graph(
        "n = Shape{start=1}(ids)", "at = Slice(places, [0], n, [1])", "zero = GatherElements{axis=1}(zeros, at)",
        "s = Shape(ids)", "none = Expand(zero, s)", "words = Gather(t, ids)", "types = Gather(k, none)",
        "other = Mul(ids, 0)", "more = Gather(k, other)", "some = Add(words, more)", "a = Add(some, types)",
        "own = GatherElements{axis=1}(steps, at)", "p = Gather(v, own)", "c = Add(a, p)", "b = Add(c, bias)",
        "kind = Cast{to=int64}(mask)", "flat = Reshape(kind, [-1])", "hot = OneHot(flat, 2, [0.0, 1.0])",
        "m = MatMul(hot, k)", "w = Concat{axis=0}(s, [32])", "r = Reshape(m, w)", "y = Add(b, r)",
        inputs={"ids": "int64[batch, sequence]", "mask": "bool[batch, sequence]"},
        t=normal(64, 32), k=normal(2, 32), v=normal(48, 32), bias=normal(32), places=np.arange(48)[None],
        zeros=np.zeros((1, 48), np.int64), steps=np.arange(48)[None] // 2,
    )  # fmt: skip


def few_bits() -> ir.Model:
    """A table of four bits in blocks, a linear layer of four bits and one of 8-bit floats."""
    rng = np.random.default_rng(6)
    return graph(
        "t = DequantizeLinear{axis=1, block_size=16}(table, a)", "x = Gather(t, ids)",
        "w = DequantizeLinear{axis=0, block_size=16}(q, b)", "h = MatMul(x, w)",
        "v = DequantizeLinear{axis=1}(f, c)", "y = MatMul(h, v)",
        inputs={"ids": "int64[batch, sequence]"},
        table=rng.integers(-8, 8, (64, 32)).astype(ml_dtypes.int4), a=np.full((64, 2), 0.1, np.float32),
        q=rng.integers(-8, 8, (32, 48)).astype(ml_dtypes.int4), b=np.full((2, 48), 0.1, np.float32),
        f=normal(48, 16).astype(ml_dtypes.float8_e4m3fn), c=np.full(16, 0.5, np.float32),
    )  # fmt: skip


def rounded_activations() -> ir.Model:
    """Layers of int8 behind activations on a grid of int8, one for each of two groups of features, and one of uint8."""
    rng = np.random.default_rng(9)
    return graph(
        "q = QuantizeLinear(x, a, i)", "d = DequantizeLinear(q, a, i)", "w = DequantizeLinear{axis=1}(w8, s)",
        "h = MatMul(d, w)", "r = QuantizeLinear{axis=-1}(h, g, k)", "e = DequantizeLinear{axis=-1}(r, g, k)",
        "v = DequantizeLinear{axis=1}(v8, s)", "o = MatMul(e, v)", "p = QuantizeLinear(o, a, z)",
        "f = DequantizeLinear(p, a, z)", "y = MatMul(f, w)",
        inputs={"x": "float[batch, 32]"}, z=np.array(131, np.uint8),
        w8=rng.integers(-63, 64, (32, 32), np.int8), v8=rng.integers(-63, 64, (32, 32), np.int8),
        s=np.full(32, 0.01, np.float32), a=np.float32(0.03).reshape(()), i=np.array(5, np.int8),
        g=np.tile(np.float32([0.02, 0.1]), 16), k=np.tile(np.uint8([120, 130]), 16),
    )  # fmt: skip


CORPUS: Mapping[str, Callable[[], ir.Model]] = {
    made.__name__: made
    for made in (
        attention.exported_attention, attention.filled_attention, attention.split_attention,
        attention.repeated_attention, attention.whole_attention, attention.scaled_attention,
        attention.floored_attention, attention.causal_attention, attention.future_mask,
        attention.cached_attention, attention.turned_heads, attention.shared_tables, attention.rounded_products,
        feed_forward, tanh_gelu, lstm, gru, convolution, shape_chain, swapped_axes, channels_last,
        grouped_channels, masks, tied_table,
        quantized, scaled_layers, gelu_layer, branches, functions,
        constants, normalizations, gated, sentence, rotary_positions, optimized_encoder, linear_layers, integer_product,
        einsums,
        lstm_cell, scanned_gru, unrolled_rnn, two_directions, turned_rnn, looped_rnn, settled_branch, flat_mask,
        typed_embedding, few_bits, rounded_states, rounded_activations,
        prune.redundant_layers, prune.doubled_neurons, prune.narrow_stream,
        factorize.low_rank_layers, factorize.stacked_recurrence, factorize.tied_words, factorize.tensor_layers,
        share.shared_basis, share.equal_layers, share.similar_layers, share.near_copies, share.words_of_few_parts,
    )
}  # fmt: skip
