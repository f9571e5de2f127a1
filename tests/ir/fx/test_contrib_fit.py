"""What the contrib ops owe what follows: programs for any batch and length, and derivatives."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from tersor.ir.fx import to_fx
from tersor.ir.text import graph
from torch.fx import GraphModule

RNG = np.random.default_rng(0)
H, N, D, LONG = 16, 2, 8, 12
ANGLES = np.outer(np.arange(LONG), 10000.0 ** (-np.arange(0, D, 2) / D))


def floats(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


CONSTANTS: dict[str, object] = {
    "w": floats(H, 3 * H) * 0.3,
    "b": floats(3 * H),
    "g": floats(H),
    "c": np.cos(ANGLES).astype(np.float32),
    "s": np.sin(ANGLES).astype(np.float32),
    "packed": RNG.integers(0, 256, (24, 1, 8), np.uint8),
    "scales": RNG.random((24, 1), np.float32),
    "one": floats(4, H, H),
    "two": floats(4, H, H),
    "table": RNG.integers(0, 256, (9, H), np.uint8),
    "ts": RNG.random((9, 1), np.float32),
    "w8": RNG.integers(-60, 60, (H, 5), np.int8),
    "sc": np.float32(0.02),
    "zp": np.uint8(3),
    "start": np.array([0]),
    "cw": floats(H, 1, 3),
    "two_g": floats(2, H),
    "eight": RNG.integers(-5, 5, (24, H)).astype(ml_dtypes.float8_e4m3fn),
    "four": RNG.integers(0, 256, (24, H // 2), np.uint8),
    "bytes": np.full((24, 1), 56, np.uint8),
    "wide": floats(H, 24),
    "image": floats(6, H, 1, 1),
    "gamma": floats(H),
    "angles": np.outer(np.arange(LONG), np.ones(H)).astype(np.float32),
    "odd": np.array([3, 5, 7], np.int32),
    "primes": np.array([7, 11, 13, 17], np.int32),
    "gw": floats(D, 8),
    "gb": floats(8),
    "eco": floats(1, N, 1, 1),
    "lw": RNG.integers(-60, 60, (2, H, 4 * D), np.int8),
    "lr": RNG.integers(-60, 60, (2, D, 4 * D), np.int8),
    "ls": np.full(2, 0.01, np.float32),
    "lz": np.zeros(2, np.int8),
}
LINES = {
    "attention": f"y = Attention{{num_heads={N}, unidirectional=1}}(x, w, b, m)",
    "multi head": f"(y, k, v) = MultiHeadAttention{{num_heads={N}}}(x, x, x, b, m)",
    "rotary": "y = RotaryEmbedding(x, start, c, s)",
    "skip": "(y, _, _, t) = SkipLayerNormalization(x, x, g)",
    "rms": "y = SkipSimplifiedLayerNormalization(x, x, g)",
    "nbits": f"y = MatMulNBits{{K={H}, N=24, bits=4, block_size=16}}(x, packed, scales)",
    "moe": "y = MoE{k=2, activation_type='silu'}(x, r, one, _, two)",
    "gather": "y = GatherBlockQuantized{bits=8, block_size=16}(table, m, ts)",
    "dynamic": "y = DynamicQuantizeMatMul(x, w8, sc)",
    "bias gelu": "y = BiasGelu(x, g)",
    "turned attention": f"y = Attention{{num_heads={N}, do_rotary=1, unidirectional=1}}(x, w, b)",
    "scores": f"(y, k, v, z) = MultiHeadAttention{{num_heads={N}, unidirectional=1}}(x, x, x, _, m)",
    "longformer": f"y = LongformerAttention{{num_heads={N}, window=1}}(x, w, b, f, w, b, m)",
    "gated bias": f"y = GatedRelativePositionBias{{num_heads={N}}}(x, g, p, gw, gb, eco)",
    "linear attention": "y = LinearAttention{q_num_heads=2, kv_num_heads=2, update_rule='delta'}(x, x, x, _, _, h)",
    "windowed": "(y, z) = LinearAttention{q_num_heads=1, kv_num_heads=2, state_window=3}(x, x, x, _, h, h)",
    "gated delta net": "(y, z) = GatedDeltaNet{qk_l2_norm=1, beta_activation='sigmoid'}(s2, s2, s2, _, h, h)",
    "causal conv": "(y, z) = CausalConvWithState{channels_last=1, state_window=3, activation='silu'}(x, cw, g)",
    "branch norm": "y = BranchwiseRMSNorm(s2, two_g)",
    "pre mix": "y = HyperConnectionPreMix(s2, h)",
    "post mix": "y = HyperConnectionPostMix(s2, x, h)",
    "engram": "(y, z) = EngramGate(s2, s2, x, two_g, two_g, two_g)",
    "hashes": "(y, z) = NGramHashMapping{max_ngram_size=3, n_head_per_ngram=2, pad_id=1}(m, odd, primes)",
    "three products": "(y, k, v, z) = MatMulNBitsQkv{K=16, Nq=24, Nkv=24, block_size=16}"
    "(x, x, g, packed, scales, _, packed, scales, _, packed, scales)",
    "gated product": "y = MatMulNBitsMlp{K=16, N=24, block_size=16, activation='silu'}"
    "(x, _, _, packed, scales, _, packed, scales)",
    "float8": "y = MatMulBlockQuantizedFp8Weight{block_size=16}(x, eight, scales)",
    "float4": "y = MatMulBlockQuantizedFp4Weight(x, four, bytes, sc)",
    "group norm": "y = GroupNorm{groups=4, activation=1}(s2, gamma, g)",
    "channels last": "y = NhwcConv(s2, image)",
    "fused product": "y = FusedMatMulActivation{activation='Tanh'}(x, wide)",
    "gemma": "(y, z) = GemmaRotaryEmbedding(x, t, t, t, t)",
    "embedding": "y = TorchEmbedding(angles, m)",
    "gated norm": "y = GatedRMSNorm(x, g, x)",
    "quantized lstm": "(y, z) = DynamicQuantizeLSTM{hidden_size=8, direction='bidirectional'}"
    "(q, lw, lr, _, k, _, _, _, ls, lz, ls, lz)",
    "dropout": "(y, z) = BitmaskBiasDropout(x, g, x)",
}


INPUTS = {
    "x": f"float[n, l, {H}]",
    "m": "int32[n, l]",
    "r": "float[tokens, 4]",
    "f": "float[n, l]",
    "h": "float[n, l, 2]",
    "s2": f"float[n, l, 2, {H}]",
    "t": f"float[n, 2, l, {H}]",
    "p": f"float[1, {N}, l, l]",
    "q": f"float[l, n, {H}]",
    "k": "int32[n]",
}


def made(line: str, constants: dict[str, object] = CONSTANTS) -> tuple[GraphModule, list[str]]:
    outputs, call = line.split(" = ")
    words = call.replace(",", " ").replace(")", " ").replace("(", " ").split()
    used = {name: value for name, value in constants.items() if name in words}
    present = {name: kind for name, kind in INPUTS.items() if name in words}
    module = to_fx(graph(f"{outputs} = com.microsoft.{call}", inputs=present, **used))
    return module, list(module.meta["inputs"])


def sizes(name: str) -> list[str]:
    return INPUTS[name].partition("[")[2].rstrip("]").split(", ")


def example(name: str, batch: int, length: int) -> torch.Tensor:
    known = {"n": batch, "l": length, "tokens": batch * length}
    shape = [known[size] if size in known else int(size) for size in sizes(name)]
    if name in "mk":
        return torch.ones(shape, dtype=torch.int32)
    return torch.from_numpy(floats(*shape)) * (0.2 if name == "h" else 1)


SLOW = ("windowed", "gated delta net")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in LINES]
)
def test_programs_take_any_batch_and_length(name: str) -> None:
    module, inputs = made(LINES[name])
    shapes = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(sizes(i)) if not size.isdigit()} for i in inputs
    )
    with torch.no_grad():
        given = tuple(example(i, 3, 5) for i in inputs)
        program = torch.export.export(module, given, dynamic_shapes=shapes, strict=False)
        for batch, length in ((2, 7), (4, 2)):
            other = tuple(example(i, batch, length) for i in inputs)
            found, wanted = program.module()(*other), module(*other)
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name in LINES if name not in ("gather", "dynamic", "hashes", "embedding", "quantized lstm")]
)
def test_derivatives(name: str) -> None:
    doubles = {k: v.astype(np.float64) if np.asarray(v).dtype == np.float32 else v for k, v in CONSTANTS.items()}  # type: ignore[attr-defined]
    module, inputs = made(LINES[name], doubles)
    given = [example(i, 2, 3) for i in inputs]
    given = [part.double().requires_grad_() if part.is_floating_point() else part for part in given]
    assert torch.autograd.gradcheck(lambda *parts: first(module(*parts)), given)


def first(y: object) -> torch.Tensor:
    found = y[0] if isinstance(y, tuple) else y
    assert isinstance(found, torch.Tensor)
    assert found.dtype is torch.float64
    return found
