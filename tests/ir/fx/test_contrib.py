"""The contrib ops against ONNX Runtime's own kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]
RNG = np.random.default_rng(0)
WEIGHTS = (-60, 60)
"""ONNX Runtime's AVX2 kernels saturate pairs of larger int8 weights with uint8 activations in 16 bits."""
B, S, N, D = 2, 4, 2, 8
H = N * D
X, X3 = f"float[{B}, {S}, {H}]", (B, S, H)


@pytest.mark.parametrize(
    "line", ["BiasGelu(x, b)", "FastGelu(x, b)", "FastGelu(x)", "Gelu(x)", "QuickGelu{alpha=1.5}(x)"]
)
def test_gelus(check: Check, line: str) -> None:
    types = {"x": X, **({"b": f"float[{H}]"} if "b)" in line else {})}
    check(f"y = com.microsoft.{line}", **types)


@pytest.mark.parametrize("options", ["{alpha=0.5}", "{transA=1, transB=1}", "{transBatchA=1}"])
def test_fused_matmul(check: Check, options: str) -> None:
    a = {"{alpha=0.5}": "float[2, 3, 4]", "{transA=1, transB=1}": "float[2, 4, 3]"}.get(options, "float[3, 2, 4]")
    b = "float[2, 5, 4]" if "transB=1" in options else "float[2, 4, 5]"
    check(f"y = com.microsoft.FusedMatMul{options}(a, b)", a=a, b=b)


@pytest.mark.parametrize("extra", ["", ", beta", ", beta, bias"])
def test_skip_layer_norm(check: Check, extra: str) -> None:
    types = {
        "x": X,
        "skip": X,
        **{name: f"float[{H}]" for name in ("gamma", "beta", "bias") if name in f"gamma{extra}"},
    }
    check(f"(y, _, _, t) = com.microsoft.SkipLayerNormalization{{epsilon=1e-5}}(x, skip, gamma{extra})", **types)


def test_rms_forms(check: Check) -> None:
    types = {"x": X, "skip": X, "gamma": f"float[{H}]"}
    check("(y, _, _, t) = com.microsoft.SkipSimplifiedLayerNormalization(x, skip, gamma)", **types)
    check("y = SimplifiedLayerNormalization(x, gamma)", x=X, gamma=f"float[{H}]")


def test_embed_layer_norm(check: Check) -> None:
    constants = {name: RNG.standard_normal((n, H)).astype(np.float32) for name, n in (("w", 9), ("p", 6), ("g", 2))}
    norms = {"gamma": RNG.random(H, np.float32), "beta": RNG.random(H, np.float32)}
    ids = {name: np.array([[1, 2, 3, 0], [0, 1, 0, 1]], np.int32) % 2 for name in ("i", "s", "m")}
    types = dict.fromkeys(ids, f"int32[{B}, {S}]")
    line = "(y, n, t) = com.microsoft.EmbedLayerNormalization(i, s, w, p, g, gamma, beta, m)"
    check(line, constants={**constants, **norms}, feeds=ids, **types)


