"""The fewest reshapes and transposes for a rearrangement, held against numpy."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.arrangement import Arrangement, Kept, Target, arrange, spelled
from tersor.ir.atoms import ONE, Atom, Axis, regroup, size_of
from tersor.ir.layout import views, whole
from tersor.ir.polynomial import Polynomial
from tersor.ir.runner import runner
from tersor.ir.text import graph, lines
from tersor.passes.arrange import arranged
from tersor.passes.edit import Tape, replace
from tersor.tests.ir.chains import ALL_SIZES, CHAINS, SIZES, Chain, elements
from tersor.tests.support import on_onnxruntime

Sizes = tuple[int | str, ...]


def polynomial(size: int | str) -> Polynomial:
    return Polynomial.of(size) if isinstance(size, int) else Polynomial.parse(size)


def emit(x: str, plan: Arrangement) -> ir.Model:
    """`plan`, made for the input of another model of the same type, on an input of its own."""
    model = graph("y = Relu(x)", inputs={"x": x})
    tape = Tape()
    made = arranged(tape, Arrangement(model.graph.inputs[0], plan.steps))
    replace(tape, [model.graph.outputs[0]], [made if tape.nodes else tape("Identity", made)])
    return model


def planned(x: str, *wanted: tuple[tuple[int, str | int, str | int], ...]) -> Arrangement | None:
    """What brings `x` to axes made of atoms (axis, size, stride)."""
    model = graph("y = Relu(x)", inputs={"x": x})
    value = model.graph.inputs[0]
    axes = whole(value)
    assert axes is not None
    atoms = [[Atom(axis, polynomial(size), polynomial(stride)) for axis, size, stride in group] for group in wanted]
    return arrange(value, axes, atoms)


def ops(plan: Arrangement | None) -> list[object]:
    assert plan is not None
    return [step.target if step.target is not None else step.perm for step in plan.steps]


B, S = (0, "batch", 1), (1, "sequence", 1)
HEADS, SIZE = (2, 12, 64), (2, 64, 1)
HIDDEN = "float[batch, sequence, 768]"


class TestPlans:
    def test_nothing_to_do(self) -> None:
        assert ops(planned(HIDDEN, (B,), (S,), ((2, 768, 1),))) == []

    def test_heads_are_split_with_two_steps(self) -> None:
        plan = planned(HIDDEN, (B,), (HEADS,), (S,), (SIZE,))
        assert ops(plan) == [(0, 0, 12, 64), (0, 2, 1, 3)]
        assert plan is not None
        assert [step.dims for step in plan.steps] == [
            ("batch", "sequence", 12, 64),
            ("batch", 12, "sequence", 64),
        ]

    def test_heads_are_joined_with_two_steps(self) -> None:
        plan = planned(
            "float[batch, 12, sequence, 64]",
            (B,), ((2, "sequence", 1),), ((1, 12, 1), (3, 64, 1)),
        )  # fmt: skip
        assert ops(plan) == [(0, 2, 1, 3), (0, 0, 768)]

    def test_whole_axes_are_transposed_alone(self) -> None:
        assert ops(planned("float[2, 3, 1, n]", ((3, "n", 1),), (), ((0, 2, 1),), ((1, 3, 1),))) == [(3, 2, 0, 1)]

    def test_axes_of_size_one_are_moved_by_a_reshape(self) -> None:
        assert ops(planned("float[2, 1, n]", ((0, 2, 1),), ((2, "n", 1),), ())) == [(2, -1, 1)]

    def test_axes_of_size_one_cost_no_third_step(self) -> None:
        assert len(ops(planned("float[a, b]", ((1, "b", 1),), (), ((0, "a", 1),)))) == 2
        assert len(ops(planned("float[a, 1, b]", ((2, "b", 1),), ((0, "a", 1),)))) == 2

    def test_what_stays_together_is_moved_as_one(self) -> None:
        """[a b, c] -> [c a, b]: the first axis is moved whole, then split."""
        plan = planned("float[12, 5]", ((1, 5, 1), (0, 3, 4)), ((0, 4, 1),))
        assert ops(plan) == [(1, 0), (15, 4)]

    def test_three_steps_where_both_ends_split(self) -> None:
        plan = planned("float[6, 4]", ((0, 2, 3), (1, 2, 2)), ((0, 3, 1), (1, 2, 1)))
        assert ops(plan) == [(2, 3, 2, 2), (0, 2, 1, 3), (4, 6)]

    def test_a_scalar(self) -> None:
        model = emit("float[1, 1]", planned("float[1, 1]") or pytest.fail("no plan"))
        (found,) = on_onnxruntime(model, {"x": np.full((1, 1), 3, np.float32)})
        assert found.shape == ()

    def test_dimensions_from_other_places(self) -> None:
        """[6, a, b] -> [6 a, b]: of two open dimensions one is read from the shape."""
        plan = planned("float[6, a, b]", ((0, 6, 1), (1, "a", 1)), ((2, "b", 1),))
        assert ops(plan) == [(-1, Kept(2))]
        assert plan is not None
        model = emit("float[6, a, b]", plan)
        assert lines(model) == [
            "y/Shape = Shape{end=3, start=2}(x)",
            "y/Concat = Concat{axis=0}(y/shape, y/Shape)",
            "y = Reshape(x, y/Concat)",
        ]
        x = np.arange(6 * 2 * 5, dtype=np.float32).reshape(6, 2, 5)
        np.testing.assert_array_equal(on_onnxruntime(model, {"x": x})[0], x.reshape(12, 5))

    def test_axes_of_size_one_come_and_go_where_a_target_would_be_computed(self) -> None:
        plan = planned("float[1, a, b, 4]", ((1, "a", 1),), ((2, "b", 1),), ((3, 4, 1),))
        assert plan is not None
        model = emit("float[1, a, b, 4]", plan)
        assert lines(model) == ["y = Squeeze(x, y/axes)"]
        x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
        np.testing.assert_array_equal(on_onnxruntime(model, {"x": x})[0], x[0])
        plan = planned("float[a, b, 4]", (), ((0, "a", 1),), (), ((1, "b", 1),), ((2, 4, 1),))
        assert plan is not None
        model = emit("float[a, b, 4]", plan)
        assert lines(model) == ["y = Unsqueeze(x, y/axes)"]
        np.testing.assert_array_equal(on_onnxruntime(model, {"x": x[0]})[0], x[:, :, None])

    def test_a_zero_harms_no_plan_where_there_is_another(self) -> None:
        """A mask `[:, None, None, :]` at batch 0, with an axis of size one moved, with all of them moved."""
        batch, sequence = ((0, "batch", 1),), ((1, "sequence", 1),)
        plans = [
            planned("float[batch, sequence]", batch, (), (), sequence),
            planned("float[batch, 1, 1, sequence]", batch, (), ((3, "sequence", 1),), ()),
            planned("float[batch, 1, sequence]", (), batch, ((2, "sequence", 1),), ()),
        ]
        found = [[(step.unsqueezed, step.perm, step.squeezed) for step in plan.steps] for plan in plans if plan]
        assert found == [[((1, 2), None, ())], [((), (0, 1, 3, 2), ())], [((), None, (1,)), ((0, 3), None, ())]]

    def test_what_a_zero_harms_is_the_last_resort(self) -> None:
        x = ir.val("x", ir.DataType.FLOAT, ["4*batch", "sequence"])
        axes = whole(x)
        assert axes is not None
        split = regroup(
            [atom for axis in axes for atom in axis], [polynomial(size) for size in ("batch", 4, "sequence")]
        )
        assert split is not None
        assert ops(arrange(x, axes, split)) == [(-1, 4, Kept(1))]
        assert arrange(x, axes, split, positive=frozenset({"batch"})) is None
        assert ops(arrange(x, axes, split, positive=frozenset({"sequence"}))) == [(-1, 4, Kept(1))]

    def test_repeats_are_left_out_of_what_is_wanted(self) -> None:
        model = graph("y = Relu(x)", inputs={"x": "float[2, 3]"})
        value = model.graph.inputs[0]
        axes = whole(value)
        assert axes is not None
        plan = arrange(value, axes, [axes[1], (Atom(None, ONE * 7),), axes[0]])
        assert ops(plan) == [(1, 0), (3, 1, 2)]


@pytest.mark.parametrize(
    ("x", "wanted"),
    [
        ("float[2, 3]", [((0, 2, 1),)]),
        ("float[2, 3]", [((0, 2, 1),), ((1, 3, 1),), ((2, 5, 1),)]),
        ("float[2, 3]", [((0, 2, 1),), ((1, 3, 1),), ((1, 3, 1),)]),
        ("float[2, 6]", [((0, 2, 1),), ((1, 4, 1),)]),
        ("float[2, 6]", [((0, 2, 1),), ((1, 2, 1),), ((1, 3, 1),)]),
        ("float[a, 6, b]", [((0, "a", 1), (1, 2, 3)), ((1, 3, 1), (2, "b", 1))]),
        ("float[0, 6]", [((0, 0, 1), (1, 2, 3)), ((1, 3, 1),)]),
    ],
    ids=["missing", "left over", "twice", "undivided", "overlapping", "two open", "zero size"],
)
def test_refused(x: str, wanted: list[tuple[tuple[int, str | int, str | int], ...]]) -> None:
    assert planned(x, *wanted) is None


def test_a_value_that_repeats_its_root_is_refused() -> None:
    value = graph("y = Relu(x)", inputs={"x": "float[2, 3]"}).graph.inputs[0]
    axes: list[Axis] = [(Atom(None, ONE * 2),), (Atom(1, ONE * 3),)]
    assert arrange(value, axes, axes[::-1]) is None


@pytest.mark.parametrize(
    ("sizes", "have", "expected"),
    [
        ((6,), (2, 3), (6,)),
        (("n", 3), ("n", 3), (0, 3)),
        (("n", 6), ("n", 2, 3), (0, 6)),
        ((3, "n"), ("n", 3), (3, -1)),
        (("m", "n"), ("n", "m"), (-1, Kept(0))),
        (("2*n", "m"), ("n", 2, "m"), (-1, Kept(2))),
        (("2*n", "3*m"), ("n", 2, "m", 3), None),
        ((0, 3), (0, 3), None),
        ((), (1,), ()),
    ],
)
def test_spelled(sizes: Sizes, have: Sizes, expected: Target | None) -> None:
    found = spelled([polynomial(size) for size in sizes], [polynomial(size) for size in have])
    assert found == expected


@pytest.mark.parametrize("chain", [chain for chain in CHAINS if not chain.repeats], ids=str)
def test_a_chain_in_at_most_three_steps_is_what_numpy_computes(chain: Chain) -> None:
    *_, view = views(chain.model.graph.outputs[0], scalars=True)
    root = whole(view.root)
    assert root is not None
    plan = arrange(view.root, root, view.axes, positive=view.positive)
    if plan is None:  # sizes that only arithmetic gives, or that a zero would harm
        return
    assert len(plan.steps) <= min(3, len(chain.lines))
    run = runner(emit(typed(view.root), plan))
    for sizes in (SIZES, *ALL_SIZES):
        values = chain.at(sizes)
        if values is not None:
            (found,) = run({"x": values["x"]}).values()
            np.testing.assert_allclose(found * view.scale, values[chain.name], rtol=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_any_shuffle_of_parts_is_what_numpy_computes(seed: int) -> None:
    """Parts of three axes in any order, grouped in any way."""
    rng = np.random.default_rng(seed)
    sizes = [[[2, 3], ["batch"]], [["sequence"], [4]], [[2, 2, 3], [5]]]
    parts = [group[rng.integers(2)] for group in sizes]
    dims = ["*".join(map(str, group)) if isinstance(group[0], str) else prod(group) for group in parts]  # type: ignore[type-var]
    x = f"float[{', '.join(map(str, dims))}]"
    value = graph("y = Relu(x)", inputs={"x": x}).graph.inputs[0]
    axes = whole(value)
    assert axes is not None
    split = regroup([atom for axis in axes for atom in axis], [polynomial(part) for group in parts for part in group])
    assert split is not None
    atoms = [atom for axis in split for atom in axis]
    order = [atoms[index] for index in rng.permutation(len(atoms))]
    wanted: list[list[Atom]] = [[]]
    for atom in order:
        if rng.integers(2):
            wanted.append([])
        wanted[-1].append(atom)
    plan = arrange(value, axes, wanted)
    shape = [int(size_of(axis).at(SIZES)) for axis in axes]
    data = np.arange(prod(shape), dtype=np.float32).reshape(shape)
    places, expected = elements([tuple(axis) for axis in wanted], shape)
    if plan is None:
        assert sum(size_of(axis).constant is None for axis in wanted) > 1
        return
    (found,) = on_onnxruntime(emit(x, plan), {"x": data})
    np.testing.assert_array_equal(found, data.reshape(-1)[places].reshape(expected))


def typed(value: ir.Value) -> str:
    return f"float[{', '.join(map(str, value.shape or ()))}]"
