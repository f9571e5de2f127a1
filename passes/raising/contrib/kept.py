"""Ops outside of ONNX that are not raised, and what they lack a standard form for."""

from __future__ import annotations

from collections.abc import Mapping

from ....ir.level import DOMAIN
from ...base import Miss
from .call import MICROSOFT


def _because(reason: str, ops: str) -> dict[str, str]:
    return dict.fromkeys(ops.split(), reason)


#: What ONNX itself defines, and what tersor's passes do.
_STANDARD = frozenset({"", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training", DOMAIN})

#: Domains of ONNX Runtime whose every op is for one kind of machine -> what would be needed.
DOMAINS: Mapping[str, str] = {
    "com.microsoft.nchwc": "weights and images in the order of channels, not in the blocks of one CPU: optimize "
    "offline at the extended level, not all",
    "com.ms.internal.nhwc": "images in the order of channels, not with channels last as one execution provider has "
    "them: optimize offline for the CPU provider",
}

#: Op of com.microsoft -> what would be needed.
KEPT: Mapping[str, str] = {
    **_because(
        "sequences padded to one length, not packed end to end",
        "PackedAttention PackedMultiHeadAttention RemovePadding RestorePadding VarlenCausalConvWithState "
        "VarlenNGramHashMapping",
    ),
    **_because("an LSTM with its attention as ops of their own, beside it", "AttnLSTM"),
    **_because("float tables: a table of 8 bits and its normalization are one op", "QEmbedLayerNormalization"),
    **_because("the search outside, around a decoder of its own", "BeamSearch GreedySearch Sampling WhisperBeamSearch"),
    **_because("steps of a decoding loop outside, in the program that runs it", "BifurcationDetector NGramRepeatBlock"),
    **_because(
        "a cache that is a tensor of its own, and dense attention",
        "PagedAttention SparsePagedAttention SparseAttention DynamicSparseAttention SparseAttentionIndexer "
        "PackedSparseAttentionIndexer LongformerAttention DecoderAttention",
    ),
    **_because(
        "a recurrence over tokens spelled as Scan, or a later opset: the semantic one has no linear attention",
        "LinearAttention LinearAttentionGate GatedDeltaNet",
    ),
    **_because(
        "a convolution and its state as Concat, Conv and Slice, or a later opset: the semantic one has no such op",
        "CausalConvWithState",
    ),
    **_because(
        "parallel residual streams as products and sums of ops of their own: export without this fusion",
        "HyperConnectionPreMix HyperConnectionPostMix BranchwiseRMSNorm EngramGate",
    ),
    **_because("inference: this is an op of training", "BiasDropout BitmaskBiasDropout BitmaskDropout IsAllFinite"),
    **_because("experts as branches or as one dense product", "MoE QMoE"),
    **_because(
        "integers in rows and columns, behind QuantizeLinear and DequantizeLinear",
        "QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedLongformerAttention QOrderedMatMul "
        "QuantizeWithOrder DequantizeWithOrder MatMulFpQ4 QuantizeBFP DequantizeBFP MatMulInteger16 MulInteger "
        "ReduceSumInteger",
    ),
    **_because(
        "a weight of integers that a scale and a zero point make floats of",
        "MatMulBnb4 GemmFloat8 MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight",
    ),
    **_because(
        "a product of its own for each weight, which no CPU kernel of ONNX Runtime does",
        "MatMulNBitsQkv MatMulNBitsMlp",
    ),
    **_because("DFT, the standard op: this one has GPU kernels alone, none to hold the result to", "Rfft Irfft"),
    **_because("the inverse of a matrix computed before export: ONNX has none", "Inverse"),
    **_because("boxes cut with Slice and Resize: RoiAlign averages samples and Resize cuts one box", "CropAndResize"),
    **_because("windows cut with Slice or by Gather: ONNX has no op that unfolds an axis", "UnfoldTensor"),
    **_because("a path through a matrix searched outside: ONNX has no op for it", "DynamicTimeWarping"),
    **_because("a dense left side: no standard op takes a sparse tensor", "SparseToDenseMatMul"),
    **_because(
        "numbers: texts, their characters and hashes of them belong to the tokenizer",
        "Tokenizer WordConvEmbedding MurmurHash3 NGramHashMapping",
    ),
    **_because("an op that is no experiment of ONNX Runtime's own tests", "MaxpoolWithMask SampleOp"),
    **_because("a program for any device", "EPContext Snpe"),
}


_UNKNOWN = "an op that ONNX Runtime 1.31 has: this one is newer, or somebody's own"


def why_kept(domain: str, op: str) -> Miss | None:
    """Why an op that nothing raises stays as it is; None for the ops of ONNX, which need no reason."""
    if domain in _STANDARD:
        return None
    if domain == MICROSOFT:
        return Miss(
            "op", op, KEPT.get(op, "an op that ONNX Runtime 1.31 or older has: this one is newer, or somebody's own")
        )
    if domain in DOMAINS:
        return Miss("domain", f"{op} of {domain}", DOMAINS[domain])
    return Miss(
        "domain", f"{op} of {domain}", "ops of ONNX, or a model-local function that says what the op stands for"
    )
