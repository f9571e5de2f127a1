"""Group normalizations spelled with instance normalizations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.provenance import sources
from tersor.ir.text import graph, lines
from tersor.passes.raising.normalization.raise_group_normalization import RaiseGroupNormalization
from tersor.tests.ir.chains import annotate
from tersor.tests.support import apply, holds, inside_if, misses

X = "float[batch, 6, 4, 5]"
G = np.arange(6, dtype=np.float32).reshape(6, 1, 1) + 1
HELD: dict[str, object] = {"g": G, "b": -G, "one": np.ones(2, np.float32), "zero": np.zeros(2, np.float32)}
FLAT: dict[str, object] = {"g": G[:, :, 0]}
THREE: dict[str, object] = {"one": np.ones(3, np.float32), "zero": np.zeros(3, np.float32)}
INSTANCE = "i = InstanceNormalization{epsilon=0.001}(r, one, zero)"
BACK = "n = Reshape(i, [0, 6, 4, 5])"
RAISED = "GroupNormalization{epsilon=0.001, num_groups=2}"


def model(
    *text: str, x: str = X, outputs: tuple[str, ...] = ("y",), held: dict[str, object] | None = None, **inputs: str
) -> ir.Model:
    read = " ".join(text).replace("(", " ").replace(",", " ").replace(")", " ").split()
    constants = {name: value for name, value in (HELD | (held or {})).items() if name in read and name not in inputs}
    made = graph(*text, inputs={"x": x} | inputs, outputs=outputs, **constants)
    annotate(made)
    return made


def spelled(
    into: str = "[0, 2, -1]", *tail: str, instance: str = INSTANCE, back: str = BACK, x: str = X,
    outputs: tuple[str, ...] = ("y",), held: dict[str, object] | None = None, **inputs: str,
) -> ir.Model:  # fmt: skip
    end = tail or ("m = Mul(n, g)", "y = Add(m, b)")
    return model(f"r = Reshape(x, {into})", instance, back, *end, x=x, outputs=outputs, held=held, **inputs)


class TestRewrites:
    def test_scaled_and_shifted(self) -> None:
        made = spelled()
        assert apply(RaiseGroupNormalization(), made) == [f"y = {RAISED}(x, y/g, y/b)"]
        assert [list(made.graph.initializers[name].shape or ()) for name in ("y/g", "y/b")] == [[6], [6]]

    def test_the_other_way_round(self) -> None:
        made = spelled("[0, 2, -1]", "m = Mul(g, n)", "y = Add(b, m)")
        assert apply(RaiseGroupNormalization(), made) == [f"y = {RAISED}(x, y/g, y/b)"]

    def test_scaled_alone(self) -> None:
        made = spelled("[0, 2, -1]", "m = Mul(n, g)", "y = Relu(m)")
        assert apply(RaiseGroupNormalization(), made) == [f"m = {RAISED}(x, m/g, m/shift)", "y = Relu(m)"]

    def test_shifted_alone(self) -> None:
        made = spelled("[0, 2, -1]", "y = Add(n, b)")
        assert apply(RaiseGroupNormalization(), made) == [f"y = {RAISED}(x, y/scale, y/b)"]

    def test_neither(self) -> None:
        made = spelled("[0, 2, -1]", "y = Relu(n)")
        assert apply(RaiseGroupNormalization(), made) == [f"n = {RAISED}(x, n/scale, n/shift)", "y = Relu(n)"]

    def test_one_number_for_all_channels(self) -> None:
        made = spelled("[0, 2, -1]", "y = Mul(n, 3.0)")
        (line,) = apply(RaiseGroupNormalization(), made)
        assert line.startswith("y = GroupNormalization")

    @pytest.mark.parametrize("into", ["[0, 2, 3, 4, 5]", "[-1, 2, 60]", "[0, 2, 12, 5]"])
    def test_groups_in_any_number_of_axes(self, into: str) -> None:
        assert apply(RaiseGroupNormalization(), spelled(into)) == [f"y = {RAISED}(x, y/g, y/b)"]

    def test_one_group(self) -> None:
        held: dict[str, object] = {"one": np.ones(1, np.float32), "zero": np.zeros(1, np.float32)}
        (line,) = apply(RaiseGroupNormalization(), spelled("[0, 1, -1]", held=held))
        assert "num_groups=1" in line

    def test_what_scales_it_by_what_is_computed_stays(self) -> None:
        made = spelled("[0, 2, -1]", "y = Mul(n, s)", s="float[6, 1, 1]")
        assert apply(RaiseGroupNormalization(), made) == [f"n = {RAISED}(x, n/scale, n/shift)", "y = Mul(n, s)"]

    def test_what_scales_other_axes_stays(self) -> None:
        made = spelled("[0, 2, -1]", "y = Mul(n, w)", held={"w": np.ones((4, 1), np.float32)})
        assert apply(RaiseGroupNormalization(), made)[1] == "y = Mul(n, w)"

    def test_in_branches(self) -> None:
        found = apply(RaiseGroupNormalization(), inside_if(spelled()))
        assert sum("GroupNormalization" in line for line in found) == 2

    def test_it_stands_for_what_it_replaced(self) -> None:
        made = spelled()
        apply(RaiseGroupNormalization(), made)
        assert set(sources(made.graph.node(0))) == {"r", "i", "n", "m", "y"}


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        (spelled(held={"one": np.array([1.0, 2.0], np.float32)}), "parameters"),
        (spelled(held={"zero": np.array([0.0, np.nan], np.float32)}), "parameters"),
        (spelled(one="float[2]"), "parameters"),
        (model("y = InstanceNormalization(x, one, zero)", x="float[batch, 2, 3]"), "groups"),
        (spelled("[0, 4, -1]", held={"one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32)}), "groups"),
        (spelled("[2, 2, -1]", x="float[4, 6, 4, 5]"), "groups"),
        (spelled(x="float[batch, channels, 4, 5]"), "groups"),
        (spelled(outputs=("y", "i")), "back"),
        (spelled(back="n = Reshape(i, [0, 5, 4, 6])", held={"g": np.float32(2), "b": np.float32(1)}), "back"),
        (spelled("[0, 2, -1]", "y = Relu(i)", back="n = Neg(i)"), "back"),
        (
            model(
                "t = Transpose{perm=[0, 2, 3, 1]}(x)", "r = Reshape(t, [0, 2, -1])", INSTANCE, BACK, "y = Relu(n)",
            ),
            "back",
        ),
        # each channel by itself; a matrix; groups of every second channel
        (spelled("[4, 3, -1]", x="float[2, 6, 4, 5]", held=THREE), "groups"),
        (spelled("[0, 2, 3]", x="float[batch, 6]", back="n = Reshape(i, [0, 6])", held=FLAT), "groups"),
        (
            model(
                "a = Reshape(x, [0, 3, 2, 4, 5])", "r = Transpose{perm=[0, 2, 1, 3, 4]}(a)", INSTANCE,
                "c = Transpose{perm=[0, 2, 1, 3, 4]}(i)", "n = Reshape(c, [0, 6, 4, 5])", "y = Relu(n)",
            ),
            "groups",
        ),
        # more channels than are looked at
        (
            spelled("[0, 65537, -1]", "y = Relu(n)", x="float[1, 65537, 2]", back="n = Reshape(i, [0, 65537, 2])",
                    held={"one": np.ones(65537, np.float32), "zero": np.zeros(65537, np.float32)}),
            "parameters",
        ),
    ],
)  # fmt: skip
def test_leaves_alone(made: ir.Model, rule: str) -> None:
    (miss,) = misses(RaiseGroupNormalization(), made)
    assert miss.rule == rule
    before = lines(made)
    assert apply(RaiseGroupNormalization(), made) == before


def test_half_precision_is_left_alone() -> None:
    half: dict[str, object] = {name: np.asarray(value, np.float16) for name, value in HELD.items()}
    made = spelled(x=X.replace("float", "float16"), held=half)
    assert [miss.rule for miss in misses(RaiseGroupNormalization(), made)] == ["type"]


@pytest.mark.parametrize(
    "made",
    [
        spelled(),
        spelled("[0, 2, 3, 4, 5]", "y = Add(n, b)"),
        spelled("[0, 2, -1]", "m = Mul(n, 3.0)", "y = Add(m, b)"),
        spelled("[0, 2, -1]", "y = Mul(n, g)", x="float[batch, 6, n]", back="n = Reshape(i, [0, 6, -1])", held=FLAT),
        inside_if(spelled()),
    ],
)  # fmt: skip
def test_holds(made: ir.Model) -> None:
    holds(RaiseGroupNormalization(), made)
