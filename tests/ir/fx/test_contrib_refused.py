"""Attributes of contrib ops that mean nothing, and forms that no kernel of ONNX Runtime has: a ModelError that says
where, what is expected and what was found."""

from __future__ import annotations

import numpy as np
import pytest
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Array = np.ndarray


def floats(*shape: int) -> Array:
    return np.linspace(-1, 1, int(np.prod(shape))).astype(np.float32).reshape(shape)


CONSTANTS: dict[str, Array] = {
    "w": floats(8, 24),
    "b": floats(24),
    "g": floats(8),
    "c": floats(5, 2),
    "p": np.zeros((3, 2, 3), np.int64),
    "r": floats(6, 4),
    "one": floats(4, 8, 8),
    "bytes": np.zeros((4, 1, 4), np.uint8),
    "s": floats(4, 1),
    "table": np.zeros((4, 8), np.uint8),
    "ids": np.zeros(2, np.int64),
    "flat": np.zeros(16, np.uint8),
    "scales": floats(2),
    "n": np.array([2, 2], np.int32),
    "t": np.array(3, np.int32),
    "one_key": np.zeros((2, 2, 0, 4), np.float32),
    "u": np.float32(0.5),
    "heads": floats(2, 3, 2, 4),
    "rates": floats(2, 3, 2),
    "image": floats(1, 2, 4, 4),
    "kernel": floats(2, 2, 3, 3),
    "last": floats(1, 4, 4, 2),
    "boxes": floats(1, 4),
    "zero": np.zeros(1, np.int32),
    "size": np.array([2, 2], np.int32),
    "none": np.zeros(4, np.int64),
    "rows": np.zeros((1, 2), np.int32),
}
"""Inputs by name; x is [2, 3, 8]."""

