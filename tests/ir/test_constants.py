"""What counts as a constant, and what reading one touches."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.ir.constants import constant_of, integers_of, is_constant, scalar_of, tensor_of
from tersor.ir.text import graph


def unreadable(shape: tuple[int, ...]) -> ir.Value:
    """A constant whose bytes nobody may ask for."""

    def refuse() -> ir.Tensor:
        raise AssertionError("the bytes were read")

    tensor = ir.LazyTensor(refuse, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name="w")
    return ir.Value(name="w", shape=ir.Shape(shape), const_value=tensor)


def test_an_initializer_and_a_constant_node() -> None:
    model = graph("y = Add(x, c)", c=2.5)
    node = ir.node("Constant", [], {"value": ir.tensor(np.float32(2.5))})
    for value in (model.graph.initializers["c"], node.outputs[0]):
        assert is_constant(value)
        assert scalar_of(value) == 2.5


def test_what_is_computed_or_may_be_overridden_is_none() -> None:
    model = graph("y = Add(x, c)", c=2.5)
    overridable = model.graph.initializers["c"]
    model.graph.inputs.append(overridable)
    for value in (None, model.graph.inputs[0], model.graph.node(0).outputs[0], overridable):
        assert tensor_of(value) is None
        assert not is_constant(value)
        assert constant_of(value) is None
        assert scalar_of(value) is None
        assert integers_of(value) is None


def test_asking_reads_no_bytes() -> None:
    value = unreadable((3, 4))
    assert is_constant(value)
    assert scalar_of(value) is None
    assert integers_of(value) is None
    with pytest.raises(AssertionError, match="were read"):
        constant_of(value)


@pytest.mark.parametrize(
    ("array", "found"),
    [(np.array([3, -1]), [3, -1]), (np.array(7, np.int32), [7]), (np.array([1.0]), None), (np.array([[1]]), None)],
)
def test_integers(array: np.ndarray, found: list[int] | None) -> None:
    assert integers_of(graph("y = Add(x, c)", c=array).graph.initializers["c"]) == found
