"""A transpose of two axes, spelled with reshapes."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from tersor.ir.text import graph, lines
from tersor.passes.clean.collapse_reshapes import CollapseReshapes
from tersor.tests.support import apply, holds, inside_if, misses

X = {"x": "float[2, 3, 4, 5]"}


def spelled(
    merged: object = "[-1, 4, 5]",
    split: object = "[2, 3, 5, 4]",
    *,
    perm: str = "[0, 2, 1]",
    inputs: dict[str, str] | None = None,
    more: tuple[str, ...] = (),
    outputs: tuple[str, ...] = ("y",),
) -> ir.Model:
    return graph(
        f"m = Reshape(x, {merged})",
        f"t = Transpose{{perm={perm}}}(m)",
        f"y = Reshape(t, {split})",
        *more,
        inputs=inputs or X,
        outputs=outputs,
    )


def named() -> ir.Model:
    """The sizes computed from the shape of the input, batch and sequence by name."""
    return graph(
        "s = Shape(x)", "rest = Slice(s, [2], [4])", "into = Concat{axis=0}([-1], rest)", "m = Reshape(x, into)",
        "t = Transpose{perm=[0, 2, 1]}(m)",
        "lead = Slice(s, [0], [2])", "swap = Gather(s, [3, 2])", "back = Concat{axis=0}(lead, swap)",
        "y = Reshape(t, back)",
        inputs={"x": "float[batch, 3, sequence, 5]"},
    )  # fmt: skip


class TestRewrites:
    def test_four_axes(self) -> None:
        assert apply(CollapseReshapes(), spelled()) == ["y = Transpose{perm=[0, 1, 3, 2]}(x)"]

    def test_two_axes(self) -> None:
        model = spelled("[-1, 4, 5]", "[5, 4]", inputs={"x": "float[4, 5]"})
        assert apply(CollapseReshapes(), model) == ["y = Transpose{perm=[1, 0]}(x)"]

    def test_sizes_known_by_name(self) -> None:
        assert apply(CollapseReshapes(), named()) == ["y = Transpose{perm=[0, 1, 3, 2]}(x)"]

    def test_what_others_read_of_the_merged_value_stays(self) -> None:
        model = spelled(more=("z = Neg(m)",), outputs=("y", "z"))
        assert apply(CollapseReshapes(), model) == [
            "m = Reshape(x, const_0)",
            "y = Transpose{perm=[0, 1, 3, 2]}(x)",
            "z = Neg(m)",
        ]

    def test_in_a_branch(self) -> None:
        found = apply(CollapseReshapes(), inside_if(spelled()))
        assert sum("Transpose{perm=[0, 1, 3, 2]}" in line for line in found) == 2
        assert not any("Reshape" in line for line in found)


@pytest.mark.parametrize(
    ("model", "rule", "need"),
    [
        (spelled(perm="[2, 1, 0]", split="[2, 3, 4, 5]"), "perm", "(0, 2, 1)"),
        (graph("t = Transpose(x)", inputs=X), "perm", "(0, 2, 1)"),
        (graph("t = Transpose{perm=[0, 2, 1]}(x)", inputs={"x": "float[2, 3, 4]"}), "merge", "a Reshape"),
        (
            graph("r = Relu(x)", "t = Transpose{perm=[0, 2, 1]}(r)", inputs={"x": "float[2, 3, 4]"}),
            "merge",
            "a Reshape",
        ),
        (spelled(outputs=("t", "y")), "split", "one Reshape"),
        (spelled(more=("z = Neg(t)",), outputs=("y", "z")), "split", "one Reshape"),
        (spelled("[-1, 5, 4]", "[2, 3, 4, 5]"), "sizes", "the last two swapped"),
        (spelled("[-1, 4, 5]", "[3, 2, 5, 4]"), "sizes", "the last two swapped"),
        (spelled("[-1, 4, 5]", "[6, 5, 4]"), "sizes", "the last two swapped"),
        (spelled("[-1, 4, 5]", "[2, 3, 20]"), "sizes", "the last two swapped"),
        (spelled("[-1, 4, 5]", "[2, -1, 5, 4]"), "sizes", "the last two swapped"),
        (spelled("[-1, 3, 5]", "[?, 5, 3]".replace("?", "-1"), inputs={"x": "float"}), "sizes", "known sizes"),
        (spelled("shape", inputs={**X, "shape": "int64[3]"}), "sizes", "known sizes"),
    ],
)  # fmt: skip
def test_leaves_alone(model: ir.Model, rule: str, need: str) -> None:
    (miss,) = misses(CollapseReshapes(), model)
    assert miss.rule == rule
    assert need in miss.need
    before = lines(model)
    assert apply(CollapseReshapes(), model) == before


@pytest.mark.parametrize("model", [spelled(), named(), inside_if(spelled())])
def test_holds(model: ir.Model) -> None:
    assert holds(CollapseReshapes(), model) == 0.0
