"""Linear layers in all spellings, and what only looks like one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.site import sites
from tersor.ir.text import graph, lines
from tersor.passes.base import Context
from tersor.passes.raising.linear.raise_linear import RaiseLinear
from tersor.tests.support import apply, holds, inside_if, misses

X = {"x": "float[batch, sequence, 8]"}
FLAT = "f = Reshape(x, [-1, 8])"
SHAPE = ("s = Shape{end=2}(x)", "into = Concat{axis=0}(s, [6])")
TURN = "{perm=[0, 2, 1]}"


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


W, B = normal(8, 6), normal(6)


def model(*text: str, inputs: dict[str, str] | None = None, **constants: object) -> ir.Model:
    return graph(*text, inputs=X if inputs is None else inputs, **constants)


def ops(found: list[str]) -> list[str]:
    return [line.split(" = ")[1].split("(")[0].split("{")[0] for line in found]


def flattened(gemm: str = "g = Gemm(f, w, b)", **constants: object) -> ir.Model:
    return model(FLAT, gemm, *SHAPE, "y = Reshape(g, into)", **({"w": W, "b": B} | constants))


class TestRewrites:
    def test_a_gemm_between_reshapes(self) -> None:
        assert apply(RaiseLinear(), flattened())[-2:] == ["y/MatMul = MatMul(x, w)", "y = Add(y/MatMul, b)"]

    def test_a_product_between_reshapes(self) -> None:
        made = flattened("g = MatMul(f, w)", b=np.zeros(1, np.float32))
        made.graph.initializers.pop("b")
        assert apply(RaiseLinear(), made)[-1] == "y = MatMul(x, w)"

    def test_a_turned_and_scaled_weight_keeps_its_name(self) -> None:
        made = flattened("g = Gemm{transB=1, alpha=0.5, beta=2.0}(f, w, b)", w=W.T.copy())
        apply(RaiseLinear(), made)
        (site,) = sites(made)
        assert site.weight.name == "w"
        np.testing.assert_array_equal(site.dense(), W * np.float32(0.5))
        np.testing.assert_array_equal(site.bias_array(), B * np.float32(2.0))

    def test_heads_that_are_split_right_behind(self) -> None:
        made = model(FLAT, "g = Gemm(f, w, b)", "s = Shape{end=2}(x)", "into = Concat{axis=0}(s, [2, 3])",
                     "y = Reshape(g, into)", w=W, b=B)  # fmt: skip
        assert apply(RaiseLinear(), made)[-1] == "y = Reshape(y/Add, into)"

    def test_heads_that_are_joined_right_before(self) -> None:
        text = (
            FLAT,
            "g = Gemm(f, w, b)",
            "s = Shape{end=2}(x)",
            "into = Concat{axis=0}(s, [6])",
            "y = Reshape(g, into)",
        )
        made = model(*text, inputs={"x": "float[batch, sequence, 2, 4]"}, w=W, b=B)
        holds(RaiseLinear(), made, {"batch": 2, "sequence": 3})
        assert apply(RaiseLinear(), made)[-3:] == [
            "y/Reshape = Reshape(x, y/shape)",
            "y/MatMul = MatMul(y/Reshape, w)",
            "y = Add(y/MatMul, b)",
        ]

    def test_several_readers(self) -> None:
        text = (FLAT, "g = Gemm(f, w, b)", *SHAPE, "y = Reshape(g, into)", "z = Reshape(g, [-1])")
        made = model(*text, w=W, b=B)
        holds(RaiseLinear(), made, {"batch": 2, "sequence": 3})
        assert ops(apply(RaiseLinear(), made)).count("Reshape") == 1

    def test_a_weight_that_is_turned_by_a_node(self) -> None:
        made = model("t = Transpose{perm=[1, 0]}(w)", "y = MatMul(x, t)", w=W.T.copy())
        assert apply(RaiseLinear(), made) == ["y = MatMul(x, w)"]
        np.testing.assert_array_equal(made.graph.initializers["w"].const_value.numpy(), W)

    def test_a_weight_on_the_left(self) -> None:
        made = model(f"t = Transpose{TURN}(x)", "m = MatMul(w, t)", f"y = Transpose{TURN}(m)", w=W.T.copy())
        assert apply(RaiseLinear(), made) == ["y = MatMul(x, w)"]

    def test_a_weight_on_the_left_with_a_bias(self) -> None:
        text = (f"t = Transpose{TURN}(x)", "m = MatMul(w, t)", "a = Add(b, m)", f"y = Transpose{TURN}(a)")
        made = model(*text, w=W.T.copy(), b=B.reshape(6, 1))
        assert ops(apply(RaiseLinear(), made)) == ["MatMul", "Add"]

    def test_a_convolution_of_one_tap(self) -> None:
        text = (f"t = Transpose{TURN}(x)", "c = Conv(t, w, b)", f"y = Transpose{TURN}(c)")
        made = model(*text, w=W.T.reshape(6, 8, 1).copy(), b=B)
        assert ops(apply(RaiseLinear(), made)) == ["MatMul", "Add"]

    def test_in_branches(self) -> None:
        found = apply(RaiseLinear(), inside_if(flattened()))
        assert sum("MatMul(x, w)" in line for line in found) == 2

    def test_large_weights_are_not_read(self) -> None:
        made = flattened("g = Gemm{transB=1}(f, w, b)", w=W.T.copy())

        def fail() -> ir.Tensor:
            raise AssertionError("the weight was read")

        weight = made.graph.initializers["w"]
        weight.const_value = ir.LazyTensor(fail, dtype=ir.DataType.FLOAT, shape=ir.Shape([6, 8]), name="w")
        assert RaiseLinear().apply(made, Context()).matches == 1


CONV = ("c = Conv(t, w)", f"y = Transpose{TURN}(c)")
K = W.T.reshape(6, 8, 1).copy()
REFUSED = [
    ("spelling", model("y = Gemm(x, w, b)", inputs={"x": "float[batch, 8]"}, w=W, b=B)),
    ("spelling", model("y = MatMul(x, w)", w=W)),
    ("weight", model("y = MatMul(x, x)", inputs={"x": "float[8, 8]"})),
    ("weight", model(FLAT, "g = Gemm(f, w)", *SHAPE, "y = Reshape(g, into)", inputs=X | {"w": "float[8, 6]"})),
    ("features", flattened("g = Gemm{transA=1}(f, w, b)", w=normal(5, 6))),
    ("features", model("f = Reshape(x, [-1, 4])", "g = Gemm(f, w)", "y = Reshape(g, [-1])", w=normal(4, 6))),
    ("features", model("f = Reshape(x, [1, -1])", "g = Gemm(f, w)", "y = Reshape(g, [-1])",
                       inputs={"x": "float[2, 4]"}, w=W)),
    ("features", model("f = Reshape(x, [-1, 8])", "g = Gemm(f, w)", "y = Reshape(g, [-1])",
                       inputs={"x": "float[batch, n, m]"}, w=W)),
    ("result", model(FLAT, "y = Gemm(f, w, b)", w=W, b=B)),
    ("result", model(FLAT, "g = Gemm(f, w, b)", "y = Relu(g)", w=W, b=B)),
    ("result", model(FLAT, "g = Gemm(f, w, b)", "y = Reshape(g, [0, 2, 3])", w=W, b=B)),
    ("result", model(FLAT, "g = Gemm(f, w, b)", "y = Reshape(g, t)", inputs=X | {"t": "int64[3]"}, w=W, b=B)),
    ("bias", model("f = Reshape(x, [-1, 8])", "g = Gemm(f, w, b)", "y = Reshape(g, [2, 2, 6])",
                   inputs={"x": "float[2, 2, 8]"}, w=W, b=normal(4, 6))),
    ("bias", model(FLAT, "g = Gemm{beta=2.0}(f, w, b)", "y = Reshape(g, [-1])", inputs=X | {"b": "float[6]"}, w=W)),
    ("weight", model("t = Transpose{perm=[1, 0]}(w)", "y = MatMul(x, t)", "z = Gather(w, i)",
                     inputs=X | {"i": "int64[n]"}, w=W.T.copy())),
    ("weight", model("t = Transpose{perm=[0, 2, 1]}(w)", "y = MatMul(x, t)", inputs={"x": "float[2, 3, 8]"},
                     w=normal(2, 6, 8))),
    ("weight", model(FLAT, "g = Gemm{transB=1}(f, w, b)", *SHAPE, "y = Reshape(g, into)", "z = Gather(w, i)",
                     inputs=X | {"i": "int64[n]"}, w=W.T.copy(), b=B)),
    ("weight", model(f"t = Transpose{TURN}(x)", "m = MatMul(w, t)", f"y = Transpose{TURN}(m)", "z = Gather(w, i)",
                     inputs=X | {"i": "int64[n]"}, w=W.T.copy())),
    ("weight", model(f"t = Transpose{TURN}(x)", *CONV, "z = Gather(w, i)", inputs=X | {"i": "int64[n]"}, w=K)),
    ("rank", model("f = Reshape(x, [2, 4, 8])", "g = MatMul(f, w)", "y = Reshape(g, [8, 6])",
                   inputs={"x": "float[8, 8]"}, w=W)),
    ("rank", model("f = Reshape(x, [-1, 8])", "g = MatMul(f, w)", "y = Reshape(g, [-1])", inputs={"x": "float"}, w=W)),
    ("activation", model("y = MatMul(w, x)", inputs={"x": "float[batch, 8, n]"}, w=W.T.copy())),
    ("activation", model("t = Transpose{perm=[2, 1, 0]}(x)", "y = MatMul(w, t)", w=W.T.copy())),
    ("result", model(f"t = Transpose{TURN}(x)", "y = MatMul(w, t)", w=W.T.copy())),
    ("bias", model(f"t = Transpose{TURN}(x)", "m = MatMul(w, t)", "a = Add(m, b)", f"y = Transpose{TURN}(a)",
                   inputs={"x": "float[2, 6, 8]"}, w=W.T.copy(), b=B)),
    ("kernel", model(f"t = Transpose{TURN}(x)", *CONV, w=normal(6, 8, 3))),
    ("kernel", model(f"t = Transpose{TURN}(x)", "c = Conv{group=2}(t, w)", CONV[1], w=normal(6, 4, 1))),
    ("kernel", model(f"t = Transpose{TURN}(x)", "c = Conv{pads=[1, 1]}(t, w)", CONV[1], w=K)),
    ("kernel", model(f"t = Transpose{TURN}(x)", "c = Conv{strides=[2]}(t, w)", CONV[1], w=K)),
    ("channels", model(*CONV, inputs={"t": "float[batch, 8, n]"}, w=K)),
    ("channels", model(f"t = Transpose{TURN}(x)", "y = Conv(t, w)", w=K)),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "made"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_leaves_alone(rule: str, made: ir.Model) -> None:
    found = misses(RaiseLinear(), made)
    assert [miss.rule for miss in found] == [rule], found
    before = lines(made)
    assert apply(RaiseLinear(), made) == before


def test_a_weight_that_the_caller_may_override_is_left_alone() -> None:
    made = flattened()
    made.graph.inputs.append(made.graph.initializers["w"])
    (miss,) = misses(RaiseLinear(), made)
    assert miss.rule == "weight"


@pytest.mark.parametrize("sizes", [{"batch": 1, "sequence": 1}, {"batch": 3, "sequence": 5}])
@pytest.mark.parametrize(
    "made",
    [
        flattened(),
        flattened("g = Gemm{transB=1, alpha=0.5, beta=2.0}(f, w, b)", w=W.T.copy()),
        flattened("g = Gemm(f, w, b)", b=B.reshape(1, 6)),
        model(f"t = Transpose{TURN}(x)", "m = MatMul(w, t)", "a = Add(b, m)", f"y = Transpose{TURN}(a)",
              w=W.T.copy(), b=B.reshape(6, 1)),
        model(f"t = Transpose{TURN}(x)", "c = Conv(t, w, b)", f"y = Transpose{TURN}(c)", w=K, b=B),
        inside_if(flattened()),
    ],
)  # fmt: skip
def test_holds(made: ir.Model, sizes: dict[str, int]) -> None:
    holds(RaiseLinear(), made, sizes)
