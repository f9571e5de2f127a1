"""Contrib normalizations, embeddings, fused products and odd tensors ops, against ONNX Runtime where it has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph
from torch.nn import functional

Check = Callable[..., dict[str, np.ndarray]]
RNG = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def run(line: str, feeds: dict[str, np.ndarray], **constants: object) -> np.ndarray:
    return next(iter(Interpreter(to_fx(graph(line, **constants))).run(feeds).values()))


CHECKED: dict[str, dict[str, str]] = {
    "FusedMatMul{transB=1, alpha=0.5}(a, b)": {"a": "float[2, 3, 4]", "b": "float[2, 5, 4]"},
    "FusedMatMul{transBatchA=1, transBatchB=1}(a, b)": {"a": "float[3, 2, 4]", "b": "float[4, 2, 5]"},
    "FusedMatMul{transBatchA=1, transA=1}(a, b)": {"a": "float[4, 2, 3]", "b": "float[2, 4, 5]"},
    "TransposeMatMul{transA=1}(a, b)": {"a": "float[4, 3]", "b": "float[4, 5]"},
    "FusedGemm{activation='Relu', transB=1, alpha=0.5}(a, b, c)": {
        "a": "float[3, 4]",
        "b": "float[5, 4]",
        "c": "float[5]",
    },
    "FusedGemm{activation='LeakyRelu', activation_alpha=0.2}(a, b)": {"a": "float[3, 4]", "b": "float[4, 5]"},
    "FusedConv{activation='Relu', pads=[1, 1, 1, 1]}(a, b, c)": {
        "a": "float[1, 2, 5, 5]",
        "b": "float[3, 2, 3, 3]",
        "c": "float[3]",
    },
    "FusedConv{activation='HardSigmoid', activation_params=[0.3, 0.4]}(a, b)": {
        "a": "float[1, 2, 5, 5]",
        "b": "float[3, 2, 3, 3]",
    },
    "FusedConv{activation='Relu'}(a, b, c, z)": {
        "a": "float[1, 2, 5, 5]",
        "b": "float[3, 2, 3, 3]",
        "c": "float[3]",
        "z": "float[1, 3, 3, 3]",
    },
    "ScaledSiLU{alpha=1.5}(a)": {"a": "float[3, 4]"},
    "Trilu{upper=0}(a)": {"a": "float[2, 4, 4]"},
    "Inverse(a)": {"a": "float[2, 4, 4]"},
    "CDist{metric='euclidean'}(a, b)": {"a": "float[3, 4]", "b": "float[5, 4]"},
    "CDist{metric='sqeuclidean'}(a, b)": {"a": "float[3, 4]", "b": "float[5, 4]"},
    "UnfoldTensor{dim=1, size=3, step=2}(a)": {"a": "float[2, 7]"},
    "GridSample{mode='bilinear', padding_mode='border'}(a, g)": {"a": "float[1, 2, 5, 5]", "g": "float[1, 3, 4, 2]"},
    "GridSample{mode='bicubic', align_corners=1}(a, g)": {"a": "float[1, 2, 5, 5]", "g": "float[1, 3, 4, 2]"},
    "NhwcMaxPool{kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1]}(u)": {"u": "uint8[1, 6, 7, 3]"},
    "NhwcMaxPool{kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1}(u)": {"u": "int8[1, 5, 5, 3]"},
    "GatedRMSNorm{activation='silu'}(a, c, b)": {"a": "float[2, 3, 8]", "b": "float[2, 3, 8]", "c": "float[4]"},
}


@pytest.mark.parametrize("line", CHECKED)
def test_against_onnxruntime(check: Check, line: str) -> None:
    check(f"y = com.microsoft.{line}", tolerance=2e-5, **CHECKED[line])


def test_unique_keeps_the_order_of_appearance(check: Check) -> None:
    check("(y, i, c) = com.microsoft.Unique(x)", x="float[6]", feeds={"x": np.array([2, 1, 1, 3, 4, 3], np.float32)})


def test_range_and_expand_dims(check: Check) -> None:
    check("y = com.microsoft.Range(a, b, c)", constants={"a": 1.0, "b": 9.0, "c": 2.5})
    check("y = com.microsoft.ExpandDims(x, a)", x="float[2, 3]", constants={"a": np.array(-1, np.int32)})


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_pad(check: Check, mode: str) -> None:
    line = f"y = com.microsoft.Pad{{mode='{mode}'}}(x, p, v)"
    check(line, x="float[3, 4]", constants={"p": np.array([0, 2, 1, 0]), "v": np.float32(1.5)})


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_crop_and_resize(check: Check, mode: str) -> None:
    constants = {
        "boxes": np.array([[0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], [0.5, -0.2, 1.3, 0.6]], np.float32),
        "images": np.array([0, 1, 1], np.int32),
        "size": np.array([3, 4], np.int32),
    }
    line = f"y = com.microsoft.CropAndResize{{mode='{mode}', extrapolation_value=2.0}}(x, boxes, images, size)"
    check(line, x="float[2, 3, 6, 7]", constants=constants)


def test_repeated_n_grams_are_banned(check: Check) -> None:
    fed = {"i": np.array([[1, 2, 3, 1, 2], [5, 5, 5, 5, 5]]), "s": floats(2, 8)}
    check("y = com.microsoft.NGramRepeatBlock{ngram_size=3}(i, s)", i="int64[2, 5]", s="float[2, 8]", feeds=fed)


def test_quantized_embeddings(check: Check) -> None:
    h, rows = 8, {"w": 12, "p": 6, "g": 2}
    constants: dict[str, object] = {name: RNG.integers(0, 255, (n, h), np.uint8) for name, n in rows.items()}
    constants |= {name: RNG.integers(0, 255, h, np.uint8) for name in ("gamma", "beta")}
    names = ("w", "p", "g", "gamma", "beta")
    constants |= {f"{name}s": np.float32(0.01 + 0.01 * i) for i, name in enumerate(names)}
    constants |= {f"{name}z": np.uint8(100 + i) for i, name in enumerate(names)}
    scales, zeros = (", ".join(f"{name}{end}" for name in names) for end in "sz")
    line = f"(y, n) = com.microsoft.QEmbedLayerNormalization(i, s, w, p, g, gamma, beta, m, {scales}, {zeros})"
    fed = {name: RNG.integers(0, 2, (2, 4)).astype(np.int32) for name in ("i", "s")} | {
        "m": np.array([[1, 1, 1, 0], [1, 0, 0, 0]], np.int32)
    }
    check(line, feeds=fed, constants=constants, **dict.fromkeys(fed, "int32[2, 4]"))


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("interleaved", [0, 1])
def test_multimodal_rotary(check: Check, layout: int, interleaved: int) -> None:
    angles = RNG.random((16, 8), np.float32) * 3
    fed = {"x": floats(2, 4, 32), "p": RNG.integers(0, 16, (3, 2, 4))}
    options = f"mrope_section=[4, 2, 2], mrope_layout={layout}, interleaved={interleaved}, num_heads=2"
    line = f"y = com.microsoft.MRotaryEmbedding{{{options}, rotary_embedding_dim=16}}(x, p, c, s)"
    constants = {"c": np.cos(angles), "s": np.sin(angles)}
    check(line, x="float[2, 4, 32]", p="int64[3, 2, 4]", feeds=fed, constants=constants)


@pytest.mark.parametrize("channels_last", [0, 1])
def test_group_norm_with_skip(channels_last: int) -> None:
    x, gamma, beta, bias = floats(2, 8, 3, 5), floats(8), floats(8), floats(8)
    skip = floats(2, 8)
    total = torch.from_numpy(x + skip[:, :, None, None] + bias[:, None, None])
    wanted = functional.silu(functional.group_norm(total, 4, *map(torch.from_numpy, (gamma, beta)), 1e-5))
    options = f"{{groups=4, activation=1, channels_last={channels_last}}}"
    line = f"(y, t) = com.microsoft.SkipGroupNorm{options}(x, g, b, s, c)"
    given = np.moveaxis(x, 1, -1) if channels_last else x
    found = run(line, {"x": np.ascontiguousarray(given), "s": skip}, g=gamma, b=beta, c=bias)
    np.testing.assert_allclose(np.moveaxis(found, -1, 1) if channels_last else found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("inner", "shape"), [(1, (2, 1, 1, 5)), (0, (3, 4, 5)), (1, (2, 5))])
def test_bias_softmax(inner: int, shape: tuple[int, ...]) -> None:
    x, bias = floats(2, 3, 4, 5), floats(*shape)
    line = f"y = com.microsoft.BiasSoftmax{{axis=3, is_inner_broadcast={inner}}}(x, b)"
    wide = bias.reshape(2, 1, 1, 5) if shape == (2, 5) else bias
    wanted = torch.softmax(torch.from_numpy(x + wide), -1)
    np.testing.assert_allclose(run(line, {"x": x}, b=bias), wanted, rtol=1e-5)


def test_fused_activations_of_gpu_kernels() -> None:
    x, bias, w = floats(2, 3, 8), floats(8), floats(8, 4)
    left, right = np.split(x + bias, 2, -1)
    gelu = functional.gelu(torch.from_numpy(right)).numpy()
    np.testing.assert_allclose(run("y = com.microsoft.BiasSplitGelu(x, b)", {"x": x}, b=bias), left * gelu, rtol=1e-5)
    fast = functional.gelu(torch.from_numpy(x @ w), approximate="tanh")
    np.testing.assert_allclose(run("y = com.microsoft.GemmFastGelu(x, w)", {"x": x}, w=w), fast, rtol=1e-4, atol=1e-6)
    line = "y = com.microsoft.BiasDropout(x, b, r)"
    np.testing.assert_allclose(run(line, {"x": x, "r": x}, b=bias), 2 * x + bias, rtol=1e-6)


def test_channels_last_convolution() -> None:
    x, w, b, z = floats(1, 5, 6, 2), floats(3, 2, 3, 3), floats(3), floats(1, 3, 4, 3)
    found = run("y = com.microsoft.NhwcFusedConv{activation='Relu'}(x, w, b, z)", {"x": x, "z": z}, w=w, b=b)
    plain = functional.conv2d(*(torch.from_numpy(part) for part in (np.moveaxis(x, -1, 1).copy(), w, b)))
    wanted = torch.relu(plain + torch.from_numpy(np.moveaxis(z, -1, 1).copy())).movedim(1, -1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_fourier_and_complex_products() -> None:
    x, a, b = floats(3, 8), floats(4, 2), floats(4, 2)
    found = run("y = com.microsoft.Rfft{signal_ndim=1, normalized=0, onesided=1}(x)", {"x": x})
    wanted = np.fft.rfft(x)
    np.testing.assert_allclose(found, np.stack([wanted.real, wanted.imag], -1), rtol=1e-4, atol=1e-5)
    back = run("y = com.microsoft.Irfft{signal_ndim=1, normalized=0, onesided=1}(x)", {"x": found})
    np.testing.assert_allclose(back, x, rtol=1e-4, atol=1e-5)
    p, q = (part[:, 0] + 1j * part[:, 1] for part in (a, b))
    for op, product in (("ComplexMul", p * q), ("ComplexMulConj", p * q.conj())):
        made = run(f"y = com.microsoft.{op}(a, b)", {"a": a, "b": b})
        np.testing.assert_allclose(made, np.stack([product.real, product.imag], -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("option", "wanted"), [("", False), ("{isnan_only=1}", True), ("{isinf_only=1}", False)])
def test_is_all_finite(option: str, wanted: bool) -> None:
    found = run(f"y = com.microsoft.IsAllFinite{option}(a, b)", {"a": floats(3), "b": np.array([np.inf], np.float32)})
    assert found.item() is wanted


@pytest.mark.parametrize("line", ["FusedGemm{activation='Nothing'}(a, a)", "CDist{metric='cosine'}(a, a)"])
def test_unknown_names_are_refused(line: str) -> None:
    with pytest.raises(ModelError, match="there are"):
        run(f"y = com.microsoft.{line}", {"a": floats(2, 2)})


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("per", ["tensor", "column"])
def test_dynamic_quantize_lstm(check: Check, direction: str, per: str) -> None:
    count, hidden, width = (2 if direction == "bidirectional" else 1), 8, 6
    wide = (count, 4 * hidden) if per == "column" else (count,)
    constants = {
        "w": RNG.integers(-60, 60, (count, width, 4 * hidden), np.int8),
        "r": RNG.integers(-60, 60, (count, hidden, 4 * hidden), np.int8),
        "b": floats(count, 8 * hidden) * 0.1,
        "ws": RNG.random(wide, np.float32) * 0.01 + 0.002,
        "rs": RNG.random(wide, np.float32) * 0.01 + 0.002,
        "z": np.zeros(wide, np.int8),
    }
    options = f"hidden_size={hidden}, direction='{direction}'"
    line = f"(y, h, c) = com.microsoft.DynamicQuantizeLSTM{{{options}}}(x, w, r, b, _, _, _, _, ws, z, rs, z)"
    check(line, x=f"float[5, 1, {width}]", constants=constants, tolerance=1e-4)


@pytest.mark.parametrize("kind", ["random", "equal", "zeros and ones"])
@pytest.mark.parametrize("shape", [(5, 7), (1, 9, 4), (1, 1)])
def test_dynamic_time_warping(check: Check, kind: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    made = {"random": rng.random(shape), "equal": np.ones(shape), "zeros and ones": rng.integers(0, 2, shape)}
    fed = {"x": made[kind].astype(np.float32)}
    check("y = com.microsoft.DynamicTimeWarping(x)", x=f"float{list(shape)}", feeds=fed, tolerance=0)


@pytest.mark.parametrize("options", ["strides=[2, 1], group=2, output_padding=[1, 0]", "group=1"])
def test_conv_transpose_with_pads_as_an_input(check: Check, options: str) -> None:
    group = 2 if "group=2" in options else 1
    constants = {"p": np.array([1, 0, 0, 1]), "w": floats(4, 3, 3, 2), "b": floats(3 * group)}
    line = f"y = com.microsoft.ConvTransposeWithDynamicPads{{{options}}}(x, w, p, b)"
    check(line, x="float[1, 4, 5, 5]", constants=constants)