_GROUPED = "GroupQueryAttention{num_heads=2, kv_num_heads=2, "
REFUSED = {
    "Attention{num_heads=0}(x, w, b)": "do not split into 0 heads",
    "Attention{num_heads=3}(x, w, b)": "do not split into 3 heads",
    "Attention{num_heads=2, do_rotary=1, rotary_embedding_dim=9}(x, w, b)": "9 features are turned in pairs",
    "Attention{num_heads=2, past_present_share_buffer=1}(x, w, b)": "past_sequence_length",
    "MultiHeadAttention{num_heads=-1}(x, x, x)": "do not split into -1 heads",
    "MultiHeadAttention{num_heads=2}(x, x)": "key and value are left out",
    _GROUPED + "local_window_size=0}(x, x, x, _, _, n, t)": "local_window_size is 0",
    _GROUPED + "local_window_size=-7}(x, x, x, _, _, n, t)": "local_window_size is -7",
    _GROUPED + "kv_cache_bit_width=3}(x, x, x, _, _, n, t)": "kv_cache_bit_width is 3",
    _GROUPED + "do_rotary=1}(x, x, x, _, _, n, t)": "cos_cache",
    "SparseAttention{num_heads=2, kv_num_heads=2, sparse_block_size=0}"
    "(x, x, x, one_key, one_key, rows, rows, t, n)": "sparse_block_size is 0",
    "LongformerAttention{num_heads=2, window=-1}(x, w, b, r, w, b, r)": "window is -1",
    "RotaryEmbedding{rotary_embedding_dim=64}(x, zero, c, c)": "64 features are turned in pairs",
    "MRotaryEmbedding{mrope_section=[4611686018427387904, 0, 0], num_heads=2}(x, p, c, c)": "add up to 2",
    "MRotaryEmbedding{mrope_section=[3, -1, 0], num_heads=2}(x, p, c, c)": "add up to 2",
    "MRotaryEmbedding{mrope_section=[1, 1, 0], mrope_layout=7, num_heads=2}(x, p, c, c)": "mrope_layout is 7",
    "GroupNorm{groups=2, activation=9}(last, scales, scales)": "activation is 9",
    "GatedRMSNorm{activation='bogus'}(x, g, x)": "silu, swish or sigmoid",
    "BiasSoftmax{axis=7, is_inner_broadcast=0}(x, x)": "axis 7 is out of range for rank 3",
    "FusedGemm{activation='Bogus', transB=1}(r, r)": "no activation 'Bogus'",
    "FusedConv{kernel_shape=[2, 2]}(image, kernel)": "kernel_shape",
    "FusedConv{auto_pad='BOGUS'}(image, kernel)": "auto_pad is 'BOGUS'",
    "NhwcConv{kernel_shape=[2, 2]}(last, kernel)": "kernel_shape",
    "ConvTransposeWithDynamicPads{auto_pad='BOGUS'}(image, kernel, none)": "auto_pad is 'BOGUS'",
    "Pad{mode='bogus'}(r, none)": "constant, edge or reflect",
    "CropAndResize{mode='bogus'}(image, boxes, zero, size)": "bilinear or nearest",
    "MoE{k=0}(x, r, one, _, one)": "k is 0; expected 1 to 4",
    "MoE{k=5}(x, r, one, _, one)": "k is 5; expected 1 to 4",
    "MoE{use_sparse_mixer=1}(x, r, one, _, one)": "use_sparse_mixer",
    "QMoE{k=1, quant_type='fp8'}(x, r, bytes, s, _, bytes, s)": "quant_type 'fp8'",
    "QMoE{k=1, expert_weight_bits=3}(x, r, bytes, s, _, bytes, s)": "2, 4 or 8",
    "MatMulNBits{K=8, N=4, bits=4, block_size=64}(x, bytes, s)": "block_size is 64",
    "MatMulNBits{K=8, N=4, bits=4, block_size=0}(x, bytes, s)": "block_size is 0",
    "MatMulBnb4{K=8, N=4, block_size=64, quant_type=1}(x, flat, scales)": "block_size is 64",
    "MatMulBnb4{K=8, N=4, block_size=16, quant_type=2}(x, flat, scales)": "FP4",
    "GatherBlockQuantized{bits=8, block_size=4}(table, ids, s)": "block_size is 4; 8 values have 1 scales",
    "GatherBlockQuantized{bits=8, block_size=8, gather_axis=5}(table, ids, s)": "axis 5 is out of range",
    "GatherBlockQuantized{bits=8, block_size=8, quantize_axis=-7}(table, ids, s)": "axis -7 is out of range",
    "LinearAttention{q_num_heads=0, kv_num_heads=2, update_rule='linear'}(x, x, x)": "no multiple",
    "LinearAttention{q_num_heads=2, kv_num_heads=2, state_window=9, update_rule='linear'}(x, x, x)": "expected 0 to 8",
    "CausalConvWithState{activation='bogus'}(image, kernel)": "none, silu or swish",
    "GatedDeltaNet{gate_activation='bogus'}(heads, heads, heads, _, rates, rates)": "none or qwen",
    "GatedDeltaNet{beta_activation='bogus'}(heads, heads, heads, _, rates, rates)": "none or sigmoid",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_means_nothing_is_refused(line: str) -> None:
    words = line.rpartition("(")[2].rstrip(")").split(", ")
    used = {name: value for name, value in CONSTANTS.items() if name in words}
    with pytest.raises(ModelError) as caught:
        Interpreter(to_fx(graph(f"y = com.microsoft.{line}", **used))).run(
            {"x": floats(2, 3, 8)} if "x" in words else {}
        )
    text = str(caught.value)
    assert "at y" in text
    assert REFUSED[line] in text


STANDARD = {
    "OneHot{axis=7}(ids, none, size)": "axis 7 is out of range for rank 2",
    "LpNormalization{p=3}(r)": "p is 3, expected 1 or 2",
    "GlobalLpPool{p=-7}(image)": "p is -7",
    "LpPool{kernel_shape=[2, 2], p=0}(image)": "p is 0",
    "CenterCropPad{axes=[0, 9]}(r, [4, 2])": "axis 9 is out of range for rank 2",
    "RotaryEmbedding{rotary_embedding_dim=64}(heads, half, half)": "64 features are turned in pairs",
}


@pytest.mark.parametrize("line", STANDARD)
def test_what_means_nothing_is_refused_in_standard_ops(line: str) -> None:
    words = line.rpartition("(")[2].rstrip(")").split(", ")
    constants = {**CONSTANTS, "half": floats(2, 2, 32), "none": np.array(4)}
    used = {name: value for name, value in constants.items() if name in words}
    with pytest.raises(ModelError) as caught:
        Interpreter(to_fx(graph(f"y = {line}", opset=23, **used))).run({})
    assert "at y" in str(caught.value)
    assert STANDARD[line] in str(caught.value)


@pytest.mark.parametrize("transposed", [0, 1])
def test_four_bit_codes_are_those_of_a_weight_by_rows(transposed: int) -> None:
    """ONNX Runtime 1.31 leaves rows out where transB is 0; the text says dequantized B is [N, K] in both."""
    rows, columns = 4, 6
    codes = np.random.default_rng(0).integers(0, 256, rows * columns // 2, np.uint8)
    options = f"K={columns}, N={rows}, block_size=16, quant_type=0, transB={transposed}"
    model = graph(f"y = com.microsoft.MatMulBnb4{{{options}}}(x, w, a)", w=codes, a=np.array([2.0, 3.0], np.float32))
    eye = np.eye(columns if transposed else rows, dtype=np.float32)
    (found,) = Interpreter(to_fx(model)).run({"x": eye}).values()
    values = np.array([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4])
    order = np.stack([codes >> 4, codes & 15], 1).reshape(-1)
    weight = np.where(order > 7, -1, 1) * values[order & 7] * np.repeat([2.0, 3.0], 16)[: rows * columns]
    weight = weight.reshape(rows, columns)
    np.testing.assert_allclose(found, weight.T if transposed else weight, rtol=1e-5)
