"""Batch normalizations folded into the weights beside them, and those that cannot be."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.raising.linear.fold_batch_normalization import FoldBatchNormalization
from tersor.tests.support import apply, holds, inside_if, misses


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def statistics(channels: int) -> dict[str, np.ndarray]:
    shifts = {"s": normal(channels), "c": normal(1, channels)[0], "m": normal(2, channels)[1]}
    return shifts | {"v": np.abs(normal(3, channels)[2]) + np.float32(0.1)}


IMAGE = {"x": "float[batch, 4, 6, 6]"}
FLAT = {"x": "float[batch, 8]"}
BN = "BatchNormalization{epsilon=0.01}"


def model(*text: str, inputs: dict[str, str] = IMAGE, channels: int = 6, **constants: object) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    known = {name: value for name, value in statistics(channels).items() if name in read}
    return graph(*text, inputs=inputs, **(known | constants))


def behind(layer: str, *, more: str = "", **kwargs: object) -> ir.Model:
    return model(f"h = {layer}", f"y = {BN}(h, s, c, m, v)", *([more] if more else []), **kwargs)


def before(layer: str, **kwargs: object) -> ir.Model:
    return model(f"h = {BN}(x, s, c, m, v)", f"y = {layer}", **kwargs)


K, B = normal(6, 4, 3, 3), normal(6)
FOLDED = [
    (behind("Conv{pads=[1, 1, 1, 1]}(x, k, b)", k=K, b=B), ["Conv"]),
    (behind("Conv{strides=[2, 2]}(x, k)", k=K), ["Conv"]),
    (behind("Conv{group=2}(x, k)", k=normal(6, 2, 3, 3)), ["Conv"]),
    (behind("ConvTranspose(x, k, b)", k=normal(4, 6, 3, 3), b=B), ["ConvTranspose"]),
    (behind("ConvTranspose{group=2}(x, k)", k=normal(4, 3, 3, 3)), ["ConvTranspose"]),
    (behind("Gemm{transB=1, alpha=0.5}(x, w, b)", inputs=FLAT, w=normal(6, 8), b=B), ["Gemm"]),
    (behind("Gemm(x, w)", inputs=FLAT, w=normal(8, 6)), ["Gemm"]),
    (behind("MatMul(x, w)", inputs=FLAT, w=normal(8, 6)), ["MatMul", "Add"]),
    (model("h = Conv(x, k)", "a = Mul(h, g)", "y = Add(t, a)", k=K, g=normal(6, 1, 1), t=normal(1, 6, 1, 1)), ["Conv"]),
    (model("h = Conv(x, k, b)", "y = Mul(h, 0.5)", k=K, b=B), ["Conv"]),
    (before("Conv(h, k, b)", channels=4, k=K, b=B), ["Conv"]),
    (before("Conv{auto_pad=VALID, group=2}(h, k)", channels=4, k=normal(6, 2, 3, 3)), ["Conv"]),
    (before("Gemm{transB=1, alpha=0.5}(h, w, b)", channels=8, inputs=FLAT, w=normal(6, 8), b=B), ["Gemm"]),
    (before("MatMul(h, w)", channels=8, inputs=FLAT, w=normal(8, 6)), ["MatMul", "Add"]),
]


@pytest.mark.parametrize(("made", "ops"), FOLDED, ids=map(str, range(len(FOLDED))))
def test_folds(made: ir.Model, ops: list[str]) -> None:
    holds(FoldBatchNormalization(), made, {"batch": 2})
    found = apply(FoldBatchNormalization(), made.clone())
    assert [line.split(" = ")[1].split("(")[0].split("{")[0] for line in found] == ops


def test_weights_keep_their_names() -> None:
    made = behind("Conv(x, k, b)", k=K, b=B)
    assert apply(FoldBatchNormalization(), made) == ["y = Conv(x, k, b)"]
    values = statistics(6)
    scale = values["s"].astype(np.float64) / np.sqrt(values["v"].astype(np.float64) + np.float32(0.01))
    expected = (K.astype(np.float64) * scale[:, None, None, None]).astype(np.float32)
    np.testing.assert_array_equal(made.graph.initializers["k"].const_value.numpy(), expected)


CONV = "Conv(x, k, b)"
REFUSED = [
    ("statistics", model("h = Conv(x, k)", f"(y, mm, vv) = {BN[:-1]}, training_mode=1}}(h, s, c, m, v)", k=K)),
    ("statistics", behind("Conv(x, k)", k=K, v=np.full(6, -1.0, np.float32))),
    ("statistics", behind("Conv(x, k)", k=K, s=np.full(6, np.nan, np.float32))),
    ("statistics", behind("Conv(x, k)", k=K * np.float32(1e20), s=np.full(6, 1e30, np.float32))),
    ("statistics", model("h = Conv(x, k)", f"y = {BN}(h, w, c, m, v)", inputs=IMAGE | {"w": "float[6]"}, k=K)),
    ("result", behind("Conv(x, k)", more="z = Neg(h)", k=K)),
    ("weight", behind("Conv(x, k)", more="z = Neg(k)", k=K)),
    ("weight", behind("Conv(x, k)", inputs=IMAGE | {"k": "float[6, 4, 3, 3]"})),
    ("dtype", behind("Conv(x, k)", inputs={"x": "float16[batch, 4, 6, 6]"}, k=K.astype(np.float16))),
    ("producer", behind("Relu(x)", channels=4)),
    ("channels", behind("MatMul(x, w)", inputs={"x": "float[batch, 6, 8]"}, w=normal(8, 6))),
    ("bias", behind("Gemm{beta=2.0}(x, w, b)", inputs=FLAT, w=normal(8, 6), b=B)),
    ("bias", behind("Gemm(x, w, b)", inputs=FLAT | {"b": "float[6]"}, w=normal(8, 6))),
    ("weight", model(f"h = {BN}(x, s, c, m, v)", "y = MatMul(w, h)", inputs={"x": "float[2, 6]"}, w=normal(3, 2))),
    # of three axes: MatMul sums over the last, which the normalization leaves alone
    ("channels", before("MatMul(h, w)", channels=8, inputs={"x": "float[batch, 8, 8]"}, w=normal(8, 6))),
    ("channels", before("Conv(h, k)", channels=4, k=normal(6, 3, 3, 3))),
    ("channels", behind("Conv(x, k)", channels=4, k=K)),
    ("padding", before("Conv{pads=[1, 1, 1, 1]}(h, k)", channels=4, k=K)),
    ("padding", before("Conv{auto_pad=SAME_UPPER}(h, k)", channels=4, k=K)),
    ("channels", model("h = Conv(x, k)", "y = Mul(h, g)", k=K, g=normal(4))),
    ("channels", model("h = Conv(x, k)", "y = Mul(h, g)", inputs={"x": "float"}, k=K, g=normal(6, 1, 1))),
    ("channels", model("h = Conv(x, k)", "y = Add(h, g)", k=K, g=normal(6, 1, 4))),
    ("channels", model("h = Conv(x, k)", "y = Add(h, g)", k=K, g=normal(3, 1, 1, 1, 1))),
    ("constant", model("h = Conv(x, k)", "y = Mul(h, g)", inputs=IMAGE | {"g": "float[6, 1, 1]"}, k=K)),
    ("constant", model("h = Conv(x, k)", "y = Mul(h, inf)", k=K)),
    ("constant", model("h = Conv(x, k)", "y = Mul(h, 1e30)", k=K * np.float32(1e20))),
    ("result", model("h = Conv(x, k)", "y = Mul(h, 0.5)", "z = Neg(h)", k=K)),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(FoldBatchNormalization(), made)
    assert miss.rule == rule, miss
    before_ = lines(made)
    assert apply(FoldBatchNormalization(), made) == before_


def test_statistics_that_are_no_constants_are_named() -> None:
    made = model("h = Conv(x, k)", f"y = {BN}(h, w, c, m, v)", inputs=IMAGE | {"w": "float[6]"}, k=K)
    assert [miss.need for miss in misses(FoldBatchNormalization(), made)] == ["constants"]


def test_two_branches_that_share_a_weight_are_left_alone() -> None:
    found = misses(FoldBatchNormalization(), inside_if(behind("Conv(x, k, b)", k=K, b=B)))
    assert [miss.rule for miss in found] == ["weight", "weight"]


def test_large_weights_are_not_read() -> None:
    made = behind("Conv(x, k)", k=K)

    def fail() -> ir.Tensor:
        raise AssertionError("the weight was read")

    weight = made.graph.initializers["k"]
    weight.const_value = ir.LazyTensor(fail, dtype=ir.DataType.FLOAT, shape=ir.Shape(K.shape), name="k")
    assert apply(FoldBatchNormalization(), made) == ["y = Conv(x, k, y/k_bias)"]
