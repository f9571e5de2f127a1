"""Low-bit weights, experts and 8-bit ops against ONNX Runtime's CPU kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tersor.ir.errors import ModelError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.text import graph

Check = Callable[..., dict[str, np.ndarray]]
RNG = np.random.default_rng(0)
ROWS, K, N = 5, 80, 16


def packed(bits: int, block: int, rows: int = N, columns: int = K) -> dict[str, np.ndarray]:
    blocks = -(-columns // block)
    return {
        "w": RNG.integers(0, 256, (rows, blocks, block * bits // 8), np.uint8),
        "s": (RNG.random((rows, blocks), np.float32) + 0.5) * 0.1,
        "z": RNG.integers(0, 256, (rows, -(-blocks * bits // 8)), np.uint8),
        "f": RNG.random((rows, blocks), np.float32) * 3,
        "b": RNG.random(rows, np.float32),
    }


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("inputs", ["x, w, s", "x, w, s, z", "x, w, s, f", "x, w, s, z, _, b"])
@pytest.mark.parametrize("block", [16, 32])
def test_matmul_nbits(check: Check, bits: int, inputs: str, block: int) -> None:
    if "f" in inputs and bits == 8:
        pytest.skip("ONNX Runtime refuses float zero points for 8 bits")
    constants = {name: value for name, value in packed(bits, block).items() if name in inputs.split(", ")}
    line = f"y = com.microsoft.MatMulNBits{{K={K}, N={N}, bits={bits}, block_size={block}}}({inputs})"
    check(line, x=f"float[2, {ROWS}, {K}]", constants=constants, tolerance=1e-5)


def test_groups_of_inputs(check: Check) -> None:
    constants = {name: value for name, value in packed(4, 16).items() if name in "ws"}
    constants["g"] = RNG.permutation(np.arange(K, dtype=np.int32) // 16)
    line = f"y = com.microsoft.MatMulNBits{{K={K}, N={N}, bits=4, block_size=16}}(x, w, s, _, g)"
    check(line, x=f"float[{ROWS}, {K}]", constants=constants)


def test_groups_of_inputs_have_zero_points() -> None:
    # ONNX Runtime forgets the zero points here
    made = packed(4, 16)
    group = RNG.permutation(np.arange(K, dtype=np.int32) // 16)
    line = f"y = com.microsoft.MatMulNBits{{K={K}, N={N}, bits=4, block_size=16}}(x, w, s, z, g)"
    model = graph(line, **{name: made[name] for name in "wsz"}, g=group)
    (found,) = Interpreter(to_fx(model)).run({"x": np.eye(K, dtype=np.float32)}).values()
    codes, zeros = (np.stack([part & 15, part >> 4], -1).reshape(N, -1) for part in (made["w"], made["z"]))
    wanted = (codes.astype(np.float32) - zeros[:, group]) * made["s"][:, group]
    np.testing.assert_allclose(found, wanted.T, rtol=1e-6)


def test_a_layout_for_one_gpu_is_refused() -> None:
    constants = {name: value for name, value in packed(4, 16).items() if name in "ws"}
    line = f"y = com.microsoft.MatMulNBits{{K={K}, N={N}, bits=4, block_size=16, weight_prepacked=1}}(x, w, s)"
    with pytest.raises(ModelError, match="weight_prepacked"):
        Interpreter(to_fx(graph(line, **constants))).run({"x": np.zeros((1, K), np.float32)})


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", ["", ", z"])
def test_gather_block_quantized_bytes(check: Check, bits: int, zeros: str) -> None:
    made = packed(bits, 32, 20, 64)
    constants = {"w": made["w"].reshape(20, -1), "s": made["s"], **({"z": made["z"]} if zeros else {})}
    options = f"bits={bits}, block_size=32, gather_axis=0, quantize_axis=1"
    line = f"y = com.microsoft.GatherBlockQuantized{{{options}}}(w, i, s{zeros})"
    check(line, i="int64[2, 3]", feeds={"i": np.array([[0, 19, 3], [7, -1, 2]])}, constants=constants)


def test_gather_block_quantized_takes_computed_bytes_of_no_known_type() -> None:
    made, ids = packed(4, 32, 20, 64), np.array([3, 0], np.int64)
    options = "bits=4, block_size=32, gather_axis=0, quantize_axis=1"
    lines = ("d = BitwiseOr(w, n)", f"y = com.microsoft.GatherBlockQuantized{{{options}}}(d, i, s)")
    constants = {"w": made["w"].reshape(20, -1), "s": made["s"], "n": np.zeros(1, np.uint8)}
    model = graph(*lines, inputs={"i": "int64[2]"}, **constants)
    (node,) = (node for node in model.graph if node.op_type == "BitwiseOr")
    node.outputs[0].type = None
    (found,) = Interpreter(to_fx(model)).run({"i": ids}).values()
    codes = np.stack([made["w"] & 15, made["w"] >> 4], -1).reshape(20, -1).astype(np.float32)
    wanted = (codes - 8) * made["s"].repeat(32, 1)
    np.testing.assert_allclose(found, wanted[ids], rtol=1e-6)


@pytest.mark.parametrize("axes", [(0, 1), (1, 0), (1, 2), (2, 1)])
@pytest.mark.parametrize("kind", ["int4", "uint4"])
@pytest.mark.parametrize("zeros", ["", ", z"])
def test_gather_block_quantized_of_four_bit_types(check: Check, axes: tuple[int, int], kind: str, zeros: str) -> None:
    import ml_dtypes

    gather, quantize = axes
    shape = [3, 5, 6]
    shape[quantize] = 40
    blocks = [-(-size // 16) if axis == quantize else size for axis, size in enumerate(shape)]
    low, high, dtype = (-8, 8, ml_dtypes.int4) if kind == "int4" else (0, 16, ml_dtypes.uint4)
    constants = {
        "w": RNG.integers(low, high, shape).astype(dtype),
        "s": RNG.random(blocks, np.float32),
        **({"z": RNG.integers(low, high, blocks).astype(dtype)} if zeros else {}),
    }
    options = f"block_size=16, gather_axis={gather}, quantize_axis={quantize}"
    line = f"y = com.microsoft.GatherBlockQuantized{{{options}}}(w, i, s{zeros})"
    check(line, i="int64[2]", feeds={"i": np.array([1, 2])}, constants=constants)


@pytest.mark.parametrize("kind", [0, 1])
def test_matmul_bnb4(check: Check, kind: int) -> None:
    constants = {
        "w": RNG.integers(0, 256, N * K // 2, np.uint8),
        "a": RNG.random(N * K // 32, np.float32),
    }
    line = f"y = com.microsoft.MatMulBnb4{{K={K}, N={N}, block_size=32, quant_type={kind}}}(x, w, a)"
    check(line, x=f"float[{ROWS}, {K}]", constants=constants)


EXPERTS, HIDDEN, INNER = 4, 32, 64
ROUTER = RNG.standard_normal((6, EXPERTS)).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "fused"),
    [
        ("activation_type='relu'", 1),
        ("activation_type='silu', normalize_routing_weights=1", 1),
        ("activation_type='gelu'", 1),
        ("activation_type='swiglu', swiglu_fusion=1, activation_alpha=1.7, activation_beta=1.0, swiglu_limit=7.0", 2),
    ],
)
def test_moe(check: Check, options: str, fused: int) -> None:
    constants = {
        "one": RNG.standard_normal((EXPERTS, fused * INNER, HIDDEN)).astype(np.float32) * 0.1,
        "b": RNG.standard_normal((EXPERTS, fused * INNER)).astype(np.float32),
        "two": RNG.standard_normal((EXPERTS, HIDDEN, INNER)).astype(np.float32) * 0.1,
        "c": RNG.standard_normal((EXPERTS, HIDDEN)).astype(np.float32),
    }
    line = f"y = com.microsoft.MoE{{k=2, {options}}}(x, r, one, b, two, c)"
    fed = {"x": RNG.standard_normal((2, 3, HIDDEN)).astype(np.float32), "r": ROUTER}
    check(line, x=f"float[2, 3, {HIDDEN}]", r=f"float[6, {EXPERTS}]", feeds=fed, constants=constants)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("block", [0, 32])
def test_qmoe(check: Check, bits: int, block: int) -> None:
    def weights(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        blocks = (columns // block,) if block else ()
        scale = RNG.random((EXPERTS, rows, *blocks), np.float32) * 0.02
        return RNG.integers(0, 256, (EXPERTS, rows, columns * bits // 8), np.uint8), scale

    (one, s), (two, t) = weights(2 * INNER, HIDDEN), weights(HIDDEN, INNER)
    options = f"k=2, expert_weight_bits={bits}, activation_type='swiglu', swiglu_fusion=1, weights_prepacked=0"
    options += ", normalize_routing_weights=1" + (f", block_size={block}" if block else "")
    line = f"y = com.microsoft.QMoE{{{options}}}(x, r, one, s, _, two, t, _)"
    fed = {"x": RNG.standard_normal((6, HIDDEN)).astype(np.float32), "r": ROUTER}
    constants = {"one": one, "s": s, "two": two, "t": t}
    # ONNX Runtime rounds the activations of 8-bit blocks to 8 bits
    tolerance = 2e-2 if bits == 8 and block else 1e-4
    types = {"x": f"float[6, {HIDDEN}]", "r": f"float[6, {EXPERTS}]"}
    check(line, feeds=fed, constants=constants, tolerance=tolerance, **types)


def scales(zero: int, dtype: type = np.uint8, scale: float = 0.05) -> dict[str, object]:
    return {
        "s": np.float32(scale),
        "z": dtype(zero),
        "u": np.float32(0.03),
        "v": dtype(zero + 2),
        "t": np.float32(0.07),
    }


UNARY = [
    "QLinearSigmoid(x, s, z, u, v)",
    "QLinearLeakyRelu{alpha=0.2}(x, s, z, t, v)",
    "QLinearSoftmax{axis=1, opset=13}(x, s, z, o, v)",
    "QLinearSoftmax{axis=1, opset=12}(x, s, z, o, v)",
    "QLinearGlobalAveragePool(x, s, z, t, v)",
    "QLinearGlobalAveragePool{channels_last=1}(x, s, z, t, v)",
    "QLinearAveragePool{kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1]}(x, s, z, t, v)",
    "QLinearAveragePool{kernel_shape=[3, 2], pads=[1, 0, 1, 1], count_include_pad=1}(x, s, z, t, v)",
    "QLinearAveragePool{kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1}(x, s, z, t, v)",
    "QLinearAdd(x, s, z, w, u, v, t, z)",
    "QLinearMul(x, s, z, w, u, v, t, z)",
    "QLinearWhere(c, x, s, z, w, u, v, t, z)",
    "QLinearConcat{axis=1}(t, z, x, s, z, w, u, v)",
]


@pytest.mark.parametrize("line", UNARY)
@pytest.mark.parametrize("kind", [np.uint8, np.int8])
def test_qlinear(check: Check, line: str, kind: type) -> None:
    name = np.dtype(kind).name
    info = np.iinfo(kind)
    fed: dict[str, np.ndarray] = {"x": RNG.integers(info.min, info.max, (2, 3, 5, 7)).astype(kind)}
    types = {"x": f"{name}[2, 3, 5, 7]"}
    inside = line[line.index("(") + 1 : -1].split(", ")
    if "w" in inside:
        fed["w"] = RNG.integers(info.min, info.max, (2, 3, 5, 7)).astype(kind)
        types["w"] = f"{name}[2, 3, 5, 7]"
    if "c" in inside:
        fed["c"] = RNG.random((5, 7)) > 0.5
        types["c"] = "bool[5, 7]"
    constants = {k: v for k, v in {**scales(3, kind), "o": np.float32(1 / 256)}.items() if k in inside}
    # one step off where the last bit of a float decides a half
    check(f"y = com.microsoft.{line}", feeds=fed, constants=constants, tolerance=1e-2, **types)


def test_qlinear_reduce_mean() -> None:
    # ONNX Runtime has a schema for it but no kernel
    x = RNG.integers(0, 255, (2, 3, 5), np.uint8)
    model = graph("y = com.microsoft.QLinearReduceMean{axes=[1], keepdims=0}(x, s, z, u, v)", **scales(3))
    (found,) = Interpreter(to_fx(model)).run({"x": x}).values()
    wanted = np.round((x.astype(np.float32) - 3).mean(1) * 0.05 / 0.03) + 5
    np.testing.assert_array_equal(found, np.clip(wanted, 0, 255))


@pytest.mark.parametrize("channels_last", [0, 1])
def test_qlinear_conv(check: Check, channels_last: int) -> None:
    shape = [2, 6, 7, 3] if channels_last else [2, 3, 6, 7]
    constants = {
        **{name: scales(3)[name] for name in ("s", "z", "t", "v")},
        "w": RNG.integers(-60, 60, (4, 3, 3, 3), np.int8),
        "ws": RNG.random(4, np.float32) * 0.01,
        "wz": np.zeros(4, np.int8),
        "b": RNG.integers(-500, 500, 4, np.int32),
    }
    options = f"channels_last={channels_last}, pads=[1, 1, 1, 1]"
    line = f"y = com.microsoft.QLinearConv{{{options}}}(x, s, z, w, ws, wz, t, v, b)"
    check(line, x=f"uint8{shape}", constants=constants, tolerance=2e-3)


@pytest.mark.parametrize("outputs", [", t, v", ""])
def test_qgemm(check: Check, outputs: str) -> None:
    used = ("s", "z", "u", "v", "t") if outputs else ("s", "z", "u")
    constants = {
        **{name: scales(3)[name] for name in used},
        "w": RNG.integers(-60, 60, (N, K), np.int8),
        "ws": RNG.random(N, np.float32) * 0.01,
        "wz": np.zeros(N, np.int8),
        "c": RNG.integers(-500, 500, N, np.int32),
    }
    del constants["u"]
    line = f"y = com.microsoft.QGemm{{transB=1}}(x, s, z, w, ws, wz, c{outputs})"
    check(line, x=f"uint8[{ROWS}, {K}]", constants=constants, tolerance=2e-3)


@pytest.mark.parametrize("zero", [np.uint8(128), np.int8(3), np.uint16(700), np.int16(-5)])
def test_quantize_and_back(check: Check, zero: np.generic) -> None:
    lines = ("q = com.microsoft.QuantizeLinear(x, s, z)", "y = com.microsoft.DequantizeLinear(q, s, z)")
    check(*lines, x="float[4, 9]", constants={"s": np.float32(0.02), "z": zero}, tolerance=0)


def test_quantize_along_an_axis(check: Check) -> None:
    constants = {"s": RNG.random(4, np.float32) + 0.1, "z": np.arange(4, dtype=np.int8)}
    options = "{axis=0}(x, s, z)", "{axis=0}(q, s, z)"
    lines = (f"q = com.microsoft.QuantizeLinear{options[0]}", f"y = com.microsoft.DequantizeLinear{options[1]}")
    check(*lines, x="float[4, 9]", constants=constants, tolerance=0)


def test_integer_products(check: Check) -> None:
    types = {"a": "int16[3, 5]", "b": "int16[5, 4]"}
    check("y = com.microsoft.MatMulInteger16(a, b)", **types)
    model = graph("y = com.microsoft.MulInteger(a, p, b, q)", p=np.uint8(3), q=np.uint8(7))
    a, b = (RNG.integers(0, 255, (2, 5), np.uint8) for _ in range(2))
    (found,) = Interpreter(to_fx(model)).run({"a": a, "b": b}).values()
    np.testing.assert_array_equal(found, (a.astype(np.int32) - 3) * (b.astype(np.int32) - 7))
