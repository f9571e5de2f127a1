"""Samples of ONNX Runtime's own ops that are functions of floats."""

from __future__ import annotations

import numpy as np
from tersor.tests.ir.fx.samples import IMAGE, Sample, X, ints, sample

_MS = "com.microsoft."


def _sample(line: str, *, opset: int = 23, **given: object) -> Sample:
    """`y = Op(x)` with the domain left out."""
    outputs, _, call = line.partition(" = ")
    return sample(f"{outputs} = {_MS}{call}", opset=opset, **given)


_TOKENS = "double[1, 3, 4]"
_ALL = {"q": _TOKENS, "k": _TOKENS, "v": _TOKENS}
_CACHE = {"pk": "double[1, 2, 2, 2]", "pv": "double[1, 2, 2, 2]"}
_BUFFER = {"pk": "double[1, 2, 4, 2]", "pv": "double[1, 2, 4, 2]"}
_ONE = dict.fromkeys("qkv", "double[1, 1, 4]")
ATTENTION: tuple[Sample, ...] = (
    _sample("y = Attention{num_heads=2}(x, w, b)", x=_TOKENS, w="double[4, 12]", b="double[12]"),
    _sample(
        "(y, p) = Attention{num_heads=2, unidirectional=1}(x, w, b, _, past)",
        x=_TOKENS,
        w="double[4, 12]",
        b="double[12]",
        past="double[2, 1, 2, 2, 2]",
    ),
    _sample(
        "y = DecoderMaskedSelfAttention{num_heads=2, past_present_share_buffer=1}(x, w, b, _, past, _, n)",
        x="double[1, 1, 4]",
        w="double[4, 12]",
        b="double[12]",
        past="double[2, 1, 2, 4, 2]",
        n=np.array([2], np.int32),
    ),
    _sample("y = MultiHeadAttention{num_heads=2}(q, k, v, b)", b="double[12]", **_ALL),
    _sample("(y, nk, nv) = MultiHeadAttention{num_heads=2}(q, k, v, _, _, _, pk, pv)", **_ALL, **_CACHE),
    _sample(
        "(y, nk, nv) = DecoderMaskedMultiHeadAttention{num_heads=2, past_present_share_buffer=1}"
        "(q, k, v, _, _, pk, pv, n)",
        n=np.array([2], np.int32),
        **_ONE,
        **_BUFFER,
    ),
    _sample(
        "(y, nk, nv) = GroupQueryAttention{num_heads=4, kv_num_heads=2}(q, k, v, pk, pv, l, n)",
        q="double[1, 3, 8]",
        k=_TOKENS,
        v=_TOKENS,
        l=np.array([4], np.int32),
        n=np.array(5, np.int32),
        **_CACHE,
    ),
    _sample(
        "y = SparseAttention{num_heads=2, kv_num_heads=2, sparse_block_size=2}(q, k, v, pk, pv, r, c, n, l)",
        n=np.array(4, np.int32),
        r=np.array([[0, 1, 3]], np.int32),
        c=np.array([[0, 0, 1]], np.int32),
        l=np.array([3], np.int32),
        **_ALL,
        **_BUFFER,
    ),
)
_OFFSETS = {"o": np.array([[0, 1, 3], [4, 5, 2]], np.int32), "c": np.array([0, 2, 5], np.int32)}
PACKED: tuple[Sample, ...] = (
    _sample("y = RestorePadding(x, o)", x="double[5, 2]", o=_OFFSETS["o"]),
    _sample("(y, o, c, n) = RemovePadding(x, l)", x="double[2, 3, 2]", l=np.array([2, 3], np.int32)),
    _sample(
        "y = PackedAttention{num_heads=2}(x, w, b, o, c)",
        x="double[5, 4]",
        w="double[4, 12]",
        b="double[12]",
        **_OFFSETS,
    ),
    _sample(
        "y = PackedMultiHeadAttention{num_heads=2}(q, k, v, b, o, c)",
        q="double[5, 4]",
        k="double[5, 4]",
        v="double[5, 4]",
        b="double[12]",
        **_OFFSETS,
    ),
    _sample("y = RelativePositionBias{max_distance=8}(t, 3, 3)", t="double[4, 2]"),
    _sample(
        "y = GatedRelativePositionBias{num_heads=2}(q, qb, p, w, b, e)",
        q=_TOKENS,
        qb="double[4]",
        p="double[1, 2, 3, 3]",
        w="double[2, 4]",
        b="double[4]",
        e="double[1, 2, 1, 1]",
    ),
)
ROTARY: tuple[Sample, ...] = (
    *(
        _sample(
            f"y = RotaryEmbedding{{interleaved={n}}}(x, p, c, s)",
            x=_TOKENS,
            p=ints(1),
            c="double[5, 2]",
            s="double[5, 2]",
        )
        for n in (0, 1)
    ),
    _sample(
        "y = MRotaryEmbedding{mrope_section=[1, 1, 0], num_heads=1}(x, p, c, s)",
        x=_TOKENS,
        p=np.arange(9).reshape(3, 1, 3) % 5,
        c="double[5, 2]",
        s="double[5, 2]",
    ),
    _sample(
        "(y, z) = GemmaRotaryEmbedding(a, q, r, k, t)",
        a="double[1, 3, 2]",
        **dict.fromkeys("qrkt", "double[1, 2, 3, 2]"),
    ),
)
_EMBED = {"i": np.array([[0, 2]], np.int32), "s": np.array([[0, 1]], np.int32)}
NORMS: tuple[Sample, ...] = (
    sample("(y, d) = SimplifiedLayerNormalization(x, s)", x=X, s="double[3]"),
    _sample("y = SimplifiedLayerNormalization(x, s)", x=X, s="double[3]"),
    _sample("y = LayerNormalization(x, s, b)", x=X, s="double[3]", b="double[3]"),
    _sample(
        "(y, _, _, t) = SkipLayerNormalization(x, k, g, b, c)",
        x=_TOKENS,
        k=_TOKENS,
        g="double[4]",
        b="double[4]",
        c="double[4]",
    ),
    _sample(
        "(y, _, _, t) = SkipSimplifiedLayerNormalization(x, k, g, c)",
        x=_TOKENS,
        k=_TOKENS,
        g="double[4]",
        c="double[4]",
    ),
    _sample(
        "(y, n, t) = EmbedLayerNormalization(i, s, w, p, u, g, b)",
        w="double[3, 4]",
        p="double[2, 4]",
        u="double[2, 4]",
        g="double[4]",
        b="double[4]",
        **_EMBED,
    ),
    _sample("y = GroupNorm{groups=2, activation=1}(x, g, b)", x="double[1, 2, 2, 4]", g="double[4]", b="double[4]"),
    _sample(
        "(y, t) = SkipGroupNorm{groups=2, activation=0}(x, g, b, k, c)",
        x="double[1, 2, 2, 4]",
        g="double[4]",
        b="double[4]",
        k="double[1, 4]",
        c="double[4]",
    ),
    _sample("y = GatedRMSNorm(x, s, g)", x=X, s="double[3]", g=X),
)
ARITHMETIC: tuple[Sample, ...] = (
    *(_sample(f"y = {op}(x)", x=X) for op in ("Gelu", "QuickGelu", "ScaledSiLU")),
    *(_sample(f"y = {op}(x, b)", x=X, b="double[3]") for op in ("BiasGelu", "FastGelu")),
    _sample("y = BiasSplitGelu(x, b)", x=_TOKENS, b="double[4]"),
    _sample("y = BiasAdd(x, b, s)", x=_TOKENS, b="double[4]", s=_TOKENS),
    _sample("y = BiasDropout(x, b, r)", x=X, b="double[3]", r=X),
    _sample("y = BitmaskDropout(x)", x=X),
    _sample("y = BitmaskBiasDropout(x, b, r)", x=X, b="double[3]", r=X),
    _sample("y = BiasSoftmax{axis=1, is_inner_broadcast=0}(x, b)", x=X, b=X),
    *(
        _sample(f"y = {op}{{alpha=0.5, transB=1}}(a, b)", a=X, b="double[2, 3]")
        for op in ("FusedMatMul", "TransposeMatMul")
    ),
    _sample("y = FusedMatMulActivation{activation='Tanh'}(a, b)", a=X, b="double[3, 2]"),
    _sample(
        "y = FusedGemm{activation='LeakyRelu', activation_alpha=0.2}(a, b, c)", a=X, b="double[3, 2]", c="double[2]"
    ),
    _sample("y = GemmFastGelu(x, w, b)", x=X, w="double[3, 2]", b="double[2]"),
    _sample("y = FusedConv{activation='Relu'}(x, w, b)", x=IMAGE, w="double[2, 2, 2, 2]", b="double[2]"),
    *(
        _sample(f"y = {op}(x, w, b)", x="double[1, 3, 3, 2]", w="double[2, 2, 2, 2]", b="double[2]")
        for op in ("NhwcConv", "NhwcFusedConv")
    ),
)
_BYTES = np.arange(16, dtype=np.uint8) * 16 + 5
QUANTIZED: tuple[Sample, ...] = (
    _sample(
        "y = MatMulNBits{K=16, N=2, bits=4, block_size=16}(x, w, s)",
        x="double[2, 16]",
        w=_BYTES.reshape(2, 1, 8),
        s="double[2, 1]",
    ),
    _sample(
        "y = GatherBlockQuantized{bits=8, block_size=16}(w, i, s)", w=_BYTES.reshape(1, 16), i=ints(0), s="double[1, 1]"
    ),
    _sample(
        "y = MatMulBnb4{K=16, N=2, block_size=16, quant_type=1}(x, w, a)", x="double[2, 16]", w=_BYTES, a="double[2]"
    ),
    _sample("y = DequantizeLinear(q, s, z)", q=np.array([[1, 2, 3]], np.uint8), s="double[]", z=np.array(1, np.uint8)),
    _sample(
        "y = MatMulIntegerToFloat(a, b, s, t, _, _, c)",
        a=np.array([[1, 2, 3]], np.uint8),
        b=np.array([[1], [2], [3]], np.uint8),
        s="double[]",
        t="double[1]",
        c="double[1]",
    ),
    _sample(
        "y = QGemm(a, s, z, b, t, u)",
        a=np.array([[1, 2, 3]], np.uint8),
        z=np.array(1, np.uint8),
        u=np.array(1, np.uint8),
        b=np.array([[1], [2], [3]], np.uint8),
        s="double[]",
        t="double[]",
    ),
    _sample(
        "y = QAttention{num_heads=2}(q, w, b, qs, s, _, qz, z)",
        q=_BYTES[:12].reshape(1, 3, 4),
        w=(np.arange(48, dtype=np.uint8) * 5).reshape(4, 12),
        b="double[12]",
        qs="double[1] 0.01..0.01",
        s="double[1] 0.01..0.01",
        qz=np.array(100, np.uint8),
        z=np.array(120, np.uint8),
    ),
    _sample(
        "(y, n) = QEmbedLayerNormalization(i, s, w, p, u, g, b, _, ws, ps, us, gs, bs, wz, pz, uz, gz, bz)",
        w=_BYTES[:12].reshape(3, 4),
        p=_BYTES[8:].reshape(2, 4),
        u=_BYTES[:8].reshape(2, 4),
        g=_BYTES[:4],
        b=_BYTES[4:8],
        **{f"{name}s": "double[] 0.01..0.01" for name in "wpugb"},
        **{f"{name}z": np.array(90, np.uint8) for name in "wpugb"},
        **_EMBED,
    ),
)
_EXPERTS = {"x": "double[3, 4]", "r": "double[3, 2]"}
EXPERTS: tuple[Sample, ...] = (
    _sample(
        "y = MoE{k=1, activation_type='silu'}(x, r, w, b, u, c)",
        w="double[2, 3, 4]",
        b="double[2, 3]",
        u="double[2, 4, 3]",
        c="double[2, 4]",
        **_EXPERTS,
    ),
    _sample(
        "y = QMoE{k=2, activation_type='gelu', expert_weight_bits=8, normalize_routing_weights=1}(x, r, w, s, _, u, t)",
        w=np.arange(24, dtype=np.uint8).reshape(2, 3, 4) * 9,
        s="double[2, 3] 0.01..0.02",
        u=np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 9,
        t="double[2, 4] 0.01..0.02",
        **_EXPERTS,
    ),
)
TENSORS: tuple[Sample, ...] = (
    _sample("y = Trilu(x)", x="double[3, 3]"),
    _sample("(y, i, n) = Unique(x)", x="double[4]"),
    _sample("y = Range(a, 3.4, d)", a="double[] 0.5..0.5", d="double[] 1..1"),
    _sample("y = ExpandDims(x, a)", x=X, a=np.array(1, np.int32)),
    _sample("y = Inverse(x)", x="double[2, 2]"),
    _sample("y = Pad(x, [0, 1, 0, 2])", x=X),
    _sample("y = GatherND(x, i)", x=X, i=np.array([[0, 1], [1, 2]])),
    _sample("y = GridSample(x, g)", x=IMAGE, g="double[1, 2, 3, 2] -0.71..0.73"),
    _sample("y = UnfoldTensor{size=2, dim=1, step=1}(x)", x=X),
    _sample(
        "y = CropAndResize(x, b, i, s)",
        x=IMAGE,
        b=np.array([[0.1, 0.2, 0.8, 0.9]]),
        i=np.array([0], np.int32),
        s=np.array([2, 3], np.int32),
    ),
    # the banned word's score is -inf
    sample(
        f"z = {_MS}NGramRepeatBlock{{ngram_size=2}}(i, s)",
        "y = Max(z, b)",
        i=np.array([[1, 2, 1]]),
        s="double[1, 4]",
        b=np.array(-9.0),
    ),
    _sample("y = CDist(a, b)", a=X, b="double[4, 3]"),
    _sample("y = CDist{metric='euclidean'}(a, b)", a=X, b="double[4, 3] 1..2"),
    *(_sample(f"y = {op}(a, b)", a="double[2, 2]", b="double[2, 2]") for op in ("ComplexMul", "ComplexMulConj")),
    _sample("y = Rfft{signal_ndim=1, normalized=0, onesided=1}(x)", x="double[2, 4]"),
    _sample("y = Irfft{signal_ndim=1, normalized=0, onesided=1}(x)", x="double[2, 3, 2]"),
)
CONTRIB = (*ATTENTION, *PACKED, *ROTARY, *NORMS, *ARITHMETIC, *QUANTIZED, *EXPERTS, *TENSORS)
