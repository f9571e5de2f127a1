"""Chains of reshapes and transposes in the fewest steps."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.provenance import sources
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.clean.simplify_views import SimplifyViews
from tersor.tests.ir.chains import ALL_SIZES, CHAINS, Chain, annotate
from tersor.tests.support import apply, holds, inside_if, misses, parse

X = "float[batch, 3, 4, 5]"
LAST = "y = Relu(z)"


def model(*text: str, x: str = X, outputs: tuple[str, ...] = ("y",), **inputs: str) -> ir.Model:
    made = graph(*text, inputs={"x": x} | inputs, outputs=outputs)
    annotate(made)
    return made


def turned(**options: str) -> ir.Model:
    """The last two axes swapped, by way of merged leading ones."""
    text = ("m = Reshape(x, [-1, 4, 5])", "t = Transpose{perm=[0, 2, 1]}(m)", "y = Reshape(t, [-1, 3, 5, 4])")
    return model(*text, **options)


class TestRewrites:
    @pytest.mark.parametrize(
        ("text", "made"),
        [
            (("a = Reshape(x, [0, 12, 5])", "z = Reshape(a, [0, 60])"), "Reshape(x, z/shape)"),
            (("a = Flatten(x)", "z = Unsqueeze(a, [1])"), "Reshape(x, z/shape)"),
            (("a = Transpose(x)", "z = Transpose{perm=[1, 0, 2, 3]}(a)"), "Transpose{perm=[2, 3, 1, 0]}(x)"),
            (("a = Unsqueeze(x, [0])", "z = Unsqueeze(a, [0])"), "Reshape(x, z/shape)"),
            (("a = Squeeze(x, [1])", "z = Transpose{perm=[0, 2, 1]}(a)"), "Reshape(x, z/shape)"),
            (("z = Transpose{perm=[2, 1, 0, 3]}(x)",), "Reshape(x, z/shape)"),
        ],
    )
    def test_two_steps_or_a_transpose_that_come_down_to_one(self, text: tuple[str, ...], made: str) -> None:
        x = "float[batch, 1, 1, 4]" if "Squeeze(x, [1])" in text[0] or "2, 1, 0, 3" in text[0] else X
        assert apply(SimplifyViews(), model(*text, LAST, x=x)) == [f"z = {made}", LAST]

    @pytest.mark.parametrize(
        "text",
        [
            ("a = Transpose(x)", "z = Transpose(a)"),
            ("a = Unsqueeze(x, [2])", "z = Squeeze(a, [2])"),
            ("a = Reshape(x, [-1, 5])", "z = Reshape(a, [-1, 3, 4, 5])"),
            ("z = Reshape(x, [0, 3, 4, 5])",),
            ("z = Transpose{perm=[0, 1, 2, 3]}(x)",),
            ("a = Transpose{perm=[0, 2, 3, 1]}(x)", "b = Identity(a)", "z = Transpose{perm=[0, 3, 1, 2]}(b)"),
            (
                "a = Reshape(x, [0, 12, 5])", "b = Transpose{perm=[2, 0, 1]}(a)", "c = Unsqueeze(b, [0])",
                "d = Transpose{perm=[0, 2, 3, 1]}(c)", "z = Reshape(d, [-1, 3, 4, 5])",
            ),
        ],
    )  # fmt: skip
    def test_what_gives_back_what_it_started_from_goes(self, text: tuple[str, ...]) -> None:
        assert apply(SimplifyViews(), model(*text, LAST)) == ["y = Relu(x)"]

    def test_a_swap_of_two_axes_spelled_with_reshapes(self) -> None:
        assert apply(SimplifyViews(), turned()) == ["y = Transpose{perm=[0, 1, 3, 2]}(x)"]

    def test_sizes_known_by_name(self) -> None:
        made = model(
            "s = Shape(x)", "rest = Slice(s, [2], [4])", "into = Concat{axis=0}([-1], rest)", "m = Reshape(x, into)",
            "t = Transpose{perm=[0, 2, 1]}(m)",
            "lead = Slice(s, [0], [2])", "swap = Gather(s, [3, 2])", "back = Concat{axis=0}(lead, swap)",
            "y = Reshape(t, back)",
            x="float[batch, 3, sequence, 5]",
        )  # fmt: skip
        assert apply(SimplifyViews(), made) == ["y = Transpose{perm=[0, 1, 3, 2]}(x)"]

    def test_as_many_nodes_and_a_transpose_less(self) -> None:
        """Heads that are joined, a last axis that is moved first, heads that are split again."""
        text = (
            "a = Transpose{perm=[0, 2, 1]}(x)",
            "b = Reshape(a, [0, 3, 4, 5])",
            "z = Transpose{perm=[0, 3, 1, 2]}(b)",
        )
        made = apply(SimplifyViews(), model(*text, LAST, x="float[batch, 5, 12]"))
        assert made == ["z = Reshape(x, z/shape)", LAST]

    def test_unknown_dimensions_take_part(self) -> None:
        text = (
            "a = Transpose{perm=[1, 0]}(x)",
            "b = Unsqueeze(a, [0])",
            "c = Transpose{perm=[0, 2, 1]}(b)",
            "z = Squeeze(c, [0])",
        )
        assert apply(SimplifyViews(), model(*text, LAST, x="float[?, ?]")) == ["y = Relu(x)"]

    def test_a_long_chain_collapses(self) -> None:
        text = [f"v{index + 1} = Transpose{{perm=[1, 0]}}(v{index})" for index in range(101)]
        made = model("v0 = Neg(x)", *text, "y = Relu(v101)", x="float[n, 3]")
        assert apply(SimplifyViews(), made) == ["v0 = Neg(x)", "v101 = Transpose{perm=[1, 0]}(v0)", "y = Relu(v101)"]

    def test_a_step_that_is_read_for_its_size_by_the_next_alone(self) -> None:
        made = model(
            "a = Reshape(x, [-1, 1, 0])", "n = Shape{start=2, end=3}(a)", "t = Concat{axis=0}([-1, 4, 1], n)",
            "z = Reshape(a, t)", LAST,
            x="float[batch, 4, sequence]",
        )  # fmt: skip
        assert apply(SimplifyViews(), made) == ["z = Unsqueeze(x, z/axes)", LAST]

    def test_an_axis_of_size_one_for_a_target_that_is_computed(self) -> None:
        """Both results are one step from the input, and need no size of what they share."""
        text = [
            line.replace("#", end)
            for end in "pq"
            for line in (
                "n# = Shape{start=2, end=3}(a)", "t# = Concat{axis=0}([-1, 4, 1], n#)", "z# = Reshape(a, t#)",
                "# = Relu(z#)",
            )
        ]  # fmt: skip
        made = model("a = Reshape(x, [-1, 1, 0])", *text, x="float[batch, 4, sequence]", outputs=("p", "q"))
        assert apply(SimplifyViews(), made) == [
            "zp = Unsqueeze(x, zp/axes)",
            "p = Relu(zp)",
            "zq = Unsqueeze(x, zq/axes)",
            "q = Relu(zq)",
        ]

    def test_an_axis_of_size_one_for_a_target_that_others_read_too(self) -> None:
        made = model(
            "n = Shape{start=2, end=3}(x)", "t = Concat{axis=0}([-1, 4, 1], n)", "z = Reshape(x, t)", LAST,
            x="float[batch, 4, sequence]", outputs=("y", "t"),
        )  # fmt: skip
        assert apply(SimplifyViews(), made)[2:] == ["z = Unsqueeze(x, z/axes)", LAST]

    def test_a_size_that_somebody_else_reads_keeps_the_step(self) -> None:
        made = model(
            "a = Reshape(x, [-1, 1, 0])", "n = Shape{start=2, end=3}(a)", "t = Concat{axis=0}([-1, 4, 1], n)",
            "z = Reshape(a, t)", LAST,
            x="float[batch, 4, sequence]", outputs=("y", "n"),
        )  # fmt: skip
        assert apply(SimplifyViews(), made) == [
            "a = Reshape(x, const_0)",
            "n = Shape{end=3, start=2}(a)",
            "z = Unsqueeze(x, z/axes)",
            LAST,
        ]

    def test_a_size_is_left_open_where_it_was(self) -> None:
        """Of no elements neither finds the size of an axis; a mask that gets axes of size one needs none."""
        made = model("a = Reshape(x, [0, -1])", "z = Reshape(a, [0, 1, -1])", LAST, x="float[batch, sequence, 4]")
        assert apply(SimplifyViews(), made) == ["z = Reshape(x, z/shape)", LAST]
        made = model("a = Unsqueeze(x, [1])", "z = Unsqueeze(a, [2])", LAST, x="float[batch, sequence]")
        assert apply(SimplifyViews(), made) == ["z = Unsqueeze(x, z/axes)", LAST]
        made = model("a = Flatten(x)", "z = Unsqueeze(a, [1])", LAST, x="float[batch, sequence, 4]")
        assert apply(SimplifyViews(), made) == ["a = Flatten(x)", "z = Unsqueeze(a, const_0)", LAST]

    def test_what_others_read_stays(self) -> None:
        made = turned(outputs=("y", "m"))
        assert apply(SimplifyViews(), made) == [
            "m = Reshape(x, const_0)",
            "y = Transpose{perm=[0, 1, 3, 2]}(x)",
        ]

    def test_an_output_takes_its_name_from_what_makes_it(self) -> None:
        made = model("r = Relu(x)", "a = Transpose(r)", "y = Transpose(a)")
        assert apply(SimplifyViews(), made) == ["y = Relu(x)"]

    def test_an_input_that_is_an_output_is_named_by_an_identity(self) -> None:
        made = model("a = Transpose(x)", "y = Transpose(a)")
        assert apply(SimplifyViews(), made) == ["y = Identity(x)"]

    def test_in_branches(self) -> None:
        found = apply(SimplifyViews(), inside_if(turned()))
        assert sum("Transpose{perm=[0, 1, 3, 2]}" in line for line in found) == 2
        assert not any("Reshape" in line for line in found)

    def test_it_stands_for_what_it_replaced(self) -> None:
        made = turned()
        apply(SimplifyViews(), made)
        assert set(sources(made.graph.node(0))) == {"m", "t", "y"}


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        (model("z = Reshape(x, [0, -1])", LAST), "steps"),
        (model("z = Transpose{perm=[0, 2, 1, 3]}(x)", LAST), "steps"),
        (model("z = Unsqueeze(x, [1])", LAST), "steps"),
        (model("z = Reshape(x, [-1, 7])", LAST), "sizes"),
        (model("z = Reshape(x, [5, 4, 3, -1])", LAST), "sizes"),
        (model("z = Squeeze(x)", LAST, x="float[n, 1, 3]"), "sizes"),
        (model("z = Reshape(x, [0, 0])", LAST, x="float[0, 3]"), "sizes"),
        (model("z = Reshape(x, shape)", LAST, shape="int64[2]"), "sizes"),
        (model("z = custom.Transpose(x)", LAST), None),
        (model("y = Reshape(x, [0, 3, 4, 5])"), "steps"),
    ],
)
def test_leaves_alone(made: ir.Model, rule: str | None) -> None:
    assert [miss.rule for miss in misses(SimplifyViews(), made)] == [rule] * (rule is not None)
    before = lines(made)
    assert apply(SimplifyViews(), made) == before


@pytest.mark.parametrize(
    "text",
    [
        ("a = Reshape(x, [0, 0, 12, 64])", "z = Transpose{perm=[0, 2, 1, 3]}(a)"),
        ("a = Reshape(x, [-1, 768])", "b = Relu(a)", "z = Reshape(b, [-1, 8, 768])"),
    ],
)
def test_leaves_alone_what_takes_its_steps(text: tuple[str, ...]) -> None:
    made = model(*text, LAST, x="float[batch, 8, 768]")
    assert {miss.rule for miss in misses(SimplifyViews(), made)} == {"steps"}
    assert len(apply(SimplifyViews(), made)) == len(text) + 1


def test_a_target_that_has_to_be_computed_stays() -> None:
    made = model(
        "n = Shape{start=2, end=3}(x)", "m = Shape{start=0, end=1}(x)", "t = Concat{axis=0}([1], n, [2, 2], m)",
        "a = Transpose{perm=[2, 1, 0]}(x)", "z = Reshape(a, t)", LAST,
        x="float[batch, 4, sequence]",
    )  # fmt: skip
    before = lines(made)
    assert {miss.rule for miss in misses(SimplifyViews(), made)} == {"steps"}
    assert apply(SimplifyViews(), made) == before


def test_a_step_that_has_to_be_made_anyway_is_built_upon() -> None:
    """Both results are one step from the value they share, and one from the input: nothing is gained."""
    made = model("a = Reshape(x, [0, 12, 5])", "p = Reshape(a, [0, 60])", "q = Relu(a)", outputs=("p", "q"))
    before = lines(made)
    assert apply(SimplifyViews(), made) == before


LOOP = """
    g (float[2, 3, 4] x, int64 n, bool go, float[2, 3, 4] s) => (float[2, 3, 4] y) {
        t = Transpose <perm = [2, 0, 1]> (x)
        y = Loop (n, go, s) <body = b (int64 i, bool c, float[2, 3, 4] h) => (bool d, float[2, 3, 4] k) {
            d = Identity (c)  TURN  k = Add (h, u)
        }>
    }"""


def test_a_chain_that_starts_outside_a_loop() -> None:
    made = parse(LOOP.replace("TURN", "u = Transpose <perm = [1, 2, 0]> (t)"))
    apply(SimplifyViews(), made)
    assert [node.op_type for node in made.graph.all_nodes()] == ["Loop", "Identity", "Add"]
    assert "k = Add(h, x)" in lines(made)[-1]


def test_what_is_made_outside_a_loop_is_not_made_inside_it() -> None:
    made = parse(LOOP.replace("TURN", "v = Transpose <perm = [1, 0, 2]> (t)  u = Relu (v)"))
    before = lines(made)
    assert [miss.rule for miss in misses(SimplifyViews(), made)] == ["steps", "steps"]
    assert apply(SimplifyViews(), made) == before


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if not chain.repeats], ids=str)
def test_random_chains_hold(chain: Chain) -> None:
    ops = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"}
    made = chain.model.clone()
    before = sum(node.op_type in ops for node in made.graph)
    apply(SimplifyViews(), made)
    after = [node.op_type for node in made.graph if node.op_type in ops]
    assert len(after) <= before
    again = lines(made)
    assert apply(SimplifyViews(), made) == again
    if len(after) < before:
        assert holds(SimplifyViews(), chain.model) == 0.0
        run = runner(made)
        for values in filter(None, map(chain.at, ALL_SIZES)):
            (found,) = run({"x": values["x"]}).values()
            np.testing.assert_allclose(found, values[chain.name], rtol=1e-6)


@pytest.mark.parametrize("made", [turned(), inside_if(turned()), turned(outputs=("y", "m"))])
def test_holds(made: ir.Model) -> None:
    assert holds(SimplifyViews(), made, {"batch": 2}) == 0.0
