"""Contrib ops that ONNX Runtime has no CPU kernel for, against their text written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

RNG = np.random.default_rng(0)
B, S, N, D, PAST, LONG = 2, 3, 2, 8, 4, 9
H = N * D
Array = np.ndarray


def doubles(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def run(line: str, feeds: dict[str, Array], **constants: object) -> dict[str, Array]:
    return Interpreter(to_fx(graph(f"{line.replace(' = ', ' = com.microsoft.')}", **constants))).run(feeds)


def close(found: Array, wanted: Array, tolerance: float = 1e-12) -> None:
    assert found.dtype == np.float64
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gelu(x: Array) -> Array:
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


def softmax(x: Array, axis: int = -1) -> Array:
    shares = np.exp(x - x.max(axis, keepdims=True))
    return shares / shares.sum(axis, keepdims=True)


def heads(x: Array, count: int = N) -> Array:
    """[batch, sequence, hidden] -> [batch, heads, sequence, head]"""
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def merged(x: Array) -> Array:
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def attend(q: Array, k: Array, v: Array, added: Array | float = 0.0) -> Array:
    return softmax(q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5 + added) @ v


def turned(x: Array, start: int, width: int) -> Array:
    """Halves of the first `width` features of [.., sequence, head] turned by position * 10000^(-2 i / width)."""
    angles = np.outer(np.arange(x.shape[-2]) + start, 10000.0 ** (-np.arange(0, width, 2) / width))
    left, right, rest = x[..., : width // 2], x[..., width // 2 : width], x[..., width:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([left * cos - right * sin, left * sin + right * cos, rest], -1)


@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("channels_last", [0, 1])
def test_group_norm(activation: int, channels_last: int) -> None:
    x, gamma, beta = doubles(2, 6, 3, 5), doubles(6), doubles(6)
    groups = x.reshape(2, 3, -1)
    normed = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 0.01)
    wanted = normed.reshape(x.shape) * gamma[:, None, None] + beta[:, None, None]
    wanted = wanted * sigmoid(wanted) if activation else wanted
    options = f"groups=3, epsilon=0.01, activation={activation}, channels_last={channels_last}"
    given = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if channels_last else x
    found = run(f"y = GroupNorm{{{options}}}(x, g, b)", {"x": given}, g=gamma, b=beta)["y"]
    close(np.moveaxis(found, -1, 1) if channels_last else found, wanted)


@pytest.mark.parametrize("options", ["", "group=2, pads=[1, 0, 0, 1], strides=[2, 1], dilations=[1, 2]"])
def test_nhwc_conv(options: str) -> None:
    group, (top, left, bottom, right), (down, along), (tall, wide) = 1, (0, 0, 0, 0), (1, 1), (1, 1)
    if options:
        group, (top, left, bottom, right), (down, along), (tall, wide) = 2, (1, 0, 0, 1), (2, 1), (1, 2)
    x, w, b = doubles(2, 6, 7, 4), doubles(6, 4 // group, 2, 3), doubles(6)
    found = run(f"y = NhwcConv{{{options or 'group=1'}}}(x, w, b)", {"x": x}, w=w, b=b)["y"]
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows = (padded.shape[1] - tall * 1 - 1) // down + 1
    columns = (padded.shape[2] - wide * 2 - 1) // along + 1
    wanted = np.zeros((2, rows, columns, 6))
    for r in range(rows):
        for c in range(columns):
            patch = padded[:, r * down : r * down + tall + 1 : tall, c * along : c * along + 2 * wide + 1 : wide]
            for out in range(6):
                part = patch[..., out // (6 // group) * (4 // group) :][..., : 4 // group]
                wanted[:, r, c, out] = np.einsum("bhwi,ihw->b", part, w[out]) + b[out]
    close(found, wanted)


FUSED = {
    "Relu": (lambda y: np.maximum(y, 0), ""),
    "Tanh": (np.tanh, ""),
    "Sigmoid": (sigmoid, ""),
    "LeakyRelu": (lambda y: np.where(y < 0, 0.3 * y, y), ", activation_alpha=0.3"),
    "HardSigmoid": (lambda y: np.clip(0.3 * y + 0.4, 0, 1), ", activation_alpha=0.3, activation_beta=0.4"),
    "Softmax": (lambda y: softmax(y, 1), ", activation_axis=1"),
}


@pytest.mark.parametrize("activation", FUSED)
def test_fused_matmul_activation(activation: str) -> None:
    function, more = FUSED[activation]
    a, b = doubles(2, 4, 3), doubles(2, 5, 4)
    options = f"activation='{activation}'{more}, alpha=0.5, transA=1, transB=1"
    found = run(f"y = FusedMatMulActivation{{{options}}}(a, b)", {"a": a, "b": b})["y"]
    close(found, function(0.5 * a.swapaxes(1, 2) @ b.swapaxes(1, 2)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reduce_sum_integer(dtype: type, keepdims: int) -> None:
    info = np.iinfo(dtype)
    x = RNG.integers(info.min, info.max, (2, 300, 5)).astype(dtype)
    found = run(f"y = ReduceSumInteger{{axes=[1, -1], keepdims={keepdims}}}(x)", {"x": x})["y"]
    wide = np.int32 if dtype is np.int8 else np.uint32
    assert found.dtype == wide
    np.testing.assert_array_equal(found, x.sum((1, 2), keepdims=bool(keepdims), dtype=wide))


@pytest.mark.parametrize("axis", [-1, 1])
def test_layer_normalization(axis: int) -> None:
    x = doubles(2, 3, 4)
    axes = (2,) if axis == -1 else (1, 2)
    gamma, beta = doubles(*x.shape[axes[0] :]), doubles(*x.shape[axes[0] :])
    found = run(f"(y, m, d) = LayerNormalization{{axis={axis}, epsilon=0.01}}(x, g, b)", {"x": x}, g=gamma, b=beta)
    mean, inverse = x.mean(axes, keepdims=True), 1 / np.sqrt(x.var(axes, keepdims=True) + 0.01)
    close(found["y"], (x - mean) * inverse * gamma + beta)
    np.testing.assert_allclose(found["m"], mean, rtol=1e-6)
    np.testing.assert_allclose(found["d"], inverse, rtol=1e-6)


def test_simplified_layer_normalization() -> None:
    x, gamma = doubles(2, 3, 4), doubles(4)
    found = run("y = SimplifiedLayerNormalization{epsilon=0.01}(x, g)", {"x": x}, g=gamma)["y"]
    close(found, x / np.sqrt((x * x).mean(-1, keepdims=True) + 0.01) * gamma)


def test_sums_and_biases() -> None:
    x, bias, skip = doubles(2, 3, 4), doubles(4), doubles(2, 3, 4)
    close(run("y = BiasAdd(x, b, s)", {"x": x, "s": skip}, b=bias)["y"], x + bias + skip)
    close(run("y = BitmaskDropout(x)", {"x": x})["y"], x)
    found = run("(y, m) = BitmaskBiasDropout(x, b, s)", {"x": x, "s": skip}, b=bias)
    close(found["y"], x + bias + skip)
    np.testing.assert_array_equal(found["m"], np.array([0xFFFFFFFF], np.uint32))


WEIGHTS = {"w": doubles(H, 3 * H) * 0.3, "b": doubles(3 * H)}


@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("past", [0, PAST])
def test_attention_with_rotary(width: int, past: int) -> None:
    x, cache = doubles(B, S, H), doubles(2, B, N, past, D)
    options = f"num_heads={N}, do_rotary=1, unidirectional=1" + (f", rotary_embedding_dim={width}" if width else "")
    line = f"(y, p) = Attention{{{options}}}(x, w, b" + (", _, past)" if past else ")")
    found = run(line, {"x": x, **({"past": cache} if past else {})}, **WEIGHTS)
    q, k, v = (heads(part) for part in np.split(x @ WEIGHTS["w"] + WEIGHTS["b"], 3, -1))
    q, k = turned(q, past, width or D), turned(k, past, width or D)
    k, v = np.concatenate([cache[0], k], 2), np.concatenate([cache[1], v], 2)
    hidden = np.where(np.tri(S, S + past, past), 0.0, -np.inf)
    close(found["y"], merged(attend(q, k, v, hidden)), 1e-9)
    close(found["p"], np.stack([k, v]), 1e-9)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rotary", [0, 1])
def test_decoder_masked_self_attention(mask: bool, bias: bool, rotary: int) -> None:
    x, past, added = doubles(B, 1, H), doubles(2, B, N, LONG, D), doubles(1, N, 1, PAST + 1)
    seen = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 1]], np.int32)
    options = f"num_heads={N}, past_present_share_buffer=1, do_rotary={rotary}"
    fed = {"x": x, "past": past, **({"m": seen} if mask else {}), **({"a": added} if bias else {})}
    names = f"{'m' if mask else '_'}, past, {'a' if bias else '_'}"
    line = f"(y, p) = DecoderMaskedSelfAttention{{{options}}}(x, w, b, {names}, n)"
    found = run(line, fed, **WEIGHTS, n=np.array([PAST], np.int32))
    q, k, v = (heads(part) for part in np.split(x @ WEIGHTS["w"] + WEIGHTS["b"], 3, -1))
    if rotary:
        q, k = turned(q, PAST, D), turned(k, PAST, D)
    kept = past.copy()
    kept[0, :, :, PAST : PAST + 1], kept[1, :, :, PAST : PAST + 1] = k, v
    scores = np.where(seen[:, None, None] > 0, 0.0, -10000.0) if mask else np.zeros(1)
    scores = scores + added if bias else scores
    close(found["y"], merged(attend(q, *kept[:, :, :, : PAST + 1], scores)), 1e-9)
    close(found["p"], kept, 1e-9)


@pytest.mark.parametrize("past", [0, PAST])
@pytest.mark.parametrize("rotary", [0, 1])
def test_grouped_heads_with_norms_of_query_and_key(past: int, rotary: int) -> None:
    """The norms come before the rotary embedding, and the cache holds keys with both."""
    groups, epsilon = 2, 0.01
    q, k, v = doubles(B, S, 4 * D), doubles(B, S, groups * D), doubles(B, S, groups * D)
    cache = doubles(2, B, groups, past, D)
    norms = {"qn": doubles(D), "kn": doubles(D)}
    angles = np.outer(np.arange(LONG), 10000.0 ** (-np.arange(0, D, 2) / D))
    fed = {"q": q, "k": k, "v": v, **({"pk": cache[0], "pv": cache[1]} if past else {})}
    constants = {"n": np.full(B, past + S - 1, np.int32), "t": np.array(past + S, np.int32), **norms}
    if rotary:
        constants |= {"c": np.cos(angles), "s": np.sin(angles)}
    options = f"num_heads=4, kv_num_heads={groups}, do_rotary={rotary}, qk_norm_epsilon=0.01"
    names = f"q, k, v, {'pk, pv' if past else '_, _'}, n, t, {'c, s' if rotary else '_, _'}, _, _, _, _, _, qn, kn"
    found = run(f"(y, nk, nv) = GroupQueryAttention{{{options}}}({names})", fed, **constants)
    q, k, v = heads(q, 4), heads(k, groups), heads(v, groups)
    q, k = (
        part / np.sqrt((part * part).mean(-1, keepdims=True) + epsilon) * norms[name]
        for part, name in ((q, "qn"), (k, "kn"))
    )
    if rotary:
        q, k = turned(q, past, D), turned(k, past, D)
    k, v = np.concatenate([cache[0], k], 2), np.concatenate([cache[1], v], 2)
    close(found["nk"], k, 1e-9)
    hidden = np.where(np.tri(S, S + past, past), 0.0, -np.inf)
    close(found["y"], merged(attend(q, np.repeat(k, 2, 1), np.repeat(v, 2, 1), hidden)), 1e-9)


def test_rotary_embedding_with_a_scale() -> None:
    x, angles = doubles(B, N, S, D), np.outer(np.arange(LONG), 10000.0 ** (-np.arange(0, 4, 2) / 4))
    constants = {"p": np.array([PAST]), "c": np.cos(angles), "s": np.sin(angles)}
    found = run(
        "y = RotaryEmbedding{scale=1.5, num_heads=2, rotary_embedding_dim=4}(x, p, c, s)", {"x": x}, **constants
    )
    wanted = turned(x, PAST, 4)
    wanted[..., :4] *= 1.5
    close(found["y"], wanted)


def test_quantized_attention_with_rotary() -> None:
    codes, weight = RNG.integers(0, 256, (B, S, H), np.uint8), RNG.integers(-60, 60, (H, 3 * H), np.int8)
    constants = {"w": weight, "b": doubles(3 * H), "qs": np.array(0.01), "s": np.array(0.02), "qz": np.uint8(99)}
    line = f"y = QAttention{{num_heads={N}, do_rotary=1, unidirectional=1}}(q, w, b, qs, s, _, qz)"
    found = run(line, {"q": codes}, **constants)["y"]
    product = (codes.astype(np.int64) - 99) @ weight.astype(np.int64) * (0.01 * 0.02) + constants["b"]
    q, k, v = (heads(part) for part in np.split(product, 3, -1))
    q, k = turned(q, 0, D), turned(k, 0, D)
    close(found, merged(attend(q, k, v, np.where(np.tri(S), 0.0, -np.inf))), 1e-9)


@pytest.mark.parametrize("normalize", [0, 1])
def test_quantized_experts_are_those_of_their_float_weights(normalize: int) -> None:
    codes = {name: RNG.integers(0, 256, (4, 8, 8), np.uint8) for name in ("a", "b")}
    scales = {name: RNG.random((4, 8)) * 0.02 for name in ("s", "t")}
    fed = {"x": doubles(5, 8), "r": doubles(5, 4)}
    options = f"k=2, normalize_routing_weights={normalize}, activation_type='silu'"
    line = f"y = QMoE{{{options}, expert_weight_bits=8, weights_prepacked=0}}(x, r, a, s, _, b, t)"
    found = run(line, fed, **codes, **scales)["y"]
    wide = {
        name: (codes[name].astype(np.float64) - 128) * scale[..., None]
        for name, scale in zip(codes, scales.values(), strict=True)
    }
    wanted = np.zeros((5, 8))
    for token, (x, scores) in enumerate(zip(fed["x"], fed["r"], strict=True)):
        best = np.argsort(-scores)[:2]
        shares = softmax(scores[best]) if normalize else softmax(scores)[best]
        for expert, share in zip(best, shares, strict=True):
            inner = wide["a"][expert] @ x
            wanted[token] += share * (wide["b"][expert] @ (inner * sigmoid(inner)))
    close(found, wanted, 1e-9)


def test_gemma_rotary_embedding() -> None:
    angles, parts = doubles(B, S, D), {name: doubles(B, N, S, D) for name in "qrkt"}
    found = run("(y, z) = GemmaRotaryEmbedding(a, q, r, k, t)", {"a": angles, **parts})
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    close(found["y"], parts["q"] * cos + parts["r"] * sin)
    close(found["z"], parts["k"] * cos + parts["t"] * sin)


def test_torch_embedding() -> None:
    table, ids = doubles(5, 4), np.array([[1, 4], [0, 1]])
    close(run("y = TorchEmbedding(w, i)", {"i": ids}, w=table)["y"], table[ids])
    module = to_fx(graph("y = com.microsoft.TorchEmbedding(w, i, 1)", w=table), copy=True)
    module(torch.from_numpy(ids)).sum().backward()
    np.testing.assert_array_equal(module.w.grad[:, 0], [1, 0, 0, 0, 1])