MASKS = {
    "none": None,
    "lengths": np.array([3, 4], np.int32),
    "ends and starts": np.array([4, 3, 1, 0], np.int32),
    "keys": np.array([[1, 1, 1, 0], [0, 1, 1, 1]], np.int32),
    "rows": RNG.integers(0, 2, (B, S, S), np.int32) | np.eye(S, dtype=np.int32),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_its_projection(check: Check, mask: str, causal: int) -> None:
    constants = {
        "w": RNG.standard_normal((H, 3 * H)).astype(np.float32),
        "b": RNG.standard_normal(3 * H).astype(np.float32),
        **({"m": MASKS[mask]} if MASKS[mask] is not None else {}),
    }
    extra = ", m" if MASKS[mask] is not None else ""
    line = f"y = com.microsoft.Attention{{num_heads={N}, unidirectional={causal}}}(x, w, b{extra})"
    check(line, x=X, constants=constants)


def test_attention_with_a_cache(check: Check) -> None:
    constants = {"w": RNG.standard_normal((H, 3 * H)).astype(np.float32), "b": np.zeros(3 * H, np.float32)}
    line = f"(y, present) = com.microsoft.Attention{{num_heads={N}, unidirectional=1}}(x, w, b, _, past)"
    check(line, x=X, past=f"float[2, {B}, {N}, 3, {D}]", constants=constants)


@pytest.mark.parametrize("extra", ["", ", b", ", _, m", ", _, _, bias", ", b, m, bias"])
def test_multi_head_attention(check: Check, extra: str) -> None:
    constants = {"b": RNG.standard_normal(3 * H).astype(np.float32), "m": MASKS["keys"]}
    constants = {name: value for name, value in constants.items() if f", {name}," in f"{extra},"}
    types = dict.fromkeys("qkv", X) | ({"bias": f"float[{B}, {N}, {S}, {S}]"} if "bias" in extra else {})
    check(f"y = com.microsoft.MultiHeadAttention{{num_heads={N}}}(q, k, v{extra})", constants=constants, **types)


def test_multi_head_attention_causal(check: Check) -> None:
    line = f"y = com.microsoft.MultiHeadAttention{{num_heads={N}, unidirectional=1}}"
    check(f"{line}(q, k, v)", **dict.fromkeys("qkv", X))


def test_packed_inputs_are_split() -> None:
    # ONNX Runtime has these forms on GPUs only
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((B, S, N, D)).astype(np.float32) for _ in range(3))
    line = f"y = com.microsoft.MultiHeadAttention{{num_heads={N}}}"
    apart = Interpreter(to_fx(graph(f"{line}(q, k, v)"))).run(
        {"q": q.reshape(X3), "k": k.reshape(X3), "v": v.reshape(X3)}
    )
    together = Interpreter(to_fx(graph(f"{line}(p)"))).run({"p": np.stack([q, k, v], 3)})
    np.testing.assert_array_equal(apart["y"], together["y"])
    pair = Interpreter(to_fx(graph(f"{line}(q, p)"))).run({"q": q.reshape(X3), "p": np.stack([k, v], 3)})
    np.testing.assert_array_equal(apart["y"], pair["y"])


@pytest.mark.parametrize("interleaved", [0, 1])
def test_rotary_embedding(check: Check, interleaved: int) -> None:
    angles = RNG.random((16, D // 2), np.float32)
    constants = {
        "c": np.cos(angles),
        "s": np.sin(angles),
        "p": np.array([[0, 1, 2, 3], [4, 5, 6, 7]]),
        "start": np.array([2]),
    }
    types = {"x": f"float[{B}, {N}, {S}, {D}]"}
    for positions in ("p", "start"):
        used = {name: constants[name] for name in ("c", "s", positions)}
        line = f"y = com.microsoft.RotaryEmbedding{{interleaved={interleaved}}}(x, {positions}, c, s)"
        check(line, constants=used, **types)


def test_integer_products(check: Check) -> None:
    constants = {
        "w": RNG.integers(*WEIGHTS, (H, 5), np.int8),
        "s": RNG.random(5, np.float32),
        "z": np.zeros(5, np.int8),
        "b": RNG.random(5, np.float32),
    }
    check("y = com.microsoft.DynamicQuantizeMatMul(x, w, s, z, b)", x=X, constants=constants, tolerance=1e-4)
    lines = ("(q, qs, qz) = DynamicQuantizeLinear(x)", "y = com.microsoft.MatMulIntegerToFloat(q, w, qs, s, qz, z, b)")
    check(*lines, x=X, constants=constants, tolerance=1e-4)


def test_qattention_of_a_dynamically_quantized_input(check: Check) -> None:
    constants = {
        "w": RNG.integers(*WEIGHTS, (H, 3 * H), np.int8),
        "b": RNG.random(3 * H, np.float32),
        "s": np.float32(0.01),
        "z": np.int8(0),
        "m": MASKS["keys"],
    }
    lines = (
        "(q, qs, qz) = DynamicQuantizeLinear(x)",
        f"y = com.microsoft.QAttention{{num_heads={N}}}(q, w, b, qs, s, m, qz, z)",
    )
    check(*lines, x=X, constants=constants, tolerance=1e-4)
