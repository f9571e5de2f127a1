"""Fused products of weights in few bits, Longformer's windows, and attentions over caches that they write in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ml_dtypes
import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Array = np.ndarray
RNG = np.random.default_rng(0)
ROWS, K, N, BLOCK = 5, 64, 16, 32


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def run(*lines: str, feeds: Mapping[str, Array], **constants: object) -> dict[str, Array]:
    return Interpreter(to_fx(graph(*lines, **constants))).run(feeds)


def packed(rows: int, bits: int) -> tuple[Array, Array]:
    shape = rows, K // BLOCK, BLOCK * bits // 8
    return RNG.integers(0, 256, shape, np.uint8), (RNG.random(shape[:2], np.float32) + 0.5) * 0.1


def of_onnxruntime(model: onnx_ir.Model, feeds: Mapping[str, Array], shared: Mapping[str, str]) -> list[Array]:
    """ONNX Runtime's outputs, those in `shared` written over the inputs they are named with."""
    proto = onnx_ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    binding, held = session.io_binding(), {}
    for name, array in feeds.items():
        held[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array.copy())
        binding.bind_ortvalue_input(name, held[name])
    for value in session.get_outputs():
        if value.name in shared:
            binding.bind_ortvalue_output(value.name, held[shared[value.name]])
        else:
            binding.bind_output(value.name)
    session.run_with_iobinding(binding)
    return [value.numpy().copy() for value in binding.get_outputs()]


