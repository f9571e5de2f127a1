from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.openvino.fold_zero_point import FoldZeroPoint
from tersor.ir.text import graph
from tersor.tests.support import apply, holds, misses, parse

RNG = np.random.default_rng(0)
X = {"x": "float[n, s, 16]"}
ROUNDED = ("q = QuantizeLinear(x, sx, zx)", "d = DequantizeLinear(q, sx, zx)")
FIRST, SECOND = "w = DequantizeLinear{axis=1}(w8, sw)", "v = DequantizeLinear{axis=1}(v8, sv)"


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def weight(*shape: int) -> np.ndarray:
    return RNG.integers(-127, 128, shape).astype(np.int8)


KNOWN: dict[str, object] = {
    "w8": weight(16, 8), "sw": np.abs(normal(8)) / 99, "v8": weight(16, 4), "sv": np.abs(normal(4)) / 99,
    "b": normal(8), "sx": np.float32(0.03), "zx": np.array(100, np.uint8), "t8": weight(8, 16), "plain": normal(16, 8),
    "many": np.abs(normal(16)), "zeros": np.full(16, 3, np.uint8), "nothing": np.array(0, np.uint8),
    "signed": np.array(-7, np.int8), "zw": RNG.integers(-9, 9, 8).astype(np.int8),
    "one": np.array([[[0.5]]], np.float32), "c": normal(8, 4),
}  # fmt: skip


def model_of(*text: str, outputs: list[str] | None = None) -> ir.Model:
    read = {word for line in text for word in line.replace("(", " ").replace(")", " ").replace(",", " ").split()}
    return graph(*text, inputs=X, outputs=outputs, **{name: KNOWN[name] for name in KNOWN if name in read})


def test_the_zero_point_goes_into_the_bias() -> None:
    model = model_of(*ROUNDED, FIRST, "p = MatMul(d, w)", "y = Add(p, b)")
    assert apply(FoldZeroPoint(), model) == [
        "q = QuantizeLinear(x, sx, zx)",
        "d/centred = DequantizeLinear(q, sx)",
        FIRST,
        "y/MatMul = MatMul(d/centred, w)",
        "y = Add(y/MatMul, y/bias)",
    ]
    found = model.graph.initializers["y/bias"].const_value
    assert found is not None
    sums = np.float64(KNOWN["w8"]).sum(0) * KNOWN["sw"]
    # one rounding to float32
    np.testing.assert_allclose(found.numpy(), KNOWN["b"] - np.float64(KNOWN["sx"]) * 100 * sums, rtol=2**-23)


def test_every_reader_of_the_activation_takes_its_part() -> None:
    model = model_of(
        *ROUNDED, FIRST, "p = MatMul(d, w)", "y = Add(p, b)", SECOND, "z = MatMul(d, v)", outputs=["y", "z"]
    )
    assert apply(FoldZeroPoint(), model) == [
        "q = QuantizeLinear(x, sx, zx)",
        "d/centred = DequantizeLinear(q, sx)",
        FIRST,
        "y/MatMul = MatMul(d/centred, w)",
        "y = Add(y/MatMul, y/bias)",
        SECOND,
        "z/MatMul = MatMul(d/centred, v)",
        "z = Add(z/MatMul, z/bias)",
    ]


FLAT = ("f = Reshape(x, [-1, 16])", "q = QuantizeLinear(f, sx, zx)", "d = DequantizeLinear(q, sx, zx)")
TURNED = "w = DequantizeLinear{axis=0}(t8, sw)"


@pytest.mark.parametrize(
    "text",
    [
        (*ROUNDED, FIRST, "p = MatMul(d, w)", "y = Add(b, p)"),
        (*ROUNDED, FIRST, "y = MatMul(d, w)"),
        (*ROUNDED, FIRST, "p = MatMul(d, w)", "y = Add(p, p)"),
        (*ROUNDED, FIRST, "p = MatMul(d, w)", "y = Add(p, one)"),
        (*FLAT, TURNED, "y = Gemm{transB=1, alpha=0.5, beta=2.0}(d, w, b)"),
        (*FLAT, FIRST, "y = Gemm(d, w)"),
        ("q = QuantizeLinear(x, sx, signed)", "d = DequantizeLinear(q, sx, signed)", FIRST, "y = MatMul(d, w)"),
        (*ROUNDED, "w = DequantizeLinear{axis=1}(w8, sw, zw)", "y = MatMul(d, w)"),
    ],
)
def test_holds_numerically(text: tuple[str, ...]) -> None:
    model = model_of(*text)
    holds(FoldZeroPoint(), model)
    assert "d/centred = DequantizeLinear(q, sx)" in apply(FoldZeroPoint(), model)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ((*ROUNDED, "y = MatMul(d, plain)"), "weight"),
        ((*ROUNDED, FIRST, "p = MatMul(d, w)", "n = Neg(d)", "y = MatMul(n, p)"), "reader"),
        ((*ROUNDED, FIRST, "u = Transpose{perm=[1, 0]}(w)", "p = MatMul(u, c)", "y = MatMul(d, p)"), "weight"),
        (("q = QuantizeLinear(x, sx, nothing)", "d = DequantizeLinear(q, sx, nothing)", FIRST, "y = MatMul(d, w)"),
         "zero point"),
        (("q = QuantizeLinear(x, sx)", "d = DequantizeLinear(q, sx)", FIRST, "y = MatMul(d, w)"), "zero point"),
        (("q = QuantizeLinear(x, many, zeros)", "d = DequantizeLinear(q, many, zeros)", FIRST, "y = MatMul(d, w)"),
         "zero point"),
    ],
)  # fmt: skip
def test_leaves_alone(text: tuple[str, ...], rule: str) -> None:
    model = model_of(*text)
    assert rule in [miss.rule for miss in misses(FoldZeroPoint(), model)]
    assert list(text) == apply(FoldZeroPoint(), model)


def test_an_activation_that_a_branch_reads_stays() -> None:
    model = parse(
        """g (float[n, 2] x, bool c) => (float[n, 1] y)
        <float sx = {0.5}, uint8 zx = {100}, int8[2, 1] w8 = {1, 2}, float sw = {0.5}> {
            q = QuantizeLinear(x, sx, zx)
            d = DequantizeLinear(q, sx, zx)
            w = DequantizeLinear(w8, sw)
            y = If (c) <
                then_branch = t () => (float[n, 1] p) { p = MatMul(d, w) },
                else_branch = e () => (float[n, 1] r) { r = MatMul(d, w) }
            >
        }"""
    )
    assert [miss.rule for miss in misses(FoldZeroPoint(), model) if miss.rule != "activation"] == ["graph"]


def test_an_activation_that_is_an_output_stays() -> None:
    model = model_of(*ROUNDED, FIRST, "y = MatMul(d, w)", outputs=["y", "d"])
    assert misses(FoldZeroPoint(), model)[0].rule == "output"
