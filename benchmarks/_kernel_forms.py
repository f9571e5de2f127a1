"""Computations in the several forms that ONNX Runtime has kernels for, as text."""

from __future__ import annotations

from dataclasses import dataclass

HIDDEN, HEADS, INNER, PAST = 384, 12, 1536, 96
WIDTH = HIDDEN // HEADS
NBITS = f"{{K={HIDDEN}, N={INNER}, bits=8, block_size=128, accuracy_level=4}}"

_APART = (f"x4 = Reshape(x, [0, 0, {HEADS}, {WIDTH}])", "h = Transpose{perm=[0, 2, 1, 3]}(x4)")
_SWIGLU = ("s = Sigmoid(u)", "t = Mul(u, s)", "y = Mul(t, v)")


@dataclass(frozen=True)
class Form:
    """One way to compute a family's function."""

    family: str
    name: str
    lines: tuple[str, ...]


FORMS = (
    Form(
        "residual + layer norm",
        "SkipLayerNormalization",
        ("y = com.microsoft.SkipLayerNormalization(x, skip, g, b, c)",),
    ),
    Form(
        "residual + layer norm",
        "Add, Add, LayerNormalization",
        ("s = Add(x, c)", "t = Add(s, skip)", "y = LayerNormalization(t, g, b)"),
    ),
    Form(
        "residual + layer norm",
        "Add, Sum, LayerNormalization",
        ("s = Add(x, c)", "t = Sum(s, skip)", "y = LayerNormalization(t, g, b)"),
    ),
    Form("bias + GELU", "BiasGelu", ("y = com.microsoft.BiasGelu(wide, d)",)),
    Form("bias + GELU", "Add, Gelu", ("s = Add(wide, d)", "y = Gelu(s)")),
    Form("bias + GELU", "FastGelu (tanh)", ("y = com.microsoft.FastGelu(wide, d)",)),
    Form(
        "projections + attention",
        "com.microsoft Attention, packed",
        ("m = Cast{to=int32}(mask)", f"y = com.microsoft.Attention{{num_heads={HEADS}}}(x, wqkv, bqkv, m)"),
    ),
    Form(
        "projections + attention",
        "packed MatMul, Split, MultiHeadAttention",
        (
            "m = Cast{to=int32}(mask)",
            "p = MatMul(x, wqkv)",
            "(q, k, v) = Split{axis=-1, num_outputs=3}(p)",
            f"y = com.microsoft.MultiHeadAttention{{num_heads={HEADS}}}(q, k, v, bqkv, m)",
        ),
    ),
    Form(
        "projections + attention",
        "three MatMuls, MultiHeadAttention",
        (
            "m = Cast{to=int32}(mask)",
            "q = MatMul(x, wq)",
            "k = MatMul(x, wk)",
            "v = MatMul(x, wv)",
            f"y = com.microsoft.MultiHeadAttention{{num_heads={HEADS}}}(q, k, v, bqkv, m)",
        ),
    ),
    Form(
        "projections + attention",
        "three MatMuls, ai.onnx Attention",
        (
            "q0 = MatMul(x, wq)",
            "k0 = MatMul(x, wk)",
            "v0 = MatMul(x, wv)",
            "q = Add(q0, c)",
            "k = Add(k0, c)",
            "v = Add(v0, c)",
            "m = Unsqueeze(mask, [1, 2])",
            "rows = Shape{start=1, end=2}(x)",
            "size = Concat{axis=0}(rows, [1])",
            "wide_mask = Expand(m, size)",
            f"y = Attention{{q_num_heads={HEADS}, kv_num_heads={HEADS}}}(q, k, v, wide_mask)",
        ),
    ),
    Form("linear 384 x 1536", "MatMul", ("y = MatMul(x, w1)",)),
    Form("linear 384 x 1536", "DynamicQuantizeMatMul (int8)", ("y = com.microsoft.DynamicQuantizeMatMul(x, w8, s8)",)),
    Form(
        "linear 384 x 1536",
        "MatMulInteger, Cast, Mul (int8)",
        (
            "(q, s, z) = DynamicQuantizeLinear(x)",
            "i = MatMulInteger(q, w8, z)",
            "f = Cast{to=float}(i)",
            "t = Mul(s, s8)",
            "y = Mul(f, t)",
        ),
    ),
    Form(
        "linear 384 x 1536",
        "MatMulNBits (8 bits, accuracy level 4)",
        (f"y = com.microsoft.MatMulNBits{NBITS}(x, n8, ns)",),
    ),
    Form(
        "linear 384 x 1536, calibrated",
        "QuantizeLinear, MatMulIntegerToFloat (uint8 x int8)",
        ("q = QuantizeLinear(x, xs, xz)", "y = com.microsoft.MatMulIntegerToFloat(q, w8, xs, s8, xz, _, d)"),
    ),
    Form(
        "linear 384 x 1536, calibrated",
        "QuantizeLinear, MatMulIntegerToFloat (uint8 x uint8)",
        ("q = QuantizeLinear(x, xs, xz)", "y = com.microsoft.MatMulIntegerToFloat(q, u8, xs, s8, xz, uz, d)"),
    ),
    Form(
        "linear 384 x 1536, calibrated",
        "QuantizeLinear, MatMulIntegerToFloat (int8 x int8)",
        ("q = QuantizeLinear(x, xs, iz)", "y = com.microsoft.MatMulIntegerToFloat(q, w8, xs, s8, iz, _, d)"),
    ),
    Form(
        "linear 384 x 1536, calibrated",
        "QuantizeLinear, MatMulInteger, Cast, Mul, Add",
        (
            "q = QuantizeLinear(x, xs, xz)",
            "i = MatMulInteger(q, w8, xz)",
            "f = Cast{to=float}(i)",
            "t = Mul(xs, s8)",
            "p = Mul(f, t)",
            "y = Add(p, d)",
        ),
    ),
    Form(
        "linear 384 x 1536, calibrated",
        "DynamicQuantizeMatMul (its own range)",
        ("y = com.microsoft.DynamicQuantizeMatMul(x, w8, s8, _, d)",),
    ),
    Form(
        "linear 384 x 1536, calibrated",
        "two groups: Gather, Split, two MatMulIntegerToFloat",
        (
            "sorted = Gather{axis=-1}(x, order)",
            "(e, o) = Split{axis=-1}(sorted, halves)",
            "qe = QuantizeLinear(e, xs, xz)",
            "qo = QuantizeLinear(o, xs, xz)",
            "ye = com.microsoft.MatMulIntegerToFloat(qe, half8, xs, s8, xz, _, d)",
            "yo = com.microsoft.MatMulIntegerToFloat(qo, half8, xs, s8, xz)",
            "y = Sum(ye, yo)",
        ),
    ),
    Form(
        "int8 projections + attention, calibrated",
        "QuantizeLinear, QAttention",
        (
            "m = Cast{to=int32}(mask)",
            "q = QuantizeLinear(x, xs, xz)",
            f"y = com.microsoft.QAttention{{num_heads={HEADS}}}(q, qkv8, bqkv, xs, sqkv, m, xz)",
        ),
    ),
    Form(
        "int8 projections + attention, calibrated",
        "QuantizeLinear, three MatMulIntegerToFloat, MultiHeadAttention",
        (
            "m = Cast{to=int32}(mask)",
            "x8 = QuantizeLinear(x, xs, xz)",
            "q = com.microsoft.MatMulIntegerToFloat(x8, q8, xs, sh, xz, _, c)",
            "k = com.microsoft.MatMulIntegerToFloat(x8, k8, xs, sh, xz, _, c)",
            "v = com.microsoft.MatMulIntegerToFloat(x8, v8, xs, sh, xz, _, c)",
            f"y = com.microsoft.MultiHeadAttention{{num_heads={HEADS}}}(q, k, v, _, m)",
        ),
    ),
    Form(
        "int8 projections + attention, calibrated",
        "QuantizeLinear, one MatMulIntegerToFloat, Split, MultiHeadAttention",
        (
            "m = Cast{to=int32}(mask)",
            "x8 = QuantizeLinear(x, xs, xz)",
            "p = com.microsoft.MatMulIntegerToFloat(x8, qkv8, xs, sqkv, xz, _, bqkv)",
            "(q, k, v) = Split{axis=-1, num_outputs=3}(p)",
            f"y = com.microsoft.MultiHeadAttention{{num_heads={HEADS}}}(q, k, v, _, m)",
        ),
    ),
    Form(
        "linear + GELU + linear, calibrated",
        "float GELU",
        (
            "q = QuantizeLinear(x, xs, xz)",
            "h = com.microsoft.MatMulIntegerToFloat(q, w8, xs, s8, xz, _, d)",
            "n = Gelu(h)",
            "r = QuantizeLinear(n, xs, xz)",
            "y = com.microsoft.MatMulIntegerToFloat(r, down8, xs, sh, xz, _, c)",
        ),
    ),
    Form(
        "linear + GELU + linear, calibrated",
        "DynamicQuantizeMatMul, float GELU",
        (
            "h = com.microsoft.DynamicQuantizeMatMul(x, w8, s8, _, d)",
            "n = Gelu(h)",
            "y = com.microsoft.DynamicQuantizeMatMul(n, down8, sh, _, c)",
        ),
    ),
    Form("RMS norm", "RMSNormalization", ("y = RMSNormalization(x, g)",)),
    Form("RMS norm", "SimplifiedLayerNormalization", ("y = SimplifiedLayerNormalization(x, g)",)),
    Form("residual + RMS norm", "Add, RMSNormalization", ("s = Add(x, skip)", "y = RMSNormalization(s, g)")),
    Form(
        "residual + RMS norm",
        "SkipSimplifiedLayerNormalization",
        ("y = com.microsoft.SkipSimplifiedLayerNormalization(x, skip, g)",),
    ),
    Form("rotary", "RotaryEmbedding, heads side by side", (f"y = RotaryEmbedding{{num_heads={HEADS}}}(x, cos, sin)",)),
    Form("rotary", "RotaryEmbedding, heads apart", (*_APART, "y = RotaryEmbedding(h, cos, sin)")),
    Form(
        "rotary",
        "arithmetic",
        (
            *_APART,
            "(a, z) = Split{axis=-1, num_outputs=2}(h)",
            "n = Neg(z)",
            "t = Concat{axis=-1}(n, a)",
            "c1 = Concat{axis=-1}(cos, cos)",
            "s1 = Concat{axis=-1}(sin, sin)",
            "cu = Unsqueeze(c1, [1])",
            "su = Unsqueeze(s1, [1])",
            "l = Mul(h, cu)",
            "r = Mul(t, su)",
            "y = Add(l, r)",
        ),
    ),
    Form("linear + bias", "MatMul, Add", ("p = MatMul(x, w1)", "y = Add(p, d)")),
    Form(
        "linear + bias",
        "Reshape, Gemm, Reshape",
        (
            f"f = Reshape(x, [-1, {HIDDEN}])",
            "p = Gemm(f, w1, d)",
            "l = Shape{end=2}(x)",
            f"t = Concat{{axis=0}}(l, [{INNER}])",
            "y = Reshape(p, t)",
        ),
    ),
    Form("gate and up", "two MatMuls", ("u = MatMul(x, w1)", "v = MatMul(x, w2)", *_SWIGLU)),
    Form(
        "gate and up",
        "one MatMul, Split",
        ("p = MatMul(x, w12)", "(u, v) = Split{axis=-1, num_outputs=2}(p)", *_SWIGLU),
    ),
    Form("SwiGLU", "Sigmoid, Mul, Mul", ("s = Sigmoid(wide)", "t = Mul(wide, s)", "y = Mul(t, other)")),
    Form("SwiGLU", "QuickGelu, Mul", ("t = com.microsoft.QuickGelu{alpha=1.0}(wide)", "y = Mul(t, other)")),
    Form(
        "Q, K, V",
        "three MatMuls",
        ("q = MatMul(x, wq)", "k = MatMul(x, wk)", "v = MatMul(x, wv)", "s = Add(q, k)", "y = Add(s, v)"),
    ),
    Form(
        "Q, K, V",
        "one MatMul, Split",
        ("p = MatMul(x, wqkv)", "(q, k, v) = Split{axis=-1, num_outputs=3}(p)", "s = Add(q, k)", "y = Add(s, v)"),
    ),
    Form(
        "step of decoding",
        "ai.onnx Attention with past",
        (f"(y, pk, pv) = Attention{{q_num_heads={HEADS}, kv_num_heads={HEADS}}}(one, one, one, _, keys, values)",),
    ),
    Form(
        "step of decoding",
        "MultiHeadAttention with past",
        (f"(y, pk, pv) = com.microsoft.MultiHeadAttention{{num_heads={HEADS}}}(one, one, one, _, _, _, keys, values)",),
    ),
    Form(
        "step of decoding",
        "Concat, MatMul, Softmax, MatMul",
        (
            f"h = Reshape(one, [0, 0, {HEADS}, {WIDTH}])",
            "q = Transpose{perm=[0, 2, 1, 3]}(h)",
            "pk = Concat{axis=2}(keys, q)",
            "pv = Concat{axis=2}(values, q)",
            "t = Transpose{perm=[0, 1, 3, 2]}(pk)",
            "s = MatMul(q, t)",
            f"e = Mul(s, {WIDTH**-0.5})",
            "p = Softmax(e)",
            "w = MatMul(p, pv)",
            "b4 = Transpose{perm=[0, 2, 1, 3]}(w)",
            f"y = Reshape(b4, [0, 0, {HIDDEN}])",
        ),
    ),
)