def agree(line: str, feeds: Mapping[str, Array], shared: Mapping[str, str], **constants: object) -> None:
    names = {"float32": "float", "int32": "int32"}
    types = {name: f"{names[str(x.dtype)]}[{', '.join(map(str, x.shape))}]" for name, x in feeds.items()}
    model = graph(line, inputs=types, **constants)
    for value in model.graph.outputs:
        # of the fourth output ONNX Runtime's inference does not know the type
        value.dtype = onnx_ir.DataType.FLOAT
    found = Interpreter(to_fx(model)).run(feeds)
    for value, wanted in zip(found.values(), of_onnxruntime(model, feeds, shared), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_three_products_of_one_norm(check: Callable[..., dict[str, Array]], bits: int, skip: bool, bias: bool) -> None:
    constants: dict[str, object] = {"g": floats(K), "qb": floats(N), "kb": floats(8), "vb": floats(8)}
    for name, rows in (("q", N), ("k", 8), ("v", 8)):
        constants[f"{name}w"], constants[f"{name}s"] = packed(rows, bits)
    each = ", ".join(f"{name}w, {name}s, {f'{name}b' if bias else '_'}" for name in "qkv")
    options = f"K={K}, Nq={N}, Nkv=8, bits={bits}, block_size={BLOCK}, epsilon=0.001"
    feeds = {"x": floats(2, ROWS, K), **({"z": floats(2, ROWS, K)} if skip else {})}
    outputs = f"(q, k, v{', t' if skip else ''})"
    line = f"{outputs} = com.microsoft.MatMulNBitsQkv{{{options}}}(x, {'z' if skip else '_'}, g, {each})"
    found = run(line, feeds=feeds, **constants)
    norm = "y = SimplifiedLayerNormalization{epsilon=0.001}(x, g)"
    if skip:
        norm = "(y, _, _, t) = com.microsoft.SkipSimplifiedLayerNormalization{epsilon=0.001}(x, z, g)"
    products = [
        f"{name} = com.microsoft.MatMulNBits{{K={K}, N={rows}, bits={bits}, block_size={BLOCK}}}"
        f"(y, {name}w, {name}s{f', _, _, {name}b' if bias else ''})"
        for name, rows in (("q", N), ("k", 8), ("v", 8))
    ]
    model = graph(
        norm, *products, inputs=dict.fromkeys(feeds, f"float[2, {ROWS}, {K}]"), outputs=list(found), **constants
    )
    for value, wanted in zip(found.values(), of_onnxruntime(model, feeds, {}), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normed", [False, True])
def test_gated_product(normed: bool) -> None:
    (gate, gs), (up, us) = packed(N, 4), packed(N, 4)
    constants = {"g": floats(K), "a": gate, "s": gs, "b": floats(N), "c": up, "t": us, "d": floats(N)}
    options = f"K={K}, N={N}, bits=4, block_size={BLOCK}"
    feeds = {name: floats(ROWS, K) for name in ("xz" if normed else "x")}
    before = "x, z, g" if normed else "x, _, _"
    line = f"(y, u) = com.microsoft.MatMulNBitsMlp{{{options}, activation='silu'}}({before}, a, s, b, c, t, d)"
    found = run(line, feeds=feeds, **constants)
    norm = "(n, _, _, u) = com.microsoft.SkipSimplifiedLayerNormalization{epsilon=1e-5}(x, z, g)"
    lines = [
        norm if normed else "n = Identity(x)",
        f"p = com.microsoft.MatMulNBits{{{options}}}(n, a, s, _, _, b)",
        f"q = com.microsoft.MatMulNBits{{{options}}}(n, c, t, _, _, d)",
        "r = com.microsoft.QuickGelu{alpha=1.0}(p)",
        "y = Mul(r, q)",
    ]
    outputs = ["y", "u"] if normed else ["y"]
    model = graph(*lines, inputs=dict.fromkeys(feeds, f"float[{ROWS}, {K}]"), outputs=outputs, **constants)
    wanted = of_onnxruntime(model, feeds, {})
    np.testing.assert_allclose(found["y"], wanted[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["u"], wanted[1] if normed else feeds["x"], rtol=1e-6)


@pytest.mark.parametrize("rounded", [False, True])
def test_float8_weights(rounded: bool) -> None:
    x, bias = RNG.standard_normal((2, ROWS, 40)) * 30, RNG.standard_normal(N)
    weight = floats(N, 40).astype(ml_dtypes.float8_e4m3fn)
    scales = RNG.random((N, 3))
    unit = np.float32(0.25)
    line = f"y = com.microsoft.MatMulBlockQuantizedFp8Weight{{block_size=16}}(x, w, s, {'u' if rounded else '_'}, b)"
    found = run(line, feeds={"x": x}, w=weight, s=scales, u=unit, b=bias)["y"]
    used = x
    if rounded:
        used = np.clip(x / unit, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * unit
    wanted = used @ (weight.astype(np.float64) * np.repeat(scales, 16, 1)[:, :40]).T + bias
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


def test_float4_weights() -> None:
    x, bias = RNG.standard_normal((ROWS, 48)), RNG.standard_normal(N)
    weight = RNG.choice([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.5, -1, -1.5, -2, -3, -4, -6], (N, 48))
    codes = weight.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    scales = RNG.random((N, 3)).astype(ml_dtypes.float8_e4m3fn)
    constants = {"w": codes[:, 0::2] | codes[:, 1::2] << 4, "s": scales.view(np.uint8), "t": np.float32(0.5), "b": bias}
    line = "y = com.microsoft.MatMulBlockQuantizedFp4Weight(x, w, s, t, _, b)"
    found = run(line, feeds={"x": x}, **constants)["y"]
    wanted = x @ (weight * np.repeat(scales.astype(np.float64), 16, 1) * 0.5).T + bias
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", ["NONE", "RELU", "GELU"])
def test_gemm_of_float8(activation: str) -> None:
    a, b = (floats(*shape).astype(ml_dtypes.float8_e4m3fn) for shape in ((ROWS, K), (N, K)))
    c = floats(N)
    constants = {"b": b, "c": c, "s": np.float32(0.5), "t": np.float32(0.25)}
    options = f"alpha=2.0, beta=0.5, transB=1, activation='{activation}', dtype=10"
    found = run(f"y = com.microsoft.GemmFloat8{{{options}}}(a, b, c, s, t)", feeds={"a": a}, **constants)["y"]
    wanted = torch.from_numpy(0.25 * (a.astype(np.float64) @ b.astype(np.float64).T) + 0.5 * c)
    functions = {"NONE": torch.clone, "RELU": torch.relu, "GELU": torch.nn.functional.gelu}
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, functions[activation](wanted), rtol=1e-3, atol=1e-3)
    with pytest.raises(ModelError, match="scaleY"):
        run("y = com.microsoft.GemmFloat8{transB=1}(a, b, c, s, t, s)", feeds={"a": a}, **constants)


@pytest.mark.parametrize("far", [(), (0,), (0, 5)])
def test_longformer(far: tuple[int, ...]) -> None:
    """Against the model that defines it, which has padding on the right and pads to a multiple of its window."""
    longformer = pytest.importorskip("transformers.models.longformer.modeling_longformer")
    heads, hidden, length, window = 2, 16, 12, 2
    config = longformer.LongformerConfig(
        hidden_size=hidden, num_attention_heads=heads, attention_window=[2 * window], attention_probs_dropout_prob=0.0
    )
    torch.manual_seed(0)
    layer = longformer.LongformerSelfAttention(config, 0).double().eval()
    x = torch.randn(2, length, hidden, dtype=torch.float64)
    real = torch.ones(2, length, dtype=torch.bool)
    real[1, 9:] = False
    flags = torch.zeros(2, length, dtype=torch.bool)
    flags[:, list(far)] = True
    mask = torch.where(real, torch.where(flags, 10000.0, 0.0), -10000.0).double()
    with torch.no_grad():
        wanted = layer(
            x,
            attention_mask=mask,
            is_index_masked=mask < 0,
            is_index_global_attn=mask > 0,
            is_global_attn=bool(far),
        )[0]

    def together(*parts: torch.nn.Linear) -> tuple[Array, Array]:
        weights = torch.cat([part.weight.T for part in parts], 1), torch.cat([part.bias for part in parts])
        return tuple(weight.detach().numpy() for weight in weights)

    near = together(layer.query, layer.key, layer.value)
    whole = together(layer.query_global, layer.key_global, layer.value_global)
    found = run(
        f"y = com.microsoft.LongformerAttention{{num_heads={heads}, window={window}}}(x, w, b, m, u, c, g)",
        feeds={
            "x": x.numpy(),
            "m": torch.where(real, 0.0, -10000.0).double().numpy(),
            "g": flags.int().numpy(),
        },
        **dict(zip("wbuc", (*near, *whole), strict=True)),
    )["y"]
    # its softmax is taken in float32
    np.testing.assert_allclose(found[real], wanted[real], rtol=1e-4, atol=1e-6)


HEADS, WIDE, LONG, PAST = 2, 32, 9, 4
MASK = np.array([[1, 1, 0], [0, 1, 1]], np.int32)


@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize("names", ["", ", _, m", ", _, _, a", ", _, m, a"])
def test_scores_of_masked_attention(causal: int, names: str) -> None:
    feeds = {name: floats(2, 3, HEADS * WIDE) for name in "qkv"}
    feeds |= {name: x for name, x in (("m", MASK), ("a", floats(2, HEADS, 3, 3))) if f" {name}" in names}
    options = f"num_heads={HEADS}, unidirectional={causal}"
    agree(f"(y, nk, nv, s) = com.microsoft.MultiHeadAttention{{{options}}}(q, k, v{names})", feeds, {})


@pytest.mark.parametrize("names", ["_, _, pk, pv, n", "m, a, pk, pv, n, _, _, b"])
@pytest.mark.parametrize("scores", [0, 1])
def test_one_token_over_a_buffer(names: str, scores: int) -> None:
    feeds = {name: floats(2, 1, HEADS * WIDE) for name in "qkv"}
    feeds |= {name: floats(2, HEADS, LONG, WIDE) for name in ("pk", "pv")}
    if " a," in names:
        feeds |= {"m": np.array([[1, 1, 0, 1, 1], [0, 1, 1, 1, 1]], np.int32), "a": floats(2, HEADS, 1, PAST + 1)}
    options = f"num_heads={HEADS}, past_present_share_buffer=1, output_qk={scores}"
    outputs = "(y, nk, nv, s)" if scores else "(y, nk, nv)"
    line = f"{outputs} = com.microsoft.DecoderMaskedMultiHeadAttention{{{options}}}(q, k, v, {names})"
    constants = {"n": np.array([PAST], np.int32), **({"b": floats(3 * HEADS * WIDE)} if " b" in names else {})}
    agree(line, feeds, {"nk": "pk", "nv": "pv"}, **constants)


@pytest.mark.parametrize("tokens", [40, 1])
@pytest.mark.parametrize("options", ["", ", do_rotary=1", ", do_rotary=1, rotary_interleaved=1, scale=0.2"])
def test_sparse_attention(tokens: int, options: str) -> None:
    past = 48
    feeds = {name: floats(1, tokens, HEADS * WIDE) for name in "qkv"}
    feeds |= {name: floats(1, HEADS, past, WIDE) for name in ("pk", "pv")} | {"n": np.array([40], np.int32)}
    angles = np.outer(np.arange(past), 10000.0 ** (-np.arange(0, WIDE, 2) / WIDE))
    constants: dict[str, object] = {
        "rows": np.array([[0, 1, 3, 5], [0, 1, 2, 4]], np.int32),
        "columns": np.array([[0, 0, 1, 1, 2], [0, 1, 0, 2, -1]], np.int32),
        "total": np.array([40], np.int32),
    }
    if options:
        constants |= {"c": np.cos(angles).astype(np.float32), "s": np.sin(angles).astype(np.float32)}
    line = (
        f"(y, nk, nv) = com.microsoft.SparseAttention{{num_heads={HEADS}, kv_num_heads={HEADS}, sparse_block_size=16"
        f"{options}}}(q, k, v, pk, pv, rows, columns, total, n{', c, s' if options else ''})"
    )
    agree(line, feeds, {"nk": "pk", "nv": "pv"}, **constants)


def test_gather_nd(check: Callable[..., dict[str, Array]]) -> None:
    for kind, index in (("int64", [[0, 1], [2, 3]]), ("int32", [[-1], [2]])):
        feeds = {"x": floats(3, 4, 5), "i": np.array(index, kind)}
        shape = f"{kind}[{', '.join(map(str, feeds['i'].shape))}]"
        check("y = com.microsoft.GatherND(x, i)", x="float[3, 4, 5]", i=shape, feeds=feeds)
