"""Integers of ONNX Runtime: weights of a few bits, products, and ops between quantized values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.tests.passes.raising.contrib.cases import (
    PADDED,
    Arrays,
    agrees,
    bytes_,
    normal,
)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("k", [64, 40])
def test_weights_of_a_few_bits(bits: int, zeros: bool, k: int) -> None:
    n, block = 6, 32
    blocks = -(-k // block)
    packed = bytes_(n, blocks, block * bits // 8)
    constants = {"w": packed, "s": np.abs(normal(n, blocks)) + 0.1}
    if zeros:
        constants["z"] = bytes_(n, -(-blocks * bits // 8))
    line = f"y = MatMulNBits{{K={k}, N={n}, bits={bits}, block_size={block}}}(x, w, s{', z' * zeros})"
    after = agrees(line, {"x": normal(2, 3, k)}, constants, ops="DequantizeLinear MatMul")
    assert after.graph.node(0).inputs[0].dtype == (ir.DataType.UINT4 if bits == 4 else ir.DataType.UINT8)


@pytest.mark.parametrize("zeros", [False, True])
def test_tables_of_a_few_bits(zeros: bool) -> None:
    constants = {"w": bytes_(9, 32), "s": np.abs(normal(9, 2)) + 0.1} | ({"z": bytes_(9, 1)} if zeros else {})
    line = f"y = GatherBlockQuantized{{bits=4, block_size=32, quantize_axis=1}}(w, i, s{', z' * zeros})"
    agrees(line, {"i": np.array([[0, 8, 3]], np.int64)}, constants, ops="DequantizeLinear Gather")


SCALES = {"xs": np.float32(0.02), "xz": np.uint8(120), "ws": np.float32(0.01), "wz": np.uint8(130),
          "ys": np.float32(0.05), "yz": np.uint8(100)}  # fmt: skip
COLUMNS = {"ws": np.abs(normal(6)) * 0.01 + 0.001, "wz": np.zeros(6, np.int8)}
UNIT = {"ws": np.float32(1 / 256), "wz": np.uint8(0)}
U8, V8 = {"x": bytes_(2, 3, 4, 4)}, {"v": bytes_(2, 3, 4, 4, seed=1)}
INTEGERS = [
    ("y = DynamicQuantizeMatMul(x, w, ws, wz, b)", {"x": normal(3, 8)},
     {"w": bytes_(8, 6, kind="int8") // 4, "b": normal(6)} | COLUMNS),
    ("y = DynamicQuantizeMatMul(x, w, ws, wz)", {"x": normal(3, 8)}, {"w": bytes_(8, 6)} | SCALES),
    ("y = MatMulIntegerToFloat(x, w, xs, ws, xz, wz)", {"x": bytes_(3, 8)}, {"w": bytes_(8, 6)} | SCALES),
    ("y = MatMulIntegerToFloat(x, w, xs, ws, xz, _, b)", {"x": bytes_(3, 8)},
     {"w": bytes_(8, 6, kind="int8") // 4, "b": normal(6)} | SCALES),
    ("y = QLinearAdd(x, xs, xz, v, ws, wz, ys, yz)", U8 | V8, SCALES),
    ("y = QLinearMul(x, xs, xz, v, ws, wz, ys, yz)", U8 | V8, SCALES),
    ("y = QLinearSigmoid(x, xs, xz, ws, wz)", U8, SCALES | UNIT),
    ("y = QLinearLeakyRelu{alpha=0.3}(x, xs, xz, ys, yz)", U8, SCALES),
    ("y = QLinearSoftmax{axis=-1, opset=13}(x, xs, xz, ws, wz)", U8, SCALES | UNIT),
    ("y = QLinearAveragePool{kernel_shape=[2, 2]}(x, xs, xz, ys, yz)", U8, SCALES),
    ("y = QLinearGlobalAveragePool(x, xs, xz, ys, yz)", U8, SCALES),
    ("y = QLinearConcat{axis=1}(ys, yz, x, xs, xz, v, ws, wz)", U8 | V8, SCALES),
    ("y = QLinearWhere(c, x, xs, xz, v, ws, wz, ys, yz)", U8 | V8 | {"c": bytes_(2, 3, 4, 4) > 99}, SCALES),
    ("y = QGemm(x, xs, xz, w, ws, wz, b, ys, yz)", {"x": bytes_(3, 8)},
     {"w": bytes_(8, 6), "b": bytes_(6, kind="int32") // 2**20} | SCALES),
    ("y = QGemm{transB=1, alpha=0.5}(x, xs, xz, w, ws, wz, b)", {"x": bytes_(3, 8)},
     {"w": bytes_(6, 8), "b": bytes_(6, kind="int32") // 2**20} | SCALES),
    ("y = QAttention{num_heads=2}(x, w, b, xs, ws, m, xz, wz)", {"x": bytes_(2, 3, 8), "m": PADDED},
     {"w": bytes_(8, 24), "b": normal(24)} | SCALES),
    ("y = QAttention{num_heads=2, unidirectional=1}(x, w, b, xs, ws, _, xz, wz)", {"x": bytes_(2, 3, 8)},
     {"w": bytes_(8, 24, kind="int8") // 4, "b": normal(24)} | SCALES | {"wz": np.int8(3)}),
]  # fmt: skip


@pytest.mark.parametrize(("line", "feeds", "constants"), INTEGERS, ids=[case[0] for case in INTEGERS])
def test_integers(line: str, feeds: Arrays, constants: Arrays) -> None:
    read = line.partition("(")[2].strip(")").split(", ")
    agrees(line, feeds, {name: np.asarray(array) for name, array in constants.items() if name in read})


def test_scales_of_one_number_are_scalars() -> None:
    """DequantizeLinear reads a vector as one scale for each index of an axis."""
    wide = {name: np.asarray(SCALES[name]).reshape(1) for name in ("xs", "ws", "xz", "wz")}
    agrees("y = MatMulIntegerToFloat(x, w, xs, ws, xz, wz)", {"x": bytes_(3, 8)}, {"w": bytes_(8, 6)} | wide)
