"""What a report counts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from tersor.ir.text import graph
from tersor.passes.report import Size


def test_a_shared_tensor_is_counted_once() -> None:
    model = graph("a = MatMul(x, w)", "y = MatMul(a, w)", inputs={"x": "float[4, 4]"}, w=np.ones((4, 4), np.float32))
    assert Size.of(model) == Size(nodes=2, bytes=64)


def test_the_values_of_constant_nodes_count_too() -> None:
    model = graph("y = Relu(x)", inputs={"x": "float[4]"})
    constant = ir.node("Constant", [], {"value": ir.tensor(np.ones(8, np.float32), name="c")})
    model.graph.insert_before(model.graph[0], constant)
    assert Size.of(model) == Size(nodes=2, bytes=32)
