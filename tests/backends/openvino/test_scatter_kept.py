from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from tersor.backends.openvino.scatter_kept import ScatterKept
from tersor.ir.runner import runner
from tersor.ir.text import format_model
from tersor.passes.base import Context
from tersor.tests.passes.weights.emitted import model_of
from tersor.tests.passes.weights.test_masked import CASES
from tersor.tests.support import misses

pytest.importorskip("openvino")


@pytest.mark.parametrize("name", CASES)
def test_the_same_weight(name: str) -> None:
    weight = CASES[name]
    model = model_of(weight)
    assert ScatterKept().apply(model, Context()).matches == 1
    assert "Unmask" not in format_model(model)
    np.testing.assert_array_equal(runner(model)({})["y"], weight.dense())


def test_it_scatters_what_is_kept_to_what_is_not_zero() -> None:
    model = model_of(CASES["half"])
    ScatterKept().apply(model, Context())
    assert [node.op_type for node in model.graph][-9:] == [
        "UnpackBits",
        "Reshape",
        "Cast",
        "NonZero",
        "Transpose",
        "Shape",
        "ConstantOfShape",
        "ScatterND",
        "Reshape",
    ]
    (kept,) = (value for name, value in model.graph.initializers.items() if name.startswith("w_kept"))
    assert kept.shape == ir.Shape([len(CASES["half"].values)])


def test_kept_numbers_that_are_computed_are_left_alone() -> None:
    model = model_of(CASES["half"])
    (node,) = (node for node in model.graph if node.op_type == "Unmask")
    given = ir.Value(name="k", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"]))
    model.graph.inputs.append(given)
    node.replace_input_with(0, given)
    assert [miss.rule for miss in misses(ScatterKept(), model)] == ["kept"]
