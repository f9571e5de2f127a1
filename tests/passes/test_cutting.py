"""`cut`: places of axes taken out of weights, attributes and told numbers, and nothing else changed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from tersor.ir.axes import Dependencies, Group, dependencies
from tersor.ir.constants import integers_of, tensor_of
from tersor.ir.level import Level, violations
from tersor.ir.text import graph, lines
from tersor.passes.cutting import cut

RNG = np.random.default_rng(0)


def weight(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def model(*text: str, x: str = "float[n, 5]", **weights: object) -> ir.Model:
    return graph(*text, inputs={"x": x}, outputs=["y"], **weights)


def group_of(found: Dependencies, size: int) -> Group:
    return next(group for group in found.groups if group.size == size and group.free)


def keep(made: ir.Model, size: int, *places: int) -> ir.Model:
    """The model with these places of its free group of this size."""
    found = dependencies(made)
    mask = np.zeros(size, np.bool_)
    mask[list(places)] = True
    cut(found, {group_of(found, size).axis: mask})
    assert violations(made, Level.IMPORTED) == []
    return made


def told(made: ir.Model, op: str, index: int) -> list[list[int] | None]:
    """What each node of an op is told at an input."""
    return [integers_of(node.inputs[index]) for node in made.graph if node.op_type == op]


class TestWeights:
    def test_places_stay_in_order_and_shapes_follow(self) -> None:
        w, v = weight(5, 8), weight(8, 3)
        made = keep(model("a = MatMul(x, w)", "b = Relu(a)", "y = MatMul(b, v)", w=w, v=v), 8, 6, 1)
        np.testing.assert_array_equal(tensor_of(made.graph.initializers["w"]), w[:, [1, 6]])
        np.testing.assert_array_equal(tensor_of(made.graph.initializers["v"]), v[[1, 6]])
        assert [str(node.outputs[0].shape) for node in made.graph] == ["[n,2]", "[n,2]", "[n,3]"]
        assert str(made.graph.initializers["w"].shape) == "[5,2]"

    def test_types_are_kept(self) -> None:
        numbers = ir.tensor(RNG.integers(-8, 8, (5, 8)).astype(np.int8), dtype=ir.DataType.INT4, name="w")
        made = model("d = DequantizeLinear{axis=1}(w, s)", "a = MatMul(x, d)", "y = MatMul(a, v)",
                     w=weight(5, 8), s=np.abs(weight(8)), v=weight(8, 3))  # fmt: skip
        made.graph.initializers["w"].const_value = numbers
        keep(made, 8, 0, 3, 5)
        left = tensor_of(made.graph.initializers["w"])
        assert left is not None
        assert (left.dtype, left.shape) == (ir.DataType.INT4, ir.Shape([5, 3]))
        np.testing.assert_array_equal(left.numpy(), numbers.numpy()[:, [0, 3, 5]])

    def test_a_constant_node_is_a_weight_too(self) -> None:
        made = model(
            "a = MatMul(x, w)", "b = Add(a, c)", "y = MatMul(b, v)", w=weight(5, 8), c=weight(8), v=weight(8, 3)
        )
        bias = made.graph.initializers.pop("c")
        constant = ir.node("Constant", [], {"value": bias.const_value})
        made.graph.insert_before(made.graph[0], constant)
        bias.replace_all_uses_with(constant.outputs[0])
        constant.outputs[0].name, constant.outputs[0].shape = "c", bias.shape
        keep(made, 8, 2, 4)
        left = tensor_of(constant.outputs[0])
        assert left is not None
        assert left.shape == [2]

    def test_a_square_weight_loses_rows_and_columns(self) -> None:
        w = weight(8, 8)
        made = keep(model("a = MatMul(x, u)", "b = MatMul(a, w)", "c = Add(a, b)", "y = MatMul(c, v)",
                          u=weight(5, 8), w=w, v=weight(8, 3)), 8, 0, 7)  # fmt: skip
        np.testing.assert_array_equal(tensor_of(made.graph.initializers["w"]), w[np.ix_([0, 7], [0, 7])])


class TestRefusals:
    def test_a_mask_of_another_length(self) -> None:
        found = dependencies(model("a = MatMul(x, w)", "y = MatMul(a, v)", w=weight(5, 8), v=weight(8, 3)))
        with pytest.raises(ValueError, match=r"expected a mask of 8 places, found one of shape \[7\]"):
            cut(found, {group_of(found, 8).axis: np.ones(7, np.bool_)})

    def test_a_mask_that_keeps_nothing(self) -> None:
        made = model("a = MatMul(x, w)", "y = MatMul(a, v)", w=weight(5, 8), v=weight(8, 3))
        found, before = dependencies(made), lines(made)
        with pytest.raises(ValueError, match="nothing of an axis would be kept"):
            cut(found, {group_of(found, 8).axis: np.zeros(8, np.bool_)})
        assert lines(made) == before

    def test_all_places_change_nothing(self) -> None:
        made = model("a = MatMul(x, w)", "y = MatMul(a, v)", w=weight(5, 8), v=weight(8, 3))
        found, tensor = dependencies(made), made.graph.initializers["w"].const_value
        cut(found, {group_of(found, 8).axis: np.ones(8, np.bool_)})
        assert made.graph.initializers["w"].const_value is tensor


class TestToldNumbers:
    def test_reshape_follows_and_its_constant_stays_for_others(self) -> None:
        made = model(
            "a = MatMul(x, w)", "b = Reshape(a, s)", "c = ReduceSum{keepdims=0}(b, [1])", "p = MatMul(c, v)",
            "d = MatMul(x, u)", "e = Reshape(d, s)", "f = ReduceMax{keepdims=0}(e, [1])", "q = MatMul(f, v2)",
            "y = Add(p, q)",
            w=weight(5, 8), v=weight(2, 3), u=weight(5, 8), v2=weight(2, 3), s=np.array([-1, 4, 2]),
        )  # fmt: skip
        keep(made, 4, 1, 2, 3)
        assert told(made, "Reshape", 1) == [[-1, 3, 2], [-1, 4, 2]]

    def test_zero_and_minus_one_stay_what_they_are(self) -> None:
        made = model("a = MatMul(x, w)", "b = Reshape(a, [0, 0])", "c = Reshape(b, [-1, 8])", "d = Reshape(c, [3, -1])",
                     "y = MatMul(d, v)", x="float[3, 5]", w=weight(5, 8), v=weight(8, 3))  # fmt: skip
        keep(made, 8, 1, 2)
        assert told(made, "Reshape", 1) == [[0, 0], [-1, 2], [3, -1]]

    def test_zero_becomes_a_number_where_the_input_is_another(self) -> None:
        made = model("a = MatMul(x, w)", "b = Reshape(a, [0, 0, 4])", "c = ReduceSum{keepdims=0}(b, [1])",
                     "y = MatMul(c, v)", x="float[3, 8, 5]", w=weight(5, 4), v=weight(4, 3))  # fmt: skip
        keep(made, 4, 0)
        assert told(made, "Reshape", 1) == [[0, 0, 1]]

    def test_a_piece_of_a_concat_follows(self) -> None:
        made = model(
            "a = MatMul(x, w)", "s = Shape{end=1}(x)", "t = Concat{axis=0}(s, [4], [2])", "b = Reshape(a, t)",
            "c = ReduceSum{keepdims=0}(b, [2])", "y = MatMul(c, v)", w=weight(5, 8), v=weight(4, 3),
        )  # fmt: skip
        keep(made, 4, 0, 2, 3)
        joined = next(node for node in made.graph if node.op_type == "Reshape").inputs[1]
        assert joined is not None
        node = joined.producer()
        assert node is not None
        assert [integers_of(value) for value in node.inputs] == [None, [3], [2]]

    def test_split_without_sizes_is_given_some(self) -> None:
        made = model(
            "a = MatMul(x, w)", "b, c = Split{axis=-1, num_outputs=2}(a)", "p = MatMul(b, v)", "q = MatMul(c, u)",
            "y = Add(p, q)",
            w=weight(5, 10), v=weight(5, 3), u=weight(5, 3),
        )  # fmt: skip
        found = dependencies(made)
        first = found.axes[made.graph[1].outputs[0]][1]
        cut(found, {first: np.array([True, False, True, False, False])})
        (split,) = (node for node in made.graph if node.op_type == "Split")
        assert integers_of(split.inputs[1]) == [2, 5]
        assert "num_outputs" not in split.attributes

    def test_slices_of_both_halves_move(self) -> None:
        made = model(
            "a = MatMul(x, w)", "b = Slice(a, [0], [6], [-1])", "c = Slice(a, [-4], [99], [-1])",
            "p = MatMul(b, v)", "q = MatMul(c, u)", "y = Add(p, q)", w=weight(5, 10), v=weight(6, 3), u=weight(4, 3),
        )  # fmt: skip
        keep(made, 6, 0, 5)
        assert told(made, "Slice", 1) == [[0], [2]]
        assert told(made, "Slice", 2) == [[2], [6]]

    def test_expand_follows_by_the_last_axes(self) -> None:
        made = model("a = MatMul(x, w)", "b = Expand(a, [8])", "y = MatMul(b, v)", w=weight(5, 8), v=weight(8, 3))
        assert told(keep(made, 8, 3, 4), "Expand", 1) == [[2]]

    def test_resize_follows(self) -> None:
        made = model("a = Conv(x, w)", 'b = Resize{mode="nearest"}(a, _, _, [2, 8, 4, 4])', "y = Conv(b, v)",
                     x="float[2, 3, 2, 2]",
                     w=weight(8, 3, 1, 1), v=weight(2, 8, 1, 1))  # fmt: skip
        assert told(keep(made, 8, 3, 4, 5), "Resize", 3) == [[2, 3, 4, 4]]


class TestCounts:
    def test_heads_and_the_scale_of_their_size(self) -> None:
        def made() -> ir.Model:
            return model(
                "q = MatMul(x, w)", "k = MatMul(x, u)", "v = MatMul(x, t)",
                "o = Attention{q_num_heads=6, kv_num_heads=3}(q, k, v)", "y = MatMul(o, z)", x="float[2, n, 5]",
                w=weight(5, 24), u=weight(5, 12), t=weight(5, 12), z=weight(24, 3),
            )  # fmt: skip

        fewer = keep(made(), 3, 0, 2).graph[3].attributes
        assert (fewer["q_num_heads"].as_int(), fewer["kv_num_heads"].as_int(), "scale" in fewer) == (4, 2, False)
        whole = made()
        found = dependencies(whole)
        size = found.axes[whole.graph[0].outputs[0]][2].parts[-1]
        cut(found, {size: np.array([True, False, False, True])})
        attributes = whole.graph[3].attributes
        assert (attributes["q_num_heads"].as_int(), attributes["scale"].as_float()) == (6, 0.5)

    def test_units_of_a_recurrence(self) -> None:
        made = model("a, h = GRU{hidden_size=6}(x, w, r)", "b = Squeeze(a, [1])", "y = MatMul(b, v)",
                     x="float[n, 2, 5]",
                     w=weight(1, 18, 5), r=weight(1, 18, 6), v=weight(6, 3))  # fmt: skip
        node = keep(made, 6, 0, 1, 5).graph[0]
        assert node.attributes["hidden_size"].as_int() == 3
        assert [str(value.shape) for value in node.inputs[1:3] if value is not None] == ["[1,9,5]", "[1,9,3]"]

    def test_groups_of_channels(self) -> None:
        made = model("a = Conv(x, w)", "b = Conv{group=8}(a, u)", "c = GroupNormalization{num_groups=8}(b, g, h)",
                     "y = Conv(c, v)",
                     x="float[n, 3, 4, 4]", w=weight(8, 3, 1, 1), u=weight(8, 1, 3, 3), g=weight(8), h=weight(8),
                     v=weight(2, 8, 1, 1))  # fmt: skip
        keep(made, 8, 1, 2, 3)
        assert made.graph[1].attributes["group"].as_int() == 3
        assert made.graph[2].attributes["num_groups"].as_int() == 3
