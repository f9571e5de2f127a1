"""Samples of linear attention, parallel streams and products in few bits (domain com.microsoft)."""

from __future__ import annotations

import numpy as np
from tersor.tests.ir.fx.samples import IMAGE, Sample, X, sample

_MS = "com.microsoft."
_TOKENS = "double[1, 3, 4]"
_BYTES = np.arange(16, dtype=np.uint8) * 16 + 5


def _sample(line: str, **given: object) -> Sample:
    """`y = Op(x)` with the domain left out."""
    outputs, _, call = line.partition(" = ")
    return sample(f"{outputs} = {_MS}{call}", **given)


_STATE = "double[1, 2, 2, 2]"
_RATES = {"d": "double[1, 3, 2] -0.9..-0.1", "e": "double[1, 3, 2] 0.1..0.9"}
_STREAMS = "double[2, 2, 3]"
RECURRENCE: tuple[Sample, ...] = (
    _sample(
        "(y, s) = LinearAttention{q_num_heads=1, kv_num_heads=2, state_window=2}(q, k, v, p, d, e)",
        q="double[1, 3, 2]",
        k=_TOKENS,
        v=_TOKENS,
        p="double[2, 1, 2, 2, 2]",
        **_RATES,
    ),
    _sample(
        "(d, b) = LinearAttentionGate(a, c, s, e)",
        a="double[1, 3, 2]",
        c="double[2]",
        s="double[2] -0.9..-0.1",
        e="double[1, 3, 2]",
    ),
    _sample(
        "(y, s) = CausalConvWithState{activation='silu', dilation=2, state_window=2, channels_last=1}(x, w, b, p)",
        x=_TOKENS,
        w="double[4, 1, 2]",
        b="double[4]",
        p="double[2, 1, 2, 4]",
    ),
    _sample(
        "(y, s) = GatedDeltaNet{gate_activation='qwen', beta_activation='sigmoid', qk_l2_norm=1}"
        "(q, q, v, _, d, e, p, l, t)",
        q="double[1, 3, 1, 2]",
        v="double[1, 3, 2, 2]",
        p=_STATE,
        l="double[2]",
        t="double[2]",
        **_RATES,
    ),
    _sample(
        "y = LongformerAttention{num_heads=2, window=1}(x, w, b, m, u, c, g)",
        x=_TOKENS,
        w="double[4, 12]",
        b="double[12]",
        m="double[1, 3]",
        u="double[4, 12]",
        c="double[12]",
        g=np.array([[1, 0, 0]], np.int32),
    ),
)
STREAMS: tuple[Sample, ...] = (
    _sample("y = GatedAdd(x, z, g)", x=X, z=X, g="double[2, 1]"),
    _sample("y = BranchwiseRMSNorm(x, s)", x=_STREAMS, s="double[2, 3]"),
    _sample("y = HyperConnectionPreMix(x, m)", x=_STREAMS, m="double[2, 2]"),
    _sample(
        "y = HyperConnectionPostMix(x, b, p, m)", x=_STREAMS, b="double[2, 3]", p="double[2, 2]", m="double[2, 2, 2]"
    ),
    _sample(
        "(y, n) = EngramGate(k, q, v, a, b, c)",
        k="double[1, 2, 2, 3]",
        q="double[1, 2, 2, 3]",
        v="double[1, 2, 3]",
        **dict.fromkeys("abc", "double[2, 3]"),
    ),
)
_HALF = _BYTES.reshape(2, 1, 8)
BLOCKS: tuple[Sample, ...] = (
    _sample(
        "(q, k, v, t) = MatMulNBitsQkv{K=16, Nq=2, Nkv=2, block_size=16}(x, z, g, a, s, _, b, s, _, c, s)",
        x="double[2, 16]",
        z="double[2, 16]",
        g="double[16]",
        a=_HALF,
        b=_HALF,
        c=_HALF,
        s="double[2, 1]",
    ),
    _sample(
        "y = MatMulNBitsMlp{K=16, N=2, block_size=16, activation='silu'}(x, _, _, a, s, b, c, s)",
        x="double[2, 16]",
        a=_HALF,
        b="double[2]",
        c=_HALF,
        s="double[2, 1]",
    ),
    sample(
        "f = Cast{to=17}(w)",
        f"y = {_MS}MatMulBlockQuantizedFp8Weight{{block_size=2}}(x, f, s, _, b)",
        x=X,
        w=np.array([[1, -2, 5], [4, 3, -8]]),
        s="double[2, 2]",
        b="double[2]",
    ),
    _sample(
        "y = MatMulBlockQuantizedFp4Weight(x, w, s, t, _, b)",
        x="double[2, 16]",
        w=_BYTES.reshape(2, 8),
        s=np.array([[56], [60]], np.uint8),
        t="double[] 0.5..0.5",
        b="double[2]",
    ),
    _sample(
        "y = GemmFloat8{alpha=0.5, beta=2.0, transB=1, activation='GELU'}(a, b, c, s, t)",
        a=X,
        b=X,
        c="double[2]",
        s="double[] 0.5..0.5",
        t="double[] 0.7..0.7",
    ),
)
TENSORS: tuple[Sample, ...] = (
    _sample("y = TorchEmbedding(w, i)", w=X, i=np.array([1, 0, 1])),
    _sample(
        "y = ConvTransposeWithDynamicPads{strides=[2, 1]}(x, w, p, b)",
        x=IMAGE,
        w="double[2, 2, 2, 2]",
        p=np.array([0, 1, 1, 0]),
        b="double[2]",
    ),
)
MORE_CONTRIB = (*RECURRENCE, *STREAMS, *BLOCKS, *TENSORS)
