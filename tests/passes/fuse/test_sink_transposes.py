"""Transposes that meet through elementwise ops."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.provenance import sources
from tersor.ir.text import graph, lines
from tersor.passes.fuse.pointwise import composed, inverse
from tersor.passes.fuse.sink_transposes import SinkTransposes
from tersor.tests.support import apply, holds, inside_if, misses

X = "float[batch, 3, n]"
TO, BACK = "Transpose{perm=[0, 2, 1]}", "Transpose{perm=[0, 2, 1]}"
TURN, RETURN = "Transpose{perm=[0, 3, 1, 2]}", "Transpose{perm=[0, 2, 3, 1]}"
VECTOR = np.array([0.5, -1.0, 2.0], np.float32)


def model(
    *text: str, outputs: tuple[str, ...] = ("y",), constants: dict[str, object] | None = None, **inputs: str
) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    kinds = {name: kind for name, kind in ({"x": X, "z": X} | inputs).items() if name in read}
    held = {name: value for name, value in ({"v": VECTOR} | (constants or {})).items() if name in read}
    return graph(*text, inputs=kinds, outputs=outputs, **held)


def between(*text: str, **options: object) -> ir.Model:
    """What is done between two transposes, from `t` to `u`."""
    return model(f"t = {TO}(x)", *text, f"y = {BACK}(u)", **options)  # type: ignore[arg-type]


class TestRewrites:
    @pytest.mark.parametrize(
        ("text", "made"),
        [
            ("u = Relu(t)", "Relu(x)"),
            ("u = Clip(t, -1.0, 1.0)", "Clip(x, const_0, const_1)"),
            ("u = Mul(t, 2.0)", "Mul(x, const_0)"),
            ("u = Sub(1.0, t)", "Sub(const_0, x)"),
            ("u = Add(t, [[[1.0]]])", "Add(x, const_0)"),
            ("u = Mul(t, t)", "Mul(x, x)"),
            ("u = Softmax{axis=-1}(t)", "Softmax{axis=1}(x)"),
            ("u = LogSoftmax{axis=1}(t)", "LogSoftmax{axis=2}(x)"),
            ("u = Gelu{approximate=tanh}(t)", "Gelu{approximate=tanh}(x)"),
        ],
    )
    def test_one_node_between_a_pair(self, text: str, made: str) -> None:
        assert apply(SinkTransposes(), between(text)) == [f"y = {made}"]

    def test_a_chain_between_a_pair(self) -> None:
        made = between("a = Relu(t)", "b = Mul(a, 2.0)", "c = Sigmoid(b)", "u = Mul(b, c)")
        assert apply(SinkTransposes(), made) == [
            "y/Relu = Relu(x)",
            "y/Mul = Mul(y/Relu, const_0)",
            "y/Sigmoid = Sigmoid(y/Mul)",
            "y = Mul(y/Mul, y/Sigmoid)",
        ]

    def test_constant_vectors_are_turned(self) -> None:
        made = between("u = Add(t, v)")
        (line,) = apply(SinkTransposes(), made)
        assert line == "y = Add(x, y/v)"
        assert list(made.graph.initializers["y/v"].shape or ()) == [1, 3, 1]

    def test_two_equally_transposed_values(self) -> None:
        made = model(f"t = {TO}(x)", f"s = {TO}(z)", "y = Add(t, s)")
        assert apply(SinkTransposes(), made) == ["y/Add = Add(x, z)", "y = Transpose{perm=[0, 2, 1]}(y/Add)"]

    def test_far_apart(self) -> None:
        made = model(f"t = {TO}(x)", "a = Relu(t)", f"s = {TO}(z)", "b = Neg(s)", "y = Add(a, b)")
        assert [line.split(" = ")[1].split("{")[0].split("(")[0] for line in apply(SinkTransposes(), made)] == [
            "Relu", "Neg", "Add", "Transpose",
        ]  # fmt: skip

    def test_transposes_merge(self) -> None:
        made = model(f"t = {TURN}(x)", "u = Relu(t)", f"y = {TURN}(u)", x="float[2, 3, 4, 5]")
        assert apply(SinkTransposes(), made) == [
            "y/Transpose = Transpose{perm=[0, 2, 3, 1]}(x)",
            "y = Relu(y/Transpose)",
        ]

    def test_three_axes_and_their_inverse(self) -> None:
        text = (f"t = {TURN}(x)", "a = Add(t, w)", "u = Softmax{axis=1}(a)", f"y = {RETURN}(u)")
        made = model(*text, x="float[2, 3, 4, 5]", constants={"w": VECTOR.reshape(3, 1)})
        assert apply(SinkTransposes(), made) == ["y/Add = Add(x, y/w)", "y = Softmax{axis=3}(y/Add)"]
        assert list(made.graph.initializers["y/w"].shape or ()) == [1, 3, 1, 1]

    def test_a_normalization_whose_axis_stays_last(self) -> None:
        turn = "Transpose{perm=[1, 0, 2]}"
        made = model(f"t = {turn}(x)", "u = LayerNormalization(t, v)", f"y = {turn}(u)", x="float[n, batch, 3]")
        assert apply(SinkTransposes(), made) == ["y = LayerNormalization(x, v)"]

    def test_a_linear_layer_whose_batch_is_turned(self) -> None:
        turn = "Transpose{perm=[1, 0, 2]}"
        made = model(
            f"t = {turn}(x)", "p = MatMul(t, w)", "u = Add(p, v)", f"y = {turn}(u)",
            x="float[n, batch, 2]", constants={"w": np.ones((2, 3), np.float32)},
        )  # fmt: skip
        assert apply(SinkTransposes(), made) == ["y/MatMul = MatMul(x, w)", "y = Add(y/MatMul, y/v)"]

    def test_a_transpose_comes_in_where_two_go(self) -> None:
        made = model(f"t = {TO}(x)", "a = Add(t, z)", f"y = {BACK}(a)", x="float[b, 3, 4]", z="float[b, 4, 3]")
        assert apply(SinkTransposes(), made) == [
            "y/Transpose = Transpose{perm=[0, 2, 1]}(z)",
            "y = Add(x, y/Transpose)",
        ]

    def test_other_readers_get_it_back_from_one_transpose(self) -> None:
        made = model(
            f"t = {TO}(x)", f"s = {TO}(z)", "u = Add(t, s)", "w = Relu(u)", f"y = {BACK}(u)", outputs=("y", "w")
        )
        assert apply(SinkTransposes(), made) == [
            "y = Add(x, z)",
            "u = Transpose{perm=[0, 2, 1]}(y)",
            "w = Relu(u)",
        ]

    def test_in_branches(self) -> None:
        found = apply(SinkTransposes(), inside_if(between("u = Add(t, v)")))
        assert not any("Transpose" in line for line in found)

    def test_it_stands_for_what_it_replaced(self) -> None:
        made = between("u = Relu(t)")
        apply(SinkTransposes(), made)
        assert set(sources(made.graph.node(0))) == {"t", "u", "y"}


@pytest.mark.parametrize(
    "made",
    [
        model(f"y = {TO}(x)"),
        model(f"t = {TO}(x)", "y = Relu(t)"),
        model("r = Relu(x)", f"y = {TO}(r)"),
        model(f"t = {TO}(x)", "u = Relu(t)", f"y = {TO}(u)", "w = Neg(u)", "q = Exp(t)", outputs=("y", "w", "q")),
        # something else reads what is between
        model(f"t = {TO}(x)", "u = Relu(t)", f"y = {TO}(u)", outputs=("y", "u", "t")),
        # along an axis that is given to a normalization by its place
        between("u = LayerNormalization(t, v)"),
        between("u = MatMul(t, w)", constants={"w": np.ones((3, 3), np.float32)}),
        between("u = CumSum(t, 1)"),
        between("u = custom.Relu(t)"),
        # the other input is of lower rank and not constant
        between("u = Add(t, q)", q="float[3]"),
        # a constant that would have to be copied
        model(
            f"t = {TO}(x)", "u = Add(t, w)", f"s = {TO}(u)", "y = Relu(t)", outputs=("y", "s"),
            constants={"w": np.ones((4, 3), np.float32)},
        ),
        # one of the inputs is transposed otherwise
        model(
            "t = Transpose{perm=[1, 0]}(x)", "y = Add(t, z)", x="float[3, 4]", z="float[4, 3]",
        ),
        between("u = Relu(t)", x="float"),
    ],
)  # fmt: skip
def test_leaves_alone(made: ir.Model) -> None:
    assert {miss.rule for miss in misses(SinkTransposes(), made)} <= {"meets", "rank"}
    before = lines(made)
    assert apply(SinkTransposes(), made) == before


OPS = ["Relu({a})", "Mul({a}, {b})", "Add({a}, {b})", "Sub({a}, 0.5)", "Add({a}, v)", "Softmax{{axis=1}}({a})"]
OPS += ["Transpose{{perm=[0, 2, 1]}}({a})"] * 4


@pytest.mark.parametrize("seed", range(30))
def test_random_graphs_hold_and_get_no_larger(seed: int) -> None:
    """Elementwise ops and transposes in any order over square sizes."""
    rng = np.random.default_rng(seed)
    names, text = ["x", "z"], []
    for index in range(12):
        a, b = (names[-1 - int(rng.integers(min(3, len(names))))] for _ in "ab")
        text.append(f"n{index} = {OPS[rng.integers(len(OPS))].format(a=a, b=b)}")
        names.append(f"n{index}")
    held = {"v": VECTOR} if any(", v)" in line for line in text) else {}
    made = graph(*text, inputs={"x": "float[2, 3, 3]", "z": "float[2, 3, 3]"}, **held)
    after = made.clone()
    found = apply(SinkTransposes(), after)
    assert len(found) <= len(text)
    assert apply(SinkTransposes(), after) == found
    if len(found) < len(text):
        holds(SinkTransposes(), made)


@pytest.mark.parametrize(
    "made",
    [
        between("u = Softmax(t)"),
        between("a = Add(t, v)", "b = Sigmoid(a)", "u = Mul(a, b)"),
        model(f"t = {TO}(x)", f"s = {TO}(z)", "y = Add(t, s)"),
        model(f"t = {TURN}(x)", "u = Softmax{axis=2}(t)", f"y = {TURN}(u)", x="float[2, 3, 4, 5]"),
        inside_if(between("u = Relu(t)")),
    ],
)
def test_holds(made: ir.Model) -> None:
    holds(SinkTransposes(), made, {"batch": 2, "n": 5} if "batch" in str(made.graph.inputs[-1].shape) else None)


def test_permutations() -> None:
    x = np.arange(24).reshape(2, 3, 4)
    first, then = (2, 0, 1), (1, 0, 2)
    np.testing.assert_array_equal(x.transpose(first).transpose(then), x.transpose(composed(first, then)))
    np.testing.assert_array_equal(x.transpose(first).transpose(inverse(first)), x)
