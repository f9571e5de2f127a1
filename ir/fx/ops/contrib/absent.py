"""Ops of ONNX Runtime's own domain (com.microsoft, as of 1.31) that are not converted, and why."""

from __future__ import annotations

from collections.abc import Mapping


def _because(reason: str, ops: str) -> dict[str, str]:
    return dict.fromkeys(ops.split(), reason)


ALIASES = ("LayerNormalization", "SimplifiedLayerNormalization")
"""Standard ops that some exporters put in this domain, where ONNX Runtime itself has none of that name."""

ABSENT: Mapping[str, str] = {
    **_because(
        "a search that runs a decoder held in its attributes, token by token; convert the decoder (and encoder) "
        "on their own and search outside",
        "BeamSearch GreedySearch Sampling WhisperBeamSearch",
    ),
    **_because(
        "a serving kernel over a cache in pages or sequences packed end to end, whose lengths are data; export the "
        "model with GroupQueryAttention or padded sequences",
        "PagedAttention SparsePagedAttention VarlenCausalConvWithState VarlenNGramHashMapping",
    ),
    **_because(
        "attention over places that another op selected at run time; GPU kernels only, with no result of ONNX "
        "Runtime's CPU to hold it to",
        "DynamicSparseAttention SparseAttentionIndexer PackedSparseAttentionIndexer",
    ),
    **_because(
        "int8 in the memory layouts of cuBLASLt, for one generation of GPUs; export with QuantizeLinear and "
        "DequantizeLinear",
        "QOrderedAttention QOrderedGelu QOrderedLayerNormalization QOrderedLongformerAttention QOrderedMatMul "
        "QuantizeWithOrder DequantizeWithOrder",
    ),
    **_because("block floating point whose format is the hardware's", "QuantizeBFP DequantizeBFP"),
    **_because(
        "a program compiled for one device; convert the model it was compiled from",
        "EPContext Snpe",
    ),
    **_because("a blob in the layout of one CPU's kernel; export with MatMulNBits", "MatMulFpQ4"),
    **_because(
        "which attention it is (self or cross, cached or not) is data; use MultiHeadAttention", "DecoderAttention"
    ),
    **_because("an LSTM with Bahdanau attention inside; export its steps as ops of their own", "AttnLSTM"),
    **_because("sparse tensors have no form here; make the left side dense", "SparseToDenseMatMul"),
    **_because("works on texts or their characters; leave it to the tokenizer", "Tokenizer WordConvEmbedding"),
    **_because("hashes of bytes, no part of a network; compute them before it", "MurmurHash3"),
    **_because("a step of a decoding loop with results of data-dependent size; run it outside", "BifurcationDetector"),
    **_because("an internal op or an example", "MaxpoolWithMask SampleOp"),
}
