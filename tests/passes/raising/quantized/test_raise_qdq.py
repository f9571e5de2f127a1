"""Integer products and convolutions as float ones between quantizations, held to ONNX Runtime running the integers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.raising.quantized.raise_qdq import RaiseQdq
from tersor.tests.support import apply, distance, inside_if, misses, on_onnxruntime

X = {"x": "float[batch, 5, 8]"}
DYNAMIC = ("(q, s, z) = DynamicQuantizeLinear(x)", "m = MatMulInteger(q, w, z, wz)", "c = Cast{to=1}(m)")
SCALED = (*DYNAMIC, "u = Mul(s, ws)", "y = Mul(c, u)")


def integers(*shape: int, kind: str = "int8") -> np.ndarray:
    limits = np.iinfo(kind)
    # small enough that no kernel's pairs of products overflow 16 bits
    return np.random.default_rng(shape).integers(limits.min // 4, limits.max // 4, shape).astype(kind)


def scales(*shape: int) -> np.ndarray:
    return (np.random.default_rng(shape).uniform(0.5, 1.5, shape) / 64).astype(np.float32)


W: dict[str, object] = {"w": integers(8, 6), "wz": np.int8(0), "ws": scales(6)}


def model(*text: str, inputs: Mapping[str, str] | None = None, **constants: object) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    known = {name: np.asarray(value) for name, value in (W | constants).items() if name in read}
    kinds = X if inputs is None else inputs
    return graph(*text, inputs={name: kind for name, kind in kinds.items() if name in read}, **known)


def ops(found: list[str]) -> list[str]:
    return [line.split(" = ")[1].split("(")[0].split("{")[0] for line in found]


def feeds_of(made: ir.Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    feeds = {}
    for value in made.graph.inputs:
        shape = [dim if isinstance(dim, int) else 2 for dim in value.shape]
        kind = value.dtype.numpy()
        feeds[value.name] = (
            rng.standard_normal(shape).astype(kind) if kind.kind == "f" else rng.integers(0, 100, shape).astype(kind)
        )
    return feeds


def agrees(made: ir.Model) -> list[str]:
    feeds = feeds_of(made)
    expected = on_onnxruntime(made, feeds)
    found = apply(RaiseQdq(), made)
    results = list(runner(made)(feeds).values())
    for a, b in zip(expected, results, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
    if expected[0].dtype.kind in "iu":
        assert np.abs(np.int64(expected[0]) - np.int64(results[0])).max() <= 1
    else:
        assert distance(results, expected) <= RaiseQdq.contract.tolerance
    return found


DYNAMIC_OPS = ["DynamicQuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul"]
QLINEAR = "y = QLinearMatMul(a, as, az, b, bs, bz, ys, yz)"
SIDES = {"as": np.float32(0.02), "az": np.uint8(30), "bs": np.float32(0.01), "bz": np.int8(0), "ys": np.float32(0.1),
         "yz": np.uint8(128), "b": integers(8, 6)}  # fmt: skip
IMAGE = {"a": "uint8[batch, 3, 6, 6]"}
KERNEL = {"k": integers(4, 3, 3, 3), "bias": integers(4, kind="int32") // 2**18}
CONV = "y = QLinearConv{pads=[1, 1, 1, 1]}(a, as, az, k, ks, kz, ys, yz"


class TestRewrites:
    def test_a_product_with_its_left_side_quantized_over_its_range(self) -> None:
        assert apply(RaiseQdq(), model(*SCALED))[0] == "(q, s, z) = DynamicQuantizeLinear(x)"
        assert ops(agrees(model(*SCALED)))[-1] == "MatMul"

    @pytest.mark.parametrize(
        "text",
        [
            (*DYNAMIC, "u = Mul(ws, s)", "y = Mul(u, c)"),
            (*DYNAMIC, "d = Mul(c, s)", "y = Mul(ws, d)"),
            (*DYNAMIC, "d = Mul(c, ws)", "y = Mul(d, s)"),
        ],
    )
    def test_however_the_scales_are_applied(self, text: tuple[str, ...]) -> None:
        found = agrees(model(*text, wz=np.zeros(6, np.int8)))
        assert ops(found) == DYNAMIC_OPS
        assert found[1].startswith("y/DequantizeLinear = DequantizeLinear(q, s, z)")
        assert "{axis=-1}" in found[2]

    def test_one_scale_for_the_weight(self) -> None:
        assert ops(agrees(model(*SCALED, ws=np.float32(0.02)))) == DYNAMIC_OPS

    def test_without_zero_points(self) -> None:
        made = model("(q, s, z) = DynamicQuantizeLinear(x)", "m = MatMulInteger(q, w, z)", *SCALED[2:])
        assert ops(agrees(made)) == DYNAMIC_OPS

    def test_scales_that_were_folded_into_one(self) -> None:
        made = model("m = MatMulInteger(a, w, az)", "c = Cast{to=1}(m)", "y = Mul(c, ws)",
                     inputs={"a": "uint8[batch, 5, 8]"}, az=np.uint8(7))  # fmt: skip
        assert ops(agrees(made)) == ["DequantizeLinear", "DequantizeLinear", "MatMul"]

    def test_a_qlinear_product(self) -> None:
        made = model(QLINEAR, inputs={"a": "uint8[batch, 5, 8]"}, **SIDES)
        assert ops(agrees(made)) == ["DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"]

    def test_a_qlinear_product_with_a_scale_for_each_column(self) -> None:
        columns = {"bs": scales(6), "bz": np.zeros(6, np.int8)}
        agrees(model(QLINEAR, inputs={"a": "uint8[batch, 5, 8]"}, **(SIDES | columns)))

    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("columns", [False, True])
    def test_a_qlinear_convolution(self, bias: bool, columns: bool) -> None:
        more = {"ks": scales(4), "kz": np.zeros(4, np.int8)} if columns else {"ks": np.float32(0.02), "kz": np.int8(0)}
        agrees(model(f"{CONV}{', bias' * bias})", inputs=IMAGE, **SIDES, **KERNEL, **more))

    def test_a_convolution_of_integers(self) -> None:
        text = ("(q, s, z) = DynamicQuantizeLinear(i)", "m = ConvInteger{pads=[1, 1, 1, 1]}(q, k, z, kz)",
                "c = Cast{to=1}(m)", "u = Mul(s, ks)", "y = Mul(c, u)")  # fmt: skip
        made = model(*text, inputs={"i": "float[batch, 3, 6, 6]"}, ks=np.float32(0.02), kz=np.int8(0), **KERNEL)
        assert ops(agrees(made))[-1] == "Conv"

    def test_a_convolution_of_integers_with_a_scale_for_each_channel(self) -> None:
        text = ("(q, s, z) = DynamicQuantizeLinear(i)", "m = ConvInteger(q, k, z)", "c = Cast{to=1}(m)",
                "d = Mul(c, s)", "y = Mul(d, ks)")  # fmt: skip
        agrees(model(*text, inputs={"i": "float[batch, 3, 6, 6]"}, ks=scales(1, 4, 1, 1), **KERNEL))

    def test_in_branches(self) -> None:
        found = apply(RaiseQdq(), inside_if(model(*SCALED)))
        assert not [line for line in found if "Integer" in line]


REFUSED = [
    ("scale", graph("m = MatMulInteger(a, w)", "c = Cast{to=1}(m)", "y = Mul(c, ws)",
                    inputs={"a": "uint8[5, 8]", "w": "int8"}, ws=scales(6))),
    ("result", model(*DYNAMIC[:2])),
    ("result", model(*DYNAMIC[:2], "y = Cast{to=1}(m)", "n = Neg(m)")),
    ("result", model(*DYNAMIC[:2], "y = Cast{to=11}(m)")),
    ("scale", model(*DYNAMIC)),
    ("scale", model(*DYNAMIC, "y = Mul(c, r)", inputs=X | {"r": "float[batch, 5, 6]"})),
    ("scale", model(*DYNAMIC, "y = Mul(c, r)", "v = Neg(c)", r=np.float32(2))),
    ("scale", model(*DYNAMIC, "y = Mul(c, c)")),
    ("scale", model(*DYNAMIC, "y = Mul(c, r)", r=scales(5, 1))),
    ("zeros", model("m = MatMulInteger(a, w, az)", "c = Cast{to=1}(m)", "y = Mul(c, ws)", inputs={"a": "uint8[5, 8]"},
                    az=np.arange(5, dtype=np.uint8))),
    ("scale", model("m = MatMulInteger(a, w)", "c = Cast{to=1}(m)", "y = Mul(c, r)", inputs={"a": "uint8[5, 8]"},
                    r=np.ones((1, 1, 1), np.float32))),
    ("scale", model("m = MatMulInteger(a, w)", "c = Cast{to=1}(m)", "y = Mul(c, r)", inputs={"a": "uint8[5, 8]"},
                    w=integers(8, 1), r=scales(5, 1))),
    ("zeros", model("m = MatMulInteger(a, w, _, wz)", "c = Cast{to=1}(m)", "y = Mul(c, r)",
                    inputs={"a": "uint8[2, 5, 8]"}, w=integers(2, 8, 6), wz=integers(2, 1, 6), r=np.float32(2))),
    ("columns", model(QLINEAR, inputs={"a": "uint8[2, 5, 8]"},
                      **(SIDES | {"b": integers(2, 8, 6), "bz": integers(2, 1, 6), "bs": scales(2, 1, 6)}))),
    ("scale", model(QLINEAR, inputs={"a": "uint8[5, 8]"}, **(SIDES | {"as": scales(5), "az": np.zeros(5, np.uint8)}))),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    (miss,) = misses(RaiseQdq(), made)
    assert miss.rule == rule, miss
    before = lines(made)
    assert apply(RaiseQdq(), made) == before
