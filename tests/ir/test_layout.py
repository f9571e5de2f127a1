"""Chains of reshapes, transposes and repeats as atoms of what they start from, held against numpy."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.atoms import ONE, Atom, Axis, exactly, fresh, regroup, size_of
from tersor.ir.layout import View, after, scaling, views, whole
from tersor.ir.polynomial import Polynomial
from tersor.ir.text import graph
from tersor.tests.ir.chains import ALL_SIZES, CHAINS, SIZES, Chain, annotate, elements


def shown(view: View) -> list[list[str]]:
    return [[str(atom.size) if atom.axis is not None else f"*{atom.size}" for atom in axis] for axis in view.axes]


def farthest(*text: str, x: str, scalars: bool = False, repeats: bool = True, **constants: object) -> View:
    """`y` as seen from as far up as it goes."""
    model = graph(*text, inputs={"x": x}, outputs=["y"], **constants)
    annotate(model)
    return [*views(model.graph.outputs[0], scalars=scalars, repeats=repeats)][-1]


class TestViews:
    def test_a_value_is_a_view_of_itself(self) -> None:
        model = graph("y = Relu(x)", inputs={"x": "float[batch, 1, 3]"})
        (view,) = views(model.graph.outputs[0])
        assert view.root.name == "y"
        assert shown(view) == [["batch"], [], ["3"]]

    def test_heads_are_split_from_the_hidden_axis(self) -> None:
        text = ("r = Reshape(x, [0, 0, 12, 64])", "y = Transpose{perm=[0, 2, 1, 3]}(r)")
        view = farthest(*text, x="float[batch, sequence, 768]")
        assert view.root.name == "x"
        hidden = [atom for axis in view.axes for atom in axis if atom.axis == 2]
        assert [(int(atom.size), int(atom.stride)) for atom in hidden] == [(12, 64), (64, 1)]
        assert shown(view) == [["batch"], ["12"], ["sequence"], ["64"]]

    def test_two_spellings_of_one_rearrangement_are_equal(self) -> None:
        split = ("r = Reshape(x, [0, 0, 12, 64])", "y = Transpose{perm=[0, 2, 1, 3]}(r)")
        turned = (
            "t = Transpose{perm=[2, 0, 1]}(x)", "r = Reshape(t, [12, 64, -1, 7])",
            "y = Transpose{perm=[2, 0, 3, 1]}(r)",
        )  # fmt: skip
        first, second = (farthest(*text, x="float[batch, 7, 768]") for text in (split, turned))
        assert first.axes == second.axes

    def test_nearest_roots_come_first(self) -> None:
        model = graph("a = Transpose(x)", "b = Identity(a)", "y = Unsqueeze(b, [0])", inputs={"x": "float[2, 3]"})
        assert [view.root.name for view in views(model.graph.outputs[0])] == ["y", "b", "a", "x"]

    def test_values_of_unknown_rank_are_looked_through(self) -> None:
        model = graph("a = Transpose(x)", "y = Transpose(a)", inputs={"x": "float[n, 3]"})
        for node in model.graph:
            node.outputs[0].shape = None
        (view,) = views(model.graph.outputs[0])
        assert view.root.name == "x"
        assert shown(view) == [["n"], ["3"]]

    def test_unknown_dimensions_are_equal_to_themselves_alone(self) -> None:
        model = graph("y = Transpose(x)", inputs={"x": "float[?, ?]"})
        *_, view = views(model.graph.outputs[0])
        assert view.axes == whole(model.graph.inputs[0])[::-1]  # type: ignore[index]
        assert view.axes[0] != view.axes[1]

    def test_axes_of_size_one_come_and_go_beside_unknown_dimensions(self) -> None:
        view = farthest("u = Unsqueeze(x, [0, -2])", "s = Squeeze(u, [0])", "y = Flatten{axis=-1}(s)", x="float[?, ?]")
        assert view.root.name == "x"
        assert [len(axis) for axis in view.axes] == [1, 1]

    def test_constant_scalars_are_collected_where_asked(self) -> None:
        text = ("a = Mul(x, 3.0)", "b = Transpose(a)", "c = Div(b, [[2.0]])", "y = Mul(0.5, c)")
        assert farthest(*text, x="float[2, 3]", scalars=True).scale == 0.75
        assert farthest(*text, x="float[2, 3]").root.name == "y"

    @pytest.mark.parametrize(
        "text",
        ["y = Mul(x, x)", "y = Mul(x, 0.0)", "y = Div(2.0, x)", "y = Mul(x, [[2.0]])", "y = Mul(x, [1.0, 2.0])"],
    )
    def test_what_is_no_scaling(self, text: str) -> None:
        model = graph(text, inputs={"x": "float[2]"})
        assert scaling(model.graph.node(0)) == (None, 1.0)

    def test_repeats_stand_where_the_copies_lie(self) -> None:
        text = ("u = Unsqueeze(x, [1])", "e = Expand(u, [1, 4, 1])", "y = Reshape(e, [8, 3])")
        assert shown(farthest(*text, x="float[2, 3]")) == [["2", "*4"], ["3"]]
        assert shown(farthest("y = Tile(x, [4, 1])", x="float[2, 3]")) == [["*4", "2"], ["3"]]
        assert farthest(*text, x="float[2, 3]").repeats
        assert farthest(*text, x="float[2, 3]", repeats=False).root.name == "e"

    @pytest.mark.parametrize(
        ("text", "x"),
        [
            (("y = Reshape(x, [3, 2])",), "float[2, 3]"),
            (("y = Reshape(x, [4, 9])",), "float[6, 6]"),
            (("y = Reshape(x, [-1, 4])",), "float[n, 6]"),
            (("y = Reshape(x, [-1, 2])",), "float[?, ?]"),
            (("y = Reshape(x, [0, 4])",), "float[0, 4]"),
            (("y = Squeeze(x)",), "float[n, 1]"),
            (("y = Squeeze(x, [0])",), "float[n, 1]"),
            (("e = Identity(x)", "y = Expand(e, [4, 3])"), "float[?, 3]"),
            (("y = Tile(x, [0, 1])", "z = Reshape(y, [0, 3])"), "float[2, 3]"),
            (("y = Transpose{perm=[0, 1]}(x)",), "float[2, 3, 1]"),
        ],
    )
    def test_what_is_no_product_of_atoms(self, text: tuple[str, ...], x: str) -> None:
        model = graph(*text, inputs={"x": x})
        axes = whole(model.graph.inputs[0])
        node = next(node for node in model.graph if any(value is model.graph.inputs[0] for value in node.inputs))
        if node.op_type == "Identity":
            node = model.graph.node(1)
        assert axes is not None
        made = after(node, axes)
        if node.op_type == "Tile":
            assert made is not None
            made = after(model.graph.node(1), made)
        assert made is None

    def test_a_chain_is_followed_so_far_and_no_farther(self) -> None:
        text = [f"v{index + 1} = Identity(v{index})" for index in range(40)]
        model = graph(*text, inputs={"v0": "float[2]"})
        assert len([*views(model.graph.outputs[0])]) == 24

    def test_ops_of_other_domains_are_not_looked_through(self) -> None:
        model = graph("y = custom.Transpose(x)", inputs={"x": "float[2, 3]"})
        model.graph.outputs[0].shape = ir.Shape([3, 2])
        assert [view.root.name for view in views(model.graph.outputs[0])] == ["y"]


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_views_say_what_numpy_computes(chain: Chain) -> None:
    """Every view of a random chain, gathered element by element from its root, is the value: at every size."""
    seen = [*views(chain.model.graph.outputs[0], scalars=True, repeats=True)]
    assert seen[-1].root.name == "x", "a chain without unknown sizes is followed to its start"
    for sizes in (SIZES, *ALL_SIZES):
        values = chain.at(sizes)
        for view in seen if values is not None else ():
            assert values is not None
            root = values[view.root.name or ""]
            places, shape = elements(view.axes, root.shape, sizes)
            found = (root.reshape(-1)[places] * view.scale).reshape(shape)
            np.testing.assert_allclose(found, values[chain.name], rtol=1e-6, strict=True)


class TestRegroup:
    n, m = Polynomial.of("n"), Polynomial.of("m")

    def axes(self, *sizes: Polynomial | int) -> list[Atom]:
        return [Atom(index, ONE * size) for index, size in enumerate(sizes)]

    def sizes(self, groups: tuple[Axis, ...] | None) -> list[list[str]] | None:
        return None if groups is None else [[str(atom.size) for atom in axis] for axis in groups]

    @pytest.mark.parametrize(
        ("atoms", "sizes", "expected"),
        [
            ((n, 12), (n * 12,), [["n", "12"]]),
            ((n, 12), (n, 3, 4), [["n"], ["3"], ["4"]]),
            ((n, 12), (n * 3, 4), [["n", "3"], ["4"]]),
            ((n * 12,), (n, 3, 4), [["n"], ["3"], ["4"]]),
            ((n, m), (n * m,), [["n", "m"]]),
            ((12, n), (4, n * 3), [["4"], ["3", "n"]]),
            ((n + 1, 4), (n * 4 + 4,), [["n + 1", "4"]]),
            ((2,), (1, 2, 1), [[], ["2"], []]),
            ((), (), []),
            ((), (1,), [[]]),
            ((n, m), (m, n), None),
            ((6, 4), (4, 6), None),
            ((n, 6), (n * 2, 4), None),
            ((2,), (2, 2), None),
            ((2, 2), (2,), None),
            ((0, 3), (0, 3), None),
            ((2,), (0,), None),
        ],
    )
    def test_groups(self, atoms: tuple[Polynomial, ...], sizes: tuple[Polynomial, ...], expected: object) -> None:
        assert self.sizes(regroup(self.axes(*atoms), [ONE * size for size in sizes])) == expected

    def test_parts_keep_their_stride(self) -> None:
        groups = regroup(self.axes(24), [ONE * 2, ONE * 3, ONE * 4])
        assert groups == ((Atom(0, ONE * 2, ONE * 12),), (Atom(0, ONE * 3, ONE * 4),), (Atom(0, ONE * 4),))

    def test_fresh_atoms_are_those_that_a_split_makes(self) -> None:
        parts = [Atom(None, ONE * size) for size in (2, 3, 4)]
        split = regroup(self.axes(24), [atom.size for atom in parts])
        assert split is not None
        assert fresh(0, parts) == tuple(atom for axis in split for atom in axis)


def test_a_quotient_is_exact_or_none() -> None:
    n = Polynomial.of("n")
    assert exactly(n * 6, n * 2) == 3
    assert exactly(n * 6, n * 4) is None
    assert exactly(n + 1, n) is None
    assert exactly(n, ONE * 0) is None


def test_sizes_multiply() -> None:
    assert size_of([]) == 1
    assert size_of([Atom(0, Polynomial.of("n")), Atom(None, ONE * 4)]) == Polynomial.of("n") * 4


def test_the_sizes_of_random_chains_are_as_many_as_there_are() -> None:
    """The chains cover what they are for: each op, names as well as numbers, repeats."""
    ops = {node.op_type for chain in CHAINS for node in chain.model.graph}
    assert {"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Tile", "Flatten", "Mul", "Div"} <= ops
    assert any(isinstance(dim, ir.SymbolicDim) for chain in CHAINS for dim in chain.model.graph.inputs[0].shape or ())
    assert all(prod(value.shape) <= prod(SIZES.values()) * 10**4 for chain in CHAINS for value in chain.values.values())
