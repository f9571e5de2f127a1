"""Ops of ONNX Runtime that are not raised, and what they lack a standard form for."""

from __future__ import annotations

from collections.abc import Mapping

from .call import MICROSOFT


def _because(reason: str, ops: str, domain: str = MICROSOFT) -> dict[tuple[str, str], str]:
    return {(domain, op): reason for op in ops.split()}


#: (domain, op) -> what would be needed.
KEPT: Mapping[tuple[str, str], str] = {
    **_because(
        "weights and images in the order of channels, not in the blocks of one CPU: optimize at the extended level",
        "AveragePool Conv GlobalAveragePool GlobalMaxPool MaxPool ReorderInput ReorderOutput Upsample",
        "com.microsoft.nchwc",
    ),
    **_because(
        "images in the order of channels: optimize for the CPU provider",
        "AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool GlobalLpPool GlobalMaxPool "
        "GridSample InstanceNormalization LRN LpPool MaxPool MaxUnpool QLinearAveragePool QLinearConv "
        "QLinearConvTranspose Resize SpaceToDepth",
        "com.ms.internal.nhwc",
    ),
    **_because(
        "sequences padded to one length, not packed end to end",
        "PackedAttention PackedMultiHeadAttention RemovePadding RestorePadding",
    ),
    **_because(
        "an LSTM whose steps are not rounded: its input and state are quantized at each step", "DynamicQuantizeLSTM"
    ),
    **_because("float tables: a table of 8 bits and its normalization are one op", "QEmbedLayerNormalization"),
    **_because("the search outside, around a decoder of its own", "BeamSearch GreedySearch Sampling WhisperBeamSearch"),
    **_because(
        "a cache that is a tensor of its own, and dense attention",
        "PagedAttention SparsePagedAttention SparseAttention DynamicSparseAttention SparseAttentionIndexer "
        "PackedSparseAttentionIndexer LongformerAttention DecoderAttention",
    ),
    **_because("inference: this is an op of training", "BiasDropout BitmaskBiasDropout BitmaskDropout"),
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
    **_because("a program for any device", "EPContext Snpe"),
}
